"""Who authenticates, and what it changes: relaying, limits, the log, Received, accounting; and that no secret is ever shown."""

from __future__ import annotations

import base64
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.config import Config, build, from_text
from engine.mail.message_id import text
from engine.policy.credentials import hash_password
from tests.listener.live import Client, Live

HASHED = hash_password(b"argon")


def configured(*lines: str, users: str = "", server: str = "") -> Config:
    """One <source 0/0> with *lines*, and the user foo, besides *users*."""
    source = "\n".join(lines)
    foo = "<smtp-user foo>\npassword barbaz\n</smtp-user>\n"
    loaded = build(from_text(f"log-file /l\nhost-name mx.engine.example\n{server}\n<source 0/0>\n{source}\n</source>\n{foo}{users}"))
    assert loaded.config is not None, loaded.problems
    return loaded.config


@contextmanager
def living(config: Config, **changes: int) -> Iterator[Live]:
    with Live(config, **changes) as live:
        live.listener.failure_delay_s = 0
        yield live


def login(peer: Client, user: str = "foo", password: str = "barbaz") -> str:
    peer.reply()
    peer.say("EHLO client.example")
    return plain(peer, user, password)


def plain(peer: Client, user: str = "foo", password: str = "barbaz") -> str:
    return peer.say("AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode())


def relays(peer: Client) -> str:
    answer = peer.say("MAIL FROM:<s@sender.example>", "RCPT TO:<r@elsewhere.example>")
    peer.say("RSET")
    return answer


CLEAR = "allow-unencrypted-plain-auth yes"


def test_who_authenticates_may_relay_and_nobody_else() -> None:
    with living(configured(CLEAR)) as live, live.client() as peer:
        peer.reply()
        assert peer.say("EHLO client.example").endswith("AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN")
        assert relays(peer) == "550 5.7.1 relaying denied"
        assert plain(peer, password="wrong") == "535 5.7.8 Authentication credentials invalid"
        assert plain(peer, user="nobody") == "535 5.7.8 Authentication credentials invalid"
        assert relays(peer) == "550 5.7.1 relaying denied"
        assert plain(peer) == "235 2.7.0 Authentication successful"
        assert relays(peer).startswith("250 ")
        events = live.do(lambda: list(live.log.events))
    assert ("authenticated", "client=127.0.0.1 user=foo mechanism=PLAIN source=0/0") in events
    assert sum("user=nobody mechanism=PLAIN reply=535" in said for kind, said in events if kind == "refused") == 1
    assert not any(secret in said for _, said in events for secret in ("barbaz", "wrong"))


def test_a_message_tells_who_sent_it() -> None:
    with living(configured(CLEAR, "process-x-job yes", users="<source {auth}>\njobid-prefix {auth}\nprocess-x-job yes\n</source>")) as live:
        with live.client() as peer:
            login(peer)
            peer.say("MAIL FROM:<s@sender.example>", "RCPT TO:<r@elsewhere.example>", "DATA")
            peer.send(b"X-Job: 7\r\nSubject: x\r\n\r\ntext\r\n.\r\n")
            assert peer.reply().startswith("250 ")
        (message,) = live.do(live.link.messages)
        accepted = live.log.text("accepted")
    assert message.smtp_user == "foo" and message.job_id == "foo7"
    assert b" with ESMTPA id " in message.prefix
    assert " helo=client.example user=foo from=<s@sender.example> " in accepted and text(live.link.accepted[0].id) in accepted


@pytest.mark.parametrize(
    ("auth", "named", "may"),
    [
        ("", "", True),
        ("always-allow-relaying no", "", False),
        ("", "always-allow-relaying no", False),
        ("always-allow-relaying no", "always-allow-relaying yes", True),
        ("always-allow-relaying yes", "always-allow-relaying no", False),
    ],
)
def test_only_the_users_own_source_takes_relaying_away(auth: str, named: str, may: bool) -> None:
    users = f"<source {{auth}}>\n{auth}\n</source>\n<source of-bar>\n{named}\n</source>\n<smtp-user bar>\npassword x\nsource of-bar\n</smtp-user>\n"
    with living(configured(CLEAR, "always-allow-relaying no", users=users)) as live, live.client() as peer:
        assert login(peer, "bar", "x").startswith("235 ")
        assert relays(peer).startswith("250 " if may else "550 5.7.1")
        assert live.log.text("authenticated").endswith("source=0/0,{auth},of-bar")


def test_require_auth_bars_everybody_first() -> None:
    config = configured(CLEAR, "require-auth yes", "always-allow-relaying yes", server="relay-domain ours.example")
    with living(config) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO client.example")
        assert peer.say("MAIL FROM:<>") == "530 5.7.0 Authentication required"
        assert peer.say("RCPT TO:<r@ours.example>").startswith("503 ")
        assert plain(peer).startswith("235 ")
        assert relays(peer).startswith("250 ")


def test_limits_are_those_of_the_user_from_then_on() -> None:
    users = "<source {auth}>\nmax-message-size 1000\n</source>\n"
    with living(configured(CLEAR, "max-message-size 500", users=users)) as live, live.client() as peer:
        peer.reply()
        assert "SIZE 500" in peer.say("EHLO c")
        plain(peer)
        assert "SIZE 1000" in peer.say("EHLO c")
        assert peer.say("MAIL FROM:<a@b.example> SIZE=900").startswith("250 ")


@pytest.mark.parametrize(
    ("lines", "users", "offered"),
    [
        ((), "", "SCRAM-SHA-256 CRAM-MD5"),
        ((CLEAR,), "", "SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN"),
        ((CLEAR, "allow-auth no"), "", ""),
        ((CLEAR, "require-starttls-before-auth yes"), "", ""),
        ((CLEAR,), f"<smtp-user h>\npassword {HASHED}\n</smtp-user>\n", "PLAIN LOGIN"),
        ((), f"<smtp-user h>\npassword {HASHED}\n</smtp-user>\n", ""),
        ((), "<smtp-user s>\nauthentication-method system\n</smtp-user>\n", "SCRAM-SHA-256 CRAM-MD5"),
    ],
)
def test_what_is_offered_in_the_clear(lines: tuple[str, ...], users: str, offered: str) -> None:
    with living(configured(*lines, users=users)) as live, live.client() as peer:
        peer.reply()
        listed = [line[4:] for line in peer.say("EHLO c").split("\n")]
        assert [line for line in listed if line.startswith("AUTH")] == ([f"AUTH {offered}"] if offered else [])
        if not offered:
            assert plain(peer).startswith("502 " if "allow-auth no" in lines else "538 5.7.11 ")


def test_an_argon2id_user_is_verified_beside_the_loop() -> None:
    users = f"<smtp-user h>\npassword {HASHED}\n</smtp-user>\n"
    with living(configured(CLEAR, users=users)) as live:
        for _ in range(2):  # verified, then remembered
            with live.client() as peer:
                assert login(peer, "h", "argon").startswith("235 ")
        with live.client() as peer:
            assert login(peer, "h", "barbaz").startswith("535 ")
            assert plain(peer, "foo", "argon").startswith("535 ")
        with live.client() as peer:
            assert login(peer, "foo", "barbaz").startswith("235 ")


def test_a_failure_is_told_late() -> None:
    with Live(configured(CLEAR)) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO c")
        peer.send(b"AUTH PLAIN AGZvbwBiYXI=\r\nNOOP\r\n")
        connection = live.do(lambda: next(iter(live.listener._connections)))
        live.until(lambda: connection._session.late is not None)
        now_s = live.do(lambda: live.listener.now_s)
        live.do(lambda: connection.tick(now_s + 0.9, False))
        assert live.do(lambda: connection._session.late is not None)
        live.do(lambda: connection.tick(now_s + 2.1, False))
        assert peer.reply().startswith("535 ")
        assert peer.reply().startswith("250 ")
        assert plain(peer).startswith("235 ")


def test_what_goes_on_in_an_exchange_is_not_logged() -> None:
    with living(configured(CLEAR, "log-commands yes")) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO c", "AUTH LOGIN", base64.b64encode(b"foo").decode())
        assert peer.say(base64.b64encode(b"barbaz").decode()).startswith("235 ")
        peer.say("NOOP", "QUIT")
        live.until(lambda: live.count.mine() == 0)
        lines = [said.partition(" ")[2] for kind, said in live.do(lambda: list(live.log.events)) if kind == "smtp"]
    assert lines[lines.index(">>> AUTH (not shown)") :] == [
        ">>> AUTH (not shown)",
        "<<< 334 (not shown)",
        "<<< 334 (not shown)",
        "<<< 235 2.7.0 Authentication successful",
        ">>> NOOP",
        "<<< 250 2.0.0 Ok",
        ">>> QUIT",
        "<<< 221 2.0.0 mx.engine.example says goodbye",
    ]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("right", [True, False])
def test_smtplib_authenticates(mechanism: str, right: bool) -> None:
    with living(configured(CLEAR)) as live, smtplib.SMTP("127.0.0.1", live.port, timeout=10) as client:
        client.ehlo()
        client.user, client.password = "foo", "barbaz" if right else "wrong"
        method = {"PLAIN": client.auth_plain, "LOGIN": client.auth_login, "CRAM-MD5": client.auth_cram_md5}[mechanism]
        if right:
            assert client.auth(mechanism, method)[0] == 235
        else:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.auth(mechanism, method)
