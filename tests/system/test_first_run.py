"""The first morning: what `engine init` writes runs, and delivers its first message."""

from __future__ import annotations

import ipaddress
import smtplib

import pytest

from engine.config.starter import Wishes, starter
from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import eventually

pytestmark = pytest.mark.system


def test_the_first_message_is_delivered(make_engine: MakeEngine) -> None:
    here = ipaddress.ip_address("127.0.0.5")
    text = starter(Wishes("mail.example.org", "me@example.org", (ipaddress.ip_network("127.0.0.1/32"),), (here,)))
    for there, ours in (
        ("smtp-listener 0/0:25", "smtp-listener 127.0.0.1:@port@"),
        ("/var/log/engine", "@dir@"),
        ("/var/spool/engine", "@dir@/spool"),
    ):
        assert there in text
        text = text.replace(there, ours)
    with Sink() as sink:
        engine = make_engine(f"{text}<domain example.net>\n    smtp-hosts [127.0.0.1]:{sink.port}\n</domain>\n")
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.sendmail("you@example.org", ["friend@example.net"], "Subject: first\r\n\r\nHello.\r\n")
        eventually(lambda: sink.messages, "the first message")
        assert (sink.messages[0].ehlo, sink.messages[0].peer[0]) == ("mail.example.org", str(here))
        eventually(lambda: engine.records("d"), "its accounting record")
        (record,) = engine.records("d")
        assert (record["rcpt"], record["vmta"]) == ("friend@example.net", "mta1")
    assert engine.run("check-config").stdout.splitlines()[-1].startswith("verdict: usable")
