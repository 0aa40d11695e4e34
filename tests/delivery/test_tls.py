"""TLS out, against sinks that misbehave: what comes of a connection that is opened along a route, and what is remembered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from engine.clock import monotonic_s
from engine.config.model import DomainSettings
from engine.config.tls import PemFile, ServerTls
from engine.delivery import connection as connection_module
from engine.delivery import encryption as encryption_module
from engine.delivery.attempt import Failed, Opener
from engine.delivery.connection import Connection
from engine.delivery.encryption import Encryption
from engine.delivery.pool import IdlePool, Route
from engine.delivery.sources import Source
from engine.dns import Target, Targets
from engine.scheduler.queue import Queue
from engine.scheduler.reachability import Reachability
from engine.stream import Streams
from engine.tls.context import server_context as listening_context
from engine.tls.files import Files, publish
from engine.tls.pump import Pump
from tests.certificates import Authority, server_context
from tests.sinks import Sink
from tests.sinks.secure import READY, Secure
from tests.sinks.session import Hangup

AUTHORITY = Authority()
US = AUTHORITY.issue("us.example")
FILES = Files.of({"/ca.pem": AUTHORITY.pem, "/us.pem": US})
HOST = "mx.example.org"


class Log:
    """What was logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, kind: str, text: str) -> None:
        self.events.append((kind, text))

    def of(self, kind: str) -> list[str]:
        return [text for each, text in self.events if each == kind]


class World:
    """An Opener, and the part of a slot that it needs."""

    def __init__(self, port: int, encryption: Encryption, **settings: Any) -> None:
        self.log = Log()
        self.settings = DomainSettings(**settings)
        self.live: list[Connection] = []
        target = Target(HOST, "127.0.0.1", port, 0)
        destinations = SimpleNamespace(
            of=self._of(Targets((target,), 60.0)), binding=lambda ip: ip, tls=lambda queue: queue.settings.tls, known=lambda *_: None
        )
        self.queue = Queue(1, "d1.example/v", self.settings)
        self.streams = Streams(asyncio.get_running_loop())
        self.opener = Opener(cast(Any, self), self.streams, cast(Any, destinations), IdlePool(), Reachability(), cast(Any, self.log), encryption)

    @staticmethod
    def _of(found: Targets) -> Any:
        async def of(*_: object) -> Targets:
            return found

        return of

    def watch(self, connection: Connection) -> None:
        self.live.append(connection)

    def unwatch(self, connection: Connection) -> None:
        if connection in self.live:
            self.live.remove(connection)

    def opened(self, connection: Connection) -> None:
        pass

    idle = closed = opened

    async def open(self) -> Connection | Failed:
        """One connection, with a slot's regular look at it."""
        opening = asyncio.ensure_future(self.opener.open_for(self.queue, Source("", "us.example")))
        while not opening.done():
            for connection in list(self.live):
                connection.check(monotonic_s())
            await asyncio.wait([opening], timeout=0.01)
        return cast(Any, opening.result())

    def end(self) -> None:
        for connection in list(self.live):
            connection.abort("the test is over")
        self.streams.close()


def run(sink: Sink, encryption: Encryption, *, times: int = 1, **settings: Any) -> tuple[list[Connection | Failed], Log]:
    """What came of so many connections, one after the other."""

    async def go() -> tuple[list[Connection | Failed], Log]:
        world = World(sink.port, encryption, **settings)
        try:
            async with asyncio.timeout(30):
                found = []
                for _ in range(times):
                    found.append(await world.open())
                    for connection in list(world.live):
                        connection.quit()
                    while world.live:
                        await asyncio.sleep(0.005)
            return found, world.log
        finally:
            world.end()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(go())


