"""check-spf-inbound and check-iprev-inbound: who is refused at MAIL, what a message says of it, and that nobody waits in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from engine.config import Config, build, from_text
from engine.listener import origin
from tests.dns_server import DnsServer
from tests.listener.live import Client, Live

ZONE = {
    "ours.example": {"TXT": ['"v=spf1 ip4:127.0.0.0/8 -all"']},
    "theirs.example": {"TXT": ['"v=spf1 ip4:192.0.2.1 -all"']},
    "soft.example": {"TXT": ['"v=spf1 ~all"']},
    "broken.example": {"TXT": ['"v=spf1 foo"']},
    "away.example": {"!": ["servfail"]},
    "held.example": {"TXT": ['"v=spf1 +all"'], "!": ["hold"]},
    "void.example": {"TXT": ['"v=spf1 a:x1.example a:x2.example a:x3.example +all"']},
    "xn--bcher-kva.example": {"TXT": ['"v=spf1 +all"']},
    "client.example": {"A": ["127.0.0.1"], "TXT": ['"v=spf1 a -all"']},
    "1.0.0.127.in-addr.arpa": {"PTR": ["client.example."]},
    "2.0.0.127.in-addr.arpa": {"PTR": ["client.example."]},
    "4.0.0.127.in-addr.arpa": {"!": ["servfail"]},
}


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer(ZONE) as server:
        yield server


def configured(dns: DnsServer, *lines: str) -> Config:
    source = "\n".join(lines)
    server = f"log-file /l\nhost-name mx.engine.example\nname-server {dns.address}:{dns.port}\n"
    loaded = build(from_text(f"{server}<source 0/0>\nalways-allow-relaying yes\n{source}\n</source>\n"))
    assert loaded.config is not None, loaded.problems
    return loaded.config


def hello(peer: Client, name: str = "client.example") -> None:
    assert peer.reply().startswith("220 ")
    peer.say(f"EHLO {name}")


@pytest.mark.parametrize(
    ("sender", "answer"),
    [
        ("a@ours.example", "250 2.1.0 Sender ok"),
        ("a@theirs.example", "550 5.7.23 SPF: this client may not send for the sender's domain"),
        ("a@soft.example", "250 2.1.0 Sender ok"),
        ("a@none.example", "250 2.1.0 Sender ok"),
        ("a@broken.example", "550 5.7.24 SPF: the record of the sender's domain is broken"),
        ("a@away.example", "451 4.7.24 SPF: the sender's domain could not be checked, try again later"),
        ("a@void.example", "550 5.7.24 SPF: the record of the sender's domain is broken"),
        ("a@[192.0.2.1]", "250 2.1.0 Sender ok"),
        ("", "250 2.1.0 Sender ok"),
    ],
)
def test_spf_at_mail(dns: DnsServer, sender: str, answer: str) -> None:
    with Live(configured(dns, "check-spf-inbound yes")) as live, live.client() as peer:
        hello(peer)
        assert peer.say(f"MAIL FROM:<{sender}>") == answer
        assert peer.say("RCPT TO:<r@elsewhere.example>").startswith("250" if answer.startswith("250") else "503")
        refused = live.log.text("refused") if not answer.startswith("250") else ""
    assert (answer[:3] in refused) == (not answer.startswith("250"))


@pytest.mark.parametrize(
    ("source", "answer"),
    [("127.0.0.1", "250 2.1.0"), ("127.0.0.2", "550 5.7.25"), ("127.0.0.3", "550 5.7.25"), ("127.0.0.4", "451 4.7.25")],
)
def test_iprev_at_mail(dns: DnsServer, source: str, answer: str) -> None:
    forms = [f"reject-iprev-check-{what} yes" for what in ("fail", "permerror", "temperror")]
    with Live(configured(dns, "check-iprev-inbound yes", *forms)) as live, live.client(source) as peer:
        hello(peer)
        assert peer.say("MAIL FROM:<a@theirs.example>").startswith(answer)
    with Live(configured(dns, "check-iprev-inbound yes")) as live, live.client(source) as peer:
        hello(peer)
        assert peer.say("MAIL FROM:<a@theirs.example>").startswith("250")


def test_a_message_carries_our_verdict_and_nobody_elses_in_our_name(dns: DnsServer) -> None:
    forged = b"Authentication-Results: MX.engine.example; spf=pass\r\nAuthentication-Results: other.example;\r\n spf=pass\r\n"
    forged += b"Subject: x\r\n\r\ntext\r\n.\r\n"
    lines = ("check-spf-inbound yes", "check-iprev-inbound yes", "trace-spf-check yes", "trace-iprev-check yes")
    with Live(configured(dns, *lines)) as live, live.client() as peer:
        hello(peer)
        for sender in ("a@ours.example", ""):
            peer.say(f"MAIL FROM:<{sender}>", "RCPT TO:<r@elsewhere.example>", "DATA")
            peer.send(forged)
            assert peer.reply().startswith("250 ")
        first, second = live.do(live.link.messages)
        bodies = live.do(lambda: list(live.segments.bodies.values()))
        traced = live.log.text("origin")
    ours = b"Authentication-Results: mx.engine.example;\r\n\tiprev=pass policy.iprev=127.0.0.1;\r\n\t"
    assert first.prefix.endswith(ours + b"spf=pass smtp.mailfrom=ours.example\r\n")
    assert second.prefix.endswith(ours + b"spf=pass smtp.helo=client.example\r\n")
    assert all(b"MX.engine.example" not in body and b"other.example" in body for body in bodies)
    assert "client=127.0.0.1 spf: TXT ours.example: v=spf1 ip4:127.0.0.0/8 -all" in traced
    assert "client=127.0.0.1 spf=pass domain=ours.example decided=ours.example ip4:127.0.0.0/8" in traced
    assert "client=127.0.0.1 iprev=pass client.example has 127.0.0.1" in traced


def test_international_domains_are_asked_for_in_a_labels(dns: DnsServer) -> None:
    with Live(configured(dns, "check-spf-inbound yes")) as live, live.client() as peer:
        hello(peer)
        peer.send("MAIL FROM:<a@bücher.example> SMTPUTF8\r\n".encode())
        assert peer.reply() == "250 2.1.0 Sender ok"
    assert dns.count("xn--bcher-kva.example", "TXT") == 1


def test_what_is_pipelined_waits_and_a_client_that_leaves_is_forgotten(dns: DnsServer) -> None:
    with Live(configured(dns, "check-spf-inbound yes")) as live:
        with live.client() as peer:
            hello(peer)
            peer.send(b"MAIL FROM:<a@held.example>\r\nRCPT TO:<r@elsewhere.example>\r\nDATA\r\n")
            assert dns.wait_held(1)
        with live.client() as peer:
            hello(peer)
            peer.send(b"MAIL FROM:<a@held.example>\r\nRCPT TO:<r@elsewhere.example>\r\nDATA\r\n")
            threading.Timer(0.05, dns.release).start()
            assert [peer.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            peer.send(b"\r\ntext\r\n.\r\n")
            assert peer.reply().startswith("250 2.6.0")
        assert len(live.do(live.link.messages)) == 1


def test_a_check_that_takes_too_long_or_comes_too_much_is_a_temperror(dns: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "CHECK_S", 0.1)
    with Live(configured(dns, "check-spf-inbound yes")) as live, live.client() as peer:
        hello(peer)
        assert peer.say("MAIL FROM:<a@held.example>").startswith("451 4.7.24")
        monkeypatch.setattr(origin, "MAX_CHECKS", 0)
        assert peer.say("MAIL FROM:<a@ours.example>").startswith("451 4.7.24")


def test_who_wants_no_check_pays_for_none(dns: DnsServer) -> None:
    with Live(configured(dns)) as live, live.client() as peer:
        hello(peer)
        assert peer.say("MAIL FROM:<a@theirs.example>").startswith("250")
        assert live.do(lambda: live.listener._origin_checks) is None
    assert not dns.queries


def test_both_checks_together_take_no_longer_than_one() -> None:
    """Each may last CHECK_S: one after the other they outlasted SPOOL_WAIT_S, and MAIL was refused for want of time."""
    silent = {"5.0.0.127.in-addr.arpa": {"PTR": ["client.example."], "!": ["hold"]}, "held.example": ZONE["held.example"]}
    checks = "check-spf-inbound yes", "check-iprev-inbound yes"
    with DnsServer(silent) as dns, Live(configured(dns, *checks)) as live, live.client("127.0.0.5") as peer:
        hello(peer)
        peer.send(b"MAIL FROM:<a@held.example>\r\n")
        assert dns.wait_held(2)
        dns.release()
        assert peer.reply() == "250 2.1.0 Sender ok"
