"""Where mail goes that no MX look-up of its own domain decides: address literals, smtp-hosts, lookup-mx; with real processes."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest

from tests.dns_server import DnsServer
from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import eventually

CONF = """
<domain *>
    default-smtp-port {port}
    allow-private-mx yes
    remove-header X-Inside,Received
    log-connections yes
    log-commands yes
    log-resolution yes
</domain>
<domain [127.0.0.32]>
    smtp-hosts [127.0.0.31]:{port}
</domain>
<domain routed.example>
    smtp-hosts lookup-mx:hub.example
</domain>
"""


@pytest.mark.parametrize(
    "recipient", ["u@[127.0.0.31]", "u@[127.0.0.32]", "u@routed.example"], ids=["literal", "literal with smtp-hosts", "lookup-mx"]
)
def test_it_arrives_where_it_was_sent_to(make_engine: MakeEngine, recipient: str) -> None:
    zone = {"hub.example": {"MX": ["10 mx.hub.example"]}, "mx.hub.example": {"A": ["127.0.0.31"]}}
    with Sink("accept-all", host="127.0.0.31") as sink, DnsServer(zone) as dns:
        engine = make_engine(f"name-server {dns.address}:{dns.port}\n{CONF.format(port=sink.port)}")
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            assert client.sendmail("a@b.example", [recipient], b"X-Inside: 1\r\n folded\r\nSubject: hello\r\n\r\nX-Inside: body\r\n") == {}
        eventually(lambda: engine.records("d"), "the delivery's record")
        (record,) = engine.records("d")
        assert record["dlvDestinationIp"] == "127.0.0.31" and record["queue"].startswith(recipient.partition("@")[2])
        (message,) = sink.messages
        assert engine.stop() == 0
        log = engine.log()
        for said in (" resolved queue=", " connected queue=", f'<<< "RCPT TO:<{recipient}>"', ">>> ", " disconnected queue="):
            assert said in log, said
        assert message.recipients == (recipient,) and message.body == b"X-Inside: body\r\n"
        assert b"X-Inside" not in message.header and b"Received" not in message.header and b"Subject: hello" in message.header


def test_an_ipv6_literal(make_engine: MakeEngine) -> None:
    with Sink("accept-all", host="::1") as sink:
        engine = make_engine(f"<domain *>\n default-smtp-port {sink.port}\n allow-private-mx yes\n</domain>\n")
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            assert client.sendmail("a@b.example", ["u@[IPv6:::1]"], b"Subject: hello\r\n\r\nbody\r\n") == {}
        eventually(lambda: engine.records("d"), "the delivery's record")
        assert engine.records("d")[0]["dlvDestinationIp"] == "::1" and sink.messages[0].recipients == ("u@[IPv6:::1]",)


def test_a_bounce_is_told_in_the_operators_words_and_a_delivery_is_copied(make_engine: MakeEngine, engine_dir: Path) -> None:
    (engine_dir / "engine").mkdir()
    (engine_dir / "engine" / "words").write_text("Sorry: ${recipient}\n")
    with Sink("rcpt-5xx", host="127.0.0.31") as refuses, Sink("accept-all", host="127.0.0.31") as takes:
        engine = make_engine(
            f"dsn-failed-body-template-from words\ndsn-failed-subject-template Lost: ${{subject}}\n"
            f"<domain bad.example>\n smtp-hosts [127.0.0.31]:{refuses.port}\n bounce-address bounces@own.example\n</domain>\n"
            f"<domain *>\n smtp-hosts [127.0.0.31]:{takes.port}\n</domain>\n"
            "<domain good.example>\n bcc-upon-delivery archive@own.example\n</domain>\n"
        )
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            for recipient in ("u@bad.example", "v@good.example"):
                assert client.sendmail("a@b.example", [recipient], b"Subject: hello\r\n\r\nbody\r\n") == {}
        eventually(lambda: len(takes.messages) == 3, "the message, its copy and the DSN")
        found = {message.recipients[0]: message for message in takes.messages}
        dsn, copy = found["bounces@own.example"], found["archive@own.example"]
        assert dsn.sender == "" and b"Subject: Lost: hello\r\n" in dsn.header and b"Sorry: u@bad.example\r\n" in dsn.content
        assert copy.sender == "a@b.example" and copy.content == found["v@good.example"].content