@contextlib.contextmanager
def sink(behaviour: str, tmp_path: Path, issued: bytes | None = None, **options: Any) -> Iterator[Sink]:
    context = server_context(issued or AUTHORITY.issue(HOST), tmp_path)
    context.load_verify_locations(cadata=AUTHORITY.pem.decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    with Sink(behaviour, context=context, **options) as running:
        yield running


MUST = {"require_starttls": True}
VERIFIED = {**MUST, "smtp_tls_ca_file": "/ca.pem"}


@pytest.mark.parametrize("settings", [{}, MUST, VERIFIED], ids=["may", "must", "verified"])
def test_it_is_used_where_it_is_offered(tmp_path: Path, settings: dict[str, Any]) -> None:
    with sink("tls", tmp_path) as peer:
        (found,), log = run(peer, Encryption(FILES), log_tls=True, **settings)
        assert isinstance(found, Connection) and found.tls is not None and found.tls.protocol == "TLSv1.3"
        assert peer.connections[0].commands[:3] == ["EHLO us.example", "STARTTLS", "EHLO us.example"]
        assert "STARTTLS" not in found.esmtp
        assert peer.connections[0].client_certificate == b""
        assert "protocol=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 resumed=no" in log.of("tls")[0]


def test_it_is_not_used_where_it_is_switched_off(tmp_path: Path) -> None:
    with sink("tls", tmp_path) as peer:
        (found,), _ = run(peer, Encryption(FILES), use_starttls=False)
        assert isinstance(found, Connection) and found.tls is None
        assert "STARTTLS" not in peer.connections[0].commands


def test_our_certificate_is_shown(tmp_path: Path) -> None:
    with sink("tls", tmp_path) as peer:
        (found,), _ = run(peer, Encryption(FILES), smtp_client_certificate=PemFile("/us.pem"))
        assert isinstance(found, Connection)
        assert len(peer.connections[0].client_certificate) > 100


@pytest.mark.parametrize("behaviour", ["tls-closes", "tls-garbage", "tls-injects", "tls-closes-afterwards"])
def test_optional_tls_that_fails_is_done_without_and_that_is_remembered(tmp_path: Path, behaviour: str) -> None:
    with sink(behaviour, tmp_path) as peer:
        encryption = Encryption(FILES)
        found, log = run(peer, encryption, times=2)
        assert all(isinstance(each, Connection) and each.tls is None for each in found)
        peer.wait(lambda peer: len(peer.connections) == 3 and all(each.ended for each in peer.connections))
        assert [("STARTTLS" in each.commands) for each in peer.connections] == [True, False, False]
        assert len(log.of("tls-failed")) == 1


@pytest.mark.parametrize("behaviour", ["tls-silent", "tls-dribbles"])
def test_a_handshake_has_a_deadline(tmp_path: Path, behaviour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HANDSHAKE_S", 0.3)
    with sink(behaviour, tmp_path) as peer:
        (found,), log = run(peer, Encryption(FILES))
        assert isinstance(found, Connection) and found.tls is None
        assert "timed out waiting at TLS" in log.of("tls-failed")[0]


def test_failures_are_forgotten_after_a_while_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption_module, "FAILED_MOST", 3)
    encryption = Encryption(FILES)
    routes = [Route("", "us.example", f"mx{n}.example", "192.0.2.1", 25, tls=DomainSettings().tls) for n in range(5)]
    for route in routes:
        assert encryption.failed(route, 100.0)
    assert [encryption.mode(route, 101.0) for route in routes] == ["may", "may", "off", "off", "off"]
    assert [encryption.mode(route, 100.0 + encryption_module.REMEMBERED_S) for route in routes] == ["may"] * 5
    must = routes[4]._replace(tls=DomainSettings(require_starttls=True).tls)
    assert encryption.mode(must, 101.0) == "must"
    assert not encryption.failed(must, 100.0)


def test_refused_starttls_goes_on_in_the_clear_on_the_same_connection(tmp_path: Path) -> None:
    with sink("tls-refused", tmp_path) as peer:
        (found,), _ = run(peer, Encryption(FILES))
        assert isinstance(found, Connection) and found.tls is None
        assert len(peer.connections) == 1 and peer.connections[0].commands[:2] == ["EHLO us.example", "STARTTLS"]


@pytest.mark.parametrize(
    ("behaviour", "status", "why"),
    [
        ("accept-all", "4.7.4", "TLS is required (require-starttls), and the host does not offer STARTTLS"),
        ("ehlo-rejected", "4.7.4", "TLS is required (require-starttls), and the host does not offer STARTTLS"),
        ("tls-refused", "4.7.4", "and STARTTLS was answered 454 4.7.0 TLS not available"),
        ("tls-closes", "4.7.5", "and connection closed by the peer"),
        ("tls-garbage", "4.7.5", "and the TLS handshake failed: wrong version number"),
        ("tls-injects", "4.7.5", "and plaintext behind the reply to STARTTLS: b'220 2.0.0 ready to start TLS"),
        ("tls-closes-afterwards", "4.7.5", "and connection closed by the peer"),
    ],
)
def test_required_tls_that_cannot_be_had_sends_nothing_and_says_why(tmp_path: Path, behaviour: str, status: str, why: str) -> None:
    context = {"context": server_context(AUTHORITY.issue(HOST), tmp_path)} if behaviour.startswith("tls") else {}
    with Sink(behaviour, **context) as peer:
        found, _ = run(peer, Encryption(FILES), times=2, **MUST)
        for failed in found:
            assert isinstance(failed, Failed)
            assert failed.status == status and why in failed.why and failed.why.startswith(f"{HOST}[127.0.0.1]:{peer.port}: ")
        assert len(peer.connections) == 2
        assert not any(command.startswith("MAIL") for each in peer.connections for command in each.commands)


@pytest.mark.parametrize(
    ("issued", "why"),
    [
        (Authority().issue(HOST), "certificate verify failed"),
        (AUTHORITY.issue("other.example.org"), "Hostname mismatch"),
        (AUTHORITY.issue(HOST, days=-1), "certificate has expired"),
    ],
    ids=["unknown authority", "other name", "expired"],
)
def test_a_wrong_certificate(tmp_path: Path, issued: bytes, why: str) -> None:
    with sink("tls", tmp_path, issued) as peer:
        (failed,), _ = run(peer, Encryption(FILES), **VERIFIED)
        assert isinstance(failed, Failed) and failed.status == "4.7.5" and why in failed.why
        (found,), log = run(peer, Encryption(FILES), smtp_tls_ca_file="/ca.pem")
        assert isinstance(found, Connection) and found.tls is None  # as PowerMTA: optional TLS that fails verification falls back to plain text
        assert why in log.of("tls-failed")[0]
        (unverified,), _ = run(peer, Encryption(FILES), **MUST)
        assert isinstance(unverified, Connection) and unverified.tls is not None


def test_a_session_goes_on_where_that_is_wanted(tmp_path: Path) -> None:
    with sink("tls", tmp_path) as peer:
        run(peer, Encryption(FILES), times=3)
        assert [each.tls_resumed for each in peer.connections] == [False, True, True]
    with sink("tls", tmp_path) as peer:
        run(peer, Encryption(FILES), times=2, reuse_ssl_session=False)
        assert [each.tls_resumed for each in peer.connections] == [False, False]


class ChokesOnce(Secure):
    """Closes in the handshake of its second connection."""

    name = "tls-chokes-once"

    def starttls(self) -> None:
        if self.dialog.index == 1:
            self.write(READY)
            raise Hangup
        super().starttls()


def test_a_session_that_the_peer_chokes_on_is_not_tried_again(tmp_path: Path) -> None:
    with Sink(ChokesOnce, context=server_context(AUTHORITY.issue(HOST), tmp_path)) as peer:
        found, log = run(peer, Encryption(FILES), times=2)
        assert all(isinstance(each, Connection) and each.tls is not None for each in found)
        assert [(each.tls, each.tls_resumed) for each in peer.connections] == [("TLSv1.3", False), ("", False), ("TLSv1.3", False)]
        assert len(log.of("tls-failed")) == 1


def test_a_session_from_before_a_file_changed_is_not_taken_for_one_of_after() -> None:
    """A handshake that was under way when a certificate was read anew leaves its session with the context that made it."""
    with contextlib.closing(open(os.memfd_create("tls"), "wb", buffering=0)) as shared:
        publish(shared.fileno(), {"/ca.pem": AUTHORITY.pem})
        encryption = Encryption(Files(shared.fileno()))
        route = Route("", "us.example", HOST, "192.0.2.1", 25, tls=DomainSettings(**VERIFIED).tls)
        client = encryption.pump(route)
        publish(shared.fileno(), {"/ca.pem": AUTHORITY.pem + Authority().pem})
        assert len(encryption.refresh()) == 1
        shake(client, Pump(listening_context(ServerTls((PemFile("/mx.pem"),)), Files.of({"/mx.pem": AUTHORITY.issue(HOST)}))))
        assert client.session is not None
        encryption.established(route, client)
        encryption.pump(route)  # a whole handshake, and no error


def shake(client: Pump, server: Pump) -> None:
    client.begin()
    while up := client.to_send():
        server.receive(up)
        client.receive(server.to_send())


def test_versions(tmp_path: Path) -> None:
    with sink("tls", tmp_path) as peer:
        (found,), _ = run(peer, Encryption(FILES), smtp_tls_allow_tlsv1_3=False)
        assert isinstance(found, Connection) and found.tls is not None and found.tls.protocol == "TLSv1.2"




def test_nothing_is_pooled_across_policies() -> None:
    policies = [
        {},
        MUST,
        VERIFIED,
        {"use_starttls": False},
        {"smtp_client_certificate": PemFile("/us.pem")},
        {"smtp_tls_allow_tlsv1_2": False},
        {"smtp_tls_ciphers": "ECDHE+AESGCM"},
        {"reuse_ssl_session": False},
    ]
    routes = [Route("", "us.example", HOST, "192.0.2.1", 25, tls=DomainSettings(**settings).tls) for settings in policies]
    assert len(set(routes)) == len(policies)
    again = [Route("", "us.example", HOST, "192.0.2.1", 25, tls=DomainSettings(**settings).tls) for settings in policies]
    assert again == routes


def test_a_policy_shows_no_password() -> None:
    settings = DomainSettings(smtp_client_certificate=PemFile("/us.pem", "hush"))
    assert "hush" not in repr(settings) + str(settings.smtp_client_certificate) + repr(settings.tls.certificate)
