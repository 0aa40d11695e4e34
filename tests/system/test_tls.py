"""TLS in, as clients meet a whole engine: STARTTLS and TLS from the first byte, keys that only root may read, keys that change."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.certificates import Authority, client_context
from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, EngineDown, eventually

AUTHORITY = Authority()
CONF = """
listener-workers 2
smtp-listener 127.0.0.1:@port@
<smtp-listener 127.0.0.1:@port2@>
    immediate-tls yes
</smtp-listener>
smtp-server-tls-certificate {pem}
<source 127.0.0.1>
    always-allow-relaying yes
    allow-starttls yes
    log-tls yes
</source>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1h
</domain>
"""


def write_key(path: Path, pem: bytes) -> None:
    """A file that only its owner may read: root, where tests run as root, and the engine's workers then are not.  Replaced as a whole."""
    new = path.with_suffix(".new")
    new.write_bytes(pem)
    new.chmod(0o600)
    new.rename(path)


def send(client: smtplib.SMTP) -> None:
    mail = EmailMessage()
    mail["Subject"] = "tls"
    mail.set_content("hello\n")
    client.send_message(mail, "a@sender.example", ["b@d1.example"])


def processes(engine: Engine) -> list[int]:
    """The ids of all its processes."""
    return sorted(pid for pids in engine.pids().values() for pid in pids)


def certificate(engine: Engine) -> bytes:
    """What the listener that takes the connection shows, in DER."""
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        client.starttls(context=client_context())
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(True) or b""


def test_mail_comes_in_by_starttls_and_by_immediate_tls(engine_dir: Path, make_engine: MakeEngine) -> None:
    pem = engine_dir / "mx.pem"
    write_key(pem, AUTHORITY.issue("localhost"))
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port, pem=pem))
        with smtplib.SMTP("localhost", engine.port, timeout=20) as client:
            client.starttls(context=client_context(AUTHORITY))
            send(client)
        with smtplib.SMTP_SSL("localhost", engine.port_of("port2"), timeout=20, context=client_context(AUTHORITY)) as client:
            send(client)
        eventually(lambda: len(sink.messages) == 2, "both messages")
        for each in sink.messages:
            assert b"with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384) id " in each.content
        eventually(lambda: engine.log().count(" tls client=127.0.0.1:") == 2, "the log tells of both")


def test_a_renewed_key_is_used_without_a_restart_and_a_bad_one_is_not(engine_dir: Path, make_engine: MakeEngine) -> None:
    pem = engine_dir / "mx.pem"
    first, second = AUTHORITY.issue("localhost"), AUTHORITY.issue("localhost")
    write_key(pem, first)
    engine = make_engine(CONF.format(port=9, pem=pem))
    pids = processes(engine)
    shown = certificate(engine)
    write_key(pem, second)
    der = ssl.PEM_cert_to_DER_cert(second[second.index(b"-----BEGIN CERT") :].decode())
    eventually(lambda: {certificate(engine) for _ in range(6)} == {der}, "every listener shows the new one")
    assert shown != der
    write_key(pem, second[: second.index(b"-----BEGIN CERT")])
    eventually(lambda: "what was read before stays in use" in engine.log(), "the log tells of the bad one")
    assert certificate(engine) == der
    write_key(pem, first)
    eventually(lambda: {certificate(engine) for _ in range(6)} == {shown}, "a good one is taken again")
    assert processes(engine) == pids


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read, and TLS needs it: No such file or directory"),
        (b"nonsense", "cannot be used: "),
        (AUTHORITY.issue("a.example", password="hush"), "cannot be used: "),
        (AUTHORITY.issue("a.example")[:300] + AUTHORITY.issue("b.example"), "cannot be used: "),
    ],
    ids=["missing", "nonsense", "locked", "mixed up"],
)
def test_a_certificate_that_cannot_be_used_stops_the_start(engine_dir: Path, content: bytes | None, why: str) -> None:
    pem = engine_dir / "mx.pem"
    if content is not None:
        write_key(pem, content)
    with pytest.raises(EngineDown) as down, Engine(engine_dir / "engine", CONF.format(port=9, pem=pem)):
        pass
    assert f"{pem} {why}" in str(down.value)


def test_a_reload_with_a_bad_certificate_changes_nothing(engine_dir: Path, make_engine: MakeEngine) -> None:
    pem, other = engine_dir / "mx.pem", engine_dir / "other.pem"
    write_key(pem, AUTHORITY.issue("localhost"))
    engine = make_engine(CONF.format(port=9, pem=pem))
    eventually(lambda: {"spool/0", "delivery/0", "accounting/0"} <= engine.pids().keys(), "every process works")
    pids, shown = engine.pids(), certificate(engine)
    engine.configure(CONF.format(port=9, pem=other))
    done = engine.run("reload")
    assert done.returncode == 78 and f"{other} cannot be read" in done.stderr
    write_key(other, AUTHORITY.issue("localhost"))
    assert engine.run("reload", timeout_s=60).returncode == 0
    eventually(lambda: certificate(engine) != shown, "the other certificate")
    after = engine.pids()
    assert [after[name] for name in ("spool/0", "delivery/0", "accounting/0")] == [pids[name] for name in ("spool/0", "delivery/0", "accounting/0")]
