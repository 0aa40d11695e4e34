"""SMTPUTF8 (RFC 6531) from end to end: to a host that has it, to one that has not, and the bounce of who cannot go there."""

from __future__ import annotations

import smtplib

from tests.sinks.session import Session
from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1h
</domain>
"""
TEXT = "From: <jürgen@bücher.example>\r\nSubject: Grüße, 世界\r\n\r\nä\r\n".encode()


def send(engine: Engine, sender: str, *recipients: str) -> None:
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        client.ehlo("client.example")
        assert client.has_extn("smtputf8")
        client.sendmail(sender, list(recipients), TEXT, mail_options=["SMTPUTF8", "BODY=8BITMIME"])


def test_addresses_and_headers_in_utf8_travel_unchanged(make_engine: MakeEngine) -> None:
    with Sink(extensions=(*Session.extensions, "SMTPUTF8")) as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, "jürgen@bücher.example", "用户@例え.example")
        eventually(lambda: sink.messages, "the message")
        message = sink.messages[0]
        assert message.sender.encode("latin-1").decode() == "jürgen@bücher.example"
        assert [recipient.encode("latin-1").decode() for recipient in message.recipients] == ["用户@例え.example"]
        assert message.mail_parameters.endswith("BODY=8BITMIME SMTPUTF8") and message.content.endswith(TEXT)
        assert b" with UTF8SMTP id " in message.header.partition(b"From:")[0] and message.header.partition(b"From:")[0].isascii()
        (record,) = engine.wait_for_records(1, "d")
        assert (record["orig"], record["rcpt"], record["queue"]) == ("jürgen@bücher.example", "用户@例え.example", "xn--r8jz45g.example/{default}")


def test_without_smtputf8_go_those_whose_addresses_can_be_said_in_ascii(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, "sender@bücher.example", "a@dést.example", "ü@dést.example")
        eventually(lambda: len(sink.messages) == 2, "the message and the DSN about the other recipient")
        message = next(m for m in sink.messages if m.sender)
        assert (message.sender, message.recipients) == ("sender@xn--bcher-kva.example", ("a@xn--dst-bma.example",))
        assert "SMTPUTF8" not in message.mail_parameters and message.content.endswith(TEXT), "content goes unchanged"
        (bounce,) = engine.wait_for_records(1, "b")
        assert bounce["rcpt"] == "ü@dést.example" and bounce["dsnStatus"].startswith("5.6.7 (non-ASCII addresses not permitted")
        dsn = next(m for m in sink.messages if not m.sender)
        assert dsn.recipients == ("sender@xn--bcher-kva.example",)
        assert b"Final-Recipient: utf-8;\\x{FC}@d\\x{E9}st.example\r\n" in dsn.body and b"Content-Type: message/global-headers\r\n" in dsn.body


def test_it_can_be_forbidden(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port) + "<source 0/0>\nalways-allow-relaying yes\nallow-smtputf8 no\n</source>\n")
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.ehlo("client.example")
            assert not client.has_extn("smtputf8")
            assert client.docmd("MAIL FROM:<a@b.example> SMTPUTF8")[0] == 555
