"""STARTTLS and TLS from the first byte, against a live listener."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config, build, from_text
from engine.config.tls_build import tls_files
from engine.listener import connection as connection_module
from engine.listener import tls as tls_module
from engine.tls.files import Files, publish
from tests.certificates import Authority, client_context
from tests.listener.live import Client, Live

AUTHORITY = Authority()
PEM = AUTHORITY.issue("mx.example.org")
CONF = """
log-file /l
host-name mx.example.org
relay-domain one.example
smtp-listener 127.0.0.1:25
smtp-server-tls-certificate /server.pem
<source 0/0>
    allow-starttls yes
    log-tls yes
</source>
"""


def configured(text: str = CONF) -> Config:
    loaded = build(from_text(text))
    assert loaded.config is not None, loaded.problems
    return loaded.config


def live(text: str = CONF, pem: bytes = PEM, **more: Any) -> Live:
    config = configured(text)
    return Live(config, files=Files.of(dict.fromkeys(tls_files(config), pem)), **more)


def trusting() -> ssl.SSLContext:
    return client_context(AUTHORITY)


def received(running: Live) -> str:
    return running.link.messages()[-1].prefix.decode("latin-1")


def deliver(client: Client) -> str:
    assert client.say("MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>", "DATA").startswith("354")
    client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
    return client.reply()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_message_by_starttls(version: ssl.TLSVersion) -> None:
    with live() as running, running.client() as client:
        assert client.reply().startswith("220 ")
        assert "STARTTLS" in client.say("EHLO client.example")
        secured = client.starttls(client_context(AUTHORITY, minimum_version=version, maximum_version=version))
        assert "STARTTLS" not in client.say("EHLO client.example")
        assert deliver(client).startswith("250 ")
        name, _, _ = secured.cipher() or ("", "", 0)
        assert f"with ESMTPS ({secured.version()} {name}) id " in received(running)
        assert client.say("STARTTLS").startswith("503 5.5.1")
        assert client.say("QUIT").startswith("221 ")
        assert client.socket.recv(100) == b""
        said = [text for kind, text in running.log.events if kind == "tls"]
        assert len(said) == 1 and f"protocol={secured.version()} cipher={name} resumed=no" in said[0]


def test_what_was_said_before_is_forgotten() -> None:
    with live() as running, running.client() as client:
        client.reply()
        assert client.say("EHLO client.example", "MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>").startswith("250 ")
        client.starttls(trusting())
        assert client.say("DATA").startswith("503 5.5.1")
        assert client.say("MAIL FROM:<s@sender.example>").startswith("503 5.5.1")
        assert client.say("HELO client.example").startswith("250 ")
        assert deliver(client).startswith("250 ")
        assert "with SMTP (TLSv1.3" in received(running)


@pytest.mark.parametrize("behind", [b"E", b"EHLO x\r\n", b"RSET\r\nMAIL FROM:<evil@example.org>\r\n", b"\x16\x03\x01"])
@pytest.mark.parametrize("before", [b"", b"EHLO client.example\r\n"])
def test_plaintext_behind_starttls_ends_the_session(behind: bytes, before: bytes) -> None:
    with live() as running, running.client() as client:
        client.reply()
        client.send(before + b"STARTTLS\r\n" + behind)
        if before:
            assert client.reply().startswith("250-")
        assert client.reply() == "521 5.5.1 Nothing may follow STARTTLS before the TLS handshake"
        assert client.reply() == ""
        client.close()
        running.until(lambda: running.count.mine() == 0)
        assert not running.link.accepted


def test_plaintext_after_220_is_no_handshake() -> None:
    with live() as running, running.client() as client:
        client.reply()
        assert client.say("STARTTLS").startswith("220 ")
        client.send(b"EHLO injected.example\r\n")
        data = client.socket.recv(100)
        assert not data.startswith(b"2")
        assert data[:1] in (b"\x15", b"")  # an alert, perhaps
        running.until(lambda: any("TLS handshake: " in text for kind, text in running.log.events if kind == "refused"))
        running.until(lambda: running.count.mine() == 0)


def test_starttls_after_a_message_that_waits_for_the_disk() -> None:
    with live() as running, running.client() as client:
        running.link.holding = True
        assert client.greet().startswith("354 ")
        client.send(b"Subject: x\r\n\r\nhello\r\n.\r\nSTARTTLS\r\n")
        running.until(lambda: running.link.held)
        running.do(running.link.release)
        assert client.reply().startswith("250 ")
        assert client.reply().startswith("220 ")
        client.secure(trusting())
        assert client.say("EHLO client.example").startswith("250-")


@pytest.mark.parametrize(
    ("change", "reply"),
    [(("    allow-starttls yes\n", ""), "502 5.5.1"), (("smtp-server-tls-certificate /server.pem\n", ""), "502 5.5.1")],
    ids=["not allowed", "no certificate"],
)
def test_starttls_where_it_is_not_offered(change: tuple[str, str], reply: str) -> None:
    with live(CONF.replace(*change)) as running, running.client() as client:
        client.reply()
        assert "STARTTLS" not in client.say("EHLO client.example")
        assert client.say("STARTTLS").startswith(reply)


def test_starttls_takes_no_argument() -> None:
    with live() as running, running.client() as client:
        client.reply()
        assert client.say("STARTTLS now").startswith("501 5.5.4")


def test_too_many_handshakes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "HANDSHAKES_MOST", 1)
    with live() as running, running.client() as slow, running.client() as client:
        slow.reply()
        assert slow.say("STARTTLS").startswith("220 ")
        client.reply()
        assert client.say("STARTTLS").startswith("454 4.7.0")
        slow.abort()
        running.until(lambda: not running.listener.tls.full_for("127.0.0.1"))
        client.starttls(trusting())
        assert client.say("EHLO client.example").startswith("250-")


def test_nobody_takes_all_handshakes_for_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "HANDSHAKES_OF_ONE", 1)
    with live() as running, running.client("127.0.0.2") as slow, running.client("127.0.0.2") as again, running.client("127.0.0.3") as other:
        slow.reply()
        assert slow.say("STARTTLS").startswith("220 ")
        again.reply()
        assert again.say("STARTTLS").startswith("454 4.7.0")
        other.reply()
        other.starttls(trusting())
        slow.abort()
        running.until(lambda: not running.listener.tls.full_for("127.0.0.2"))
        again.starttls(trusting())
        assert again.say("EHLO client.example").startswith("250-")


def test_a_handshake_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with live() as running, running.client() as client:
        client.reply()
        assert client.say("STARTTLS").startswith("220 ")
        client.send(b"\x16\x03\x01\x02")
        running.until(lambda: running.listener._connections)

        def late() -> None:
            for each in list(running.listener._connections):
                each.tick(running.listener.now_s + connection_module.HANDSHAKE_S + 1, False)

        running.do(late)
        assert client.reply() == ""
        running.until(lambda: running.count.mine() == 0 and not running.listener.tls._under_way)
        assert any("not done within 30 s" in text for kind, text in running.log.events if kind == "refused")


IMMEDIATE = CONF.replace("smtp-listener 127.0.0.1:25\n", "<smtp-listener 127.0.0.1:25>\nimmediate-tls yes\n</smtp-listener>\n")


def test_immediate_tls() -> None:
    with live(IMMEDIATE) as running, running.client() as client:
        client.secure(trusting())
        assert client.reply().startswith("220 mx.example.org")
        assert "STARTTLS" not in client.say("EHLO client.example")
        assert deliver(client).startswith("250 ")
        assert "with ESMTPS (TLSv1.3" in received(running)
        assert client.say("STARTTLS").startswith("503 5.5.1")


def test_who_speaks_plainly_to_immediate_tls_hears_nothing() -> None:
    with live(IMMEDIATE) as running, running.client() as client:
        client.send(b"EHLO client.example\r\n")
        assert not client.socket.recv(100).startswith(b"2")
        running.until(lambda: running.count.mine() == 0)


def test_an_error_reply_in_tls_reaches_the_client_before_the_end() -> None:
    with live() as running, running.client() as client:
        client.reply()
        client.starttls(trusting())
        client.send(b"EHLO a\r\n" + b"MAIL FROM:<a@b.example>\nRCPT TO:<r@one.example>\r\n" * 2000)
        assert client.reply().startswith("250-")
        assert client.reply().startswith("521 5.5.2")
        assert client.reply() == ""


def test_a_big_message_by_tls() -> None:
    with live() as running, running.client() as client:
        client.reply()
        client.starttls(trusting())
        assert client.say("EHLO client.example", "MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>", "DATA").startswith("354")
        line = b"x" * 76 + b"\r\n"
        client.send(b"Subject: big\r\n\r\n" + line * 20_000 + b".\r\n")
        assert client.reply().startswith("250 ")
        assert running.link.messages()[-1].body.size_bytes == len(line) * 20_000 + len(b"Subject: big\r\n\r\n")


def test_the_name_chooses_among_several_certificates() -> None:
    one, two, wild = AUTHORITY.issue("mx.example.org"), AUTHORITY.issue("smtp.example.net", "smtp2.example.net"), AUTHORITY.issue("*.example.com")
    text = CONF.replace("/server.pem\n", "/one\nsmtp-server-tls-certificate /two\nsmtp-server-tls-certificate /wild\n")
    names = ("mx.example.org", "smtp2.example.net", "SMTP.example.net", "a.example.com")
    with Live(configured(text), files=Files.of({"/one": one, "/two": two, "/wild": wild})) as running:
        for name in names:
            with running.client() as client:
                client.reply()
                client.starttls(trusting(), name)
                assert client.say("EHLO client.example").startswith("250-")
        with running.client() as client:
            client.reply()
            with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch"):
                client.starttls(trusting(), "a.b.example.com")


def test_a_certificate_that_changes_is_used_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "shared", "w+b") as shared:
        publish(shared.fileno(), {"/server.pem": PEM})
        other = Authority()
        with Live(configured(), files=Files(shared.fileno())) as running, running.client() as before, running.client() as client:
            before.reply()
            before.starttls(trusting())
            publish(shared.fileno(), {"/server.pem": other.issue("mx.example.org")})
            running.do(running.listener._tick)
            client.reply()
            client.starttls(client_context(other))
            assert client.say("EHLO client.example").startswith("250-")
            assert before.say("EHLO client.example").startswith("250-")  # goes on as it began
            publish(shared.fileno(), {"/server.pem": b"nonsense"})
            running.do(running.listener._tick)
            with running.client() as third:
                third.reply()
                third.starttls(client_context(other))
            said = [text for kind, text in running.log.events if kind == "tls"]
            assert any("read anew" in text for text in said)
            assert any(re.search("what was read before stays in use.*PEM file with the key", text) for text in said)
