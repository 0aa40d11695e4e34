"""NOTIFY=SUCCESS through a real engine: to a host without DSN, which makes us tell, and to one with it."""

from __future__ import annotations

import smtplib

from tests.sinks.session import Session
from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""


def send(engine: Engine) -> None:
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        client.sendmail(
            "s@origin.example", ["u@dest.example"], "Subject: x\r\n\r\ntext\r\n", ["RET=FULL", "ENVID=a+2Bb"],
            ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;U+2Bx@dest.example"],
        )  # fmt: skip


def test_relayed(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine)
        eventually(lambda: len(sink.messages) == 2, "the message and the DSN")
        dsn = next(message for message in sink.messages if not message.sender)
        assert dsn.recipients == ("s@origin.example",) and b"Subject: Delivery Status Notification (Relayed)\r\n" in dsn.header
        for line in (b"Original-Envelope-Id: a+b", b"Original-Recipient: rfc822;U+x@dest.example", b"Action: relayed", b"Status: 2.0.0"):
            assert b"\r\n" + line + b"\r\n" in dsn.body, line
        assert b"text/rfc822-headers" in dsn.body and b"\r\ntext\r\n" not in dsn.body, "whole messages come back with failures only"
        assert [record["dsnAction"] for record in engine.wait_for_records(2, "d")] == ["relayed", "relayed"]


def test_passed_on(make_engine: MakeEngine) -> None:
    with Sink(extensions=(*Session.extensions, "DSN")) as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine)
        eventually(lambda: sink.messages, "the message")
        engine.wait_for_records(1, "d")
        assert sink.messages[0].mail_parameters.endswith(" RET=FULL ENVID=a+2Bb")
        commands = sink.connections[0].commands
        assert "RCPT TO:<u@dest.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;U+2Bx@dest.example" in commands
        engine.stop(timeout_s=20)
        assert len(sink.messages) == 1, "and no DSN of ours"
