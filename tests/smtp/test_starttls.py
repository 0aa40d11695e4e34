"""STARTTLS in both cores: when it is said, what it forgets, and what may not stand behind it."""

from __future__ import annotations

import pytest

from engine.errors import RemoteProtocolError
from engine.smtp.client import ClientConnection, Insecure, Ready, Refused, Stage, StartTls
from engine.smtp.server import Phase
from tests.smtp.postbox import Client

OFFER = b"250-mx.example\r\n250-STARTTLS\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"
NO_OFFER = b"250-mx.example\r\n250 PIPELINING\r\n"


def client(tls: str, ehlo: bytes = OFFER) -> ClientConnection:
    """One that has said EHLO and was answered *ehlo*."""
    core = ClientConnection("us.example", tls=tls)
    core.receive(b"220 mx.example\r\n")
    assert core.to_send() == b"EHLO us.example\r\n"
    core.receive(ehlo)
    return core


@pytest.mark.parametrize(("tls", "ehlo"), [("off", OFFER), ("off", NO_OFFER), ("may", NO_OFFER)])
def test_it_is_not_said_where_it_is_not_wanted_or_not_offered(tls: str, ehlo: bytes) -> None:
    core = client(tls, ehlo)
    assert core.to_send() == b"" and core.stage is Stage.IDLE


@pytest.mark.parametrize("tls", ["may", "must"])
def test_what_the_peer_said_before_is_forgotten(tls: str) -> None:
    core = client(tls)
    assert core.to_send() == b"STARTTLS\r\n" and core.stage is Stage.STARTTLS
    assert core.receive(b"220-ready\r\n220 go\r\n") == [StartTls()]
    assert core.stage is Stage.TLS
    core.secured()
    assert core.to_send() == b"EHLO us.example\r\n" and core.extensions == {}
    (ready,) = core.receive(b"250-mx.example\r\n250-STARTTLS\r\n250 8BITMIME\r\n")
    assert isinstance(ready, Ready) and dict(ready.extensions) == {"STARTTLS": "", "8BITMIME": ""}
    assert core.stage is Stage.IDLE and core.secure and core.to_send() == b""


@pytest.mark.parametrize("behind", [b"2", b"\r\n", b"250 evil.example\r\n", b"\x16\x03\x01"])
def test_what_stands_behind_220_ends_the_session(behind: bytes) -> None:
    answer = b"220 ready\r\n" + behind
    for cut in range(1, len(answer) - len(behind)):
        core = client("may")
        assert core.receive(answer[:cut]) == []
        with pytest.raises(RemoteProtocolError, match="plaintext behind the reply to STARTTLS"):
            core.receive(answer[cut:])
        assert core.stage is Stage.STARTTLS


def test_optional_tls_that_is_refused_goes_on_without() -> None:
    core = client("may")
    (ready,) = core.receive(b"454 4.7.0 not now\r\n")
    assert isinstance(ready, Ready) and "SIZE" in ready.extensions
    assert core.stage is Stage.IDLE and not core.secure


def test_demanded_tls_that_is_refused_or_not_offered_takes_no_transaction() -> None:
    core = client("must")
    (insecure,) = core.receive(b"502 5.5.1 no\r\n")
    assert isinstance(insecure, Insecure) and insecure.reply is not None and insecure.reply.code == 502
    assert core.stage is Stage.CLOSED
    core = ClientConnection("us.example", tls="must")
    core.receive(b"220 mx.example\r\n")
    assert core.receive(NO_OFFER) == [Insecure(None)]
    core = ClientConnection("us.example", tls="must")
    core.receive(b"220 mx.example\r\n")
    core.receive(b"502 5.5.1 EHLO?\r\n")
    assert core.receive(b"250 mx.example\r\n") == [Insecure(None)]  # HELO has no extensions


def test_421_to_starttls_is_a_421() -> None:
    core = client("must")
    (refused,) = core.receive(b"421 4.3.2 closing\r\n")
    assert isinstance(refused, Refused) and refused.stage is Stage.STARTTLS


@pytest.mark.usefixtures("loops")
def test_the_server_forgets_too() -> None:
    peer = Client(starttls=True)
    assert b"250 STARTTLS\r\n" in peer.exchange(b"EHLO a.example\r\n")
    assert peer.exchange(b"MAIL FROM:<a@example.com>\r\n").startswith(b"250 ")
    assert peer.exchange(b"STARTTLS\r\n").startswith(b"220 ")
    assert peer.core.phase is Phase.STARTTLS
    peer.core.secured(peer.postbox.limits)
    assert peer.exchange(b"MAIL FROM:<a@example.com>\r\n").startswith(b"503 ")
    assert b"STARTTLS" not in peer.exchange(b"EHLO a.example\r\n")
    assert peer.exchange(b"MAIL FROM:<a@example.com>\r\n").startswith(b"250 ")
    assert peer.exchange(b"STARTTLS\r\n").startswith(b"503 5.5.1")


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("behind", [b"N", b"NOOP\r\n", b"EHLO a.example\r\nMAIL FROM:<a@example.com>\r\n"])
def test_what_a_client_says_behind_starttls_ends_the_session(behind: bytes) -> None:
    peer = Client(starttls=True)
    peer.exchange(b"EHLO a.example\r\n")
    assert peer.exchange(b"NOOP\r\nSTARTTLS\r\n" + behind) == b"250 2.0.0 Ok\r\n521 5.5.1 Nothing may follow STARTTLS before the TLS handshake\r\n"
    assert peer.core.closing
    assert peer.exchange(b"QUIT\r\n") == b""
