"""Header controls of a <source> with a real engine: from the file that names fields, over the wire, to the sink and the accounting file."""

from __future__ import annotations

from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import eventually
from tests.system.test_relay import CLIENT, Wire

CONF = """
host-name mx.engine.example
include-headers-from headers.txt
alias team one@a.example, two@b.example
smtp-listener 127.0.0.1:@port@
<source 127.0.0.1>
    always-allow-relaying yes
    remove-received-headers yes
    remove-header x-secret
    add-date-header override
    add-message-id-header yes
    process-x-job yes
    jobid-prefix p-
    process-x-envid yes
    bcc archive@c.example
    log-commands yes
</source>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""
MAIL = "Received: from inside\r\nX-Secret: s\r\nDate: then\r\nx-job: spring\r\nX-Envid: e7\r\nSubject: s\r\n\r\n..text\r\n."


def test_headers_are_reworked_and_ids_reach_the_accounting_file(make_engine: MakeEngine) -> None:
    with Sink("accept-all") as sink:
        first = make_engine("")
        first.stop()
        (first.directory / "headers.txt").write_text("X-Engine: yes\n  folded\n")
        first.configure(CONF.format(port=sink.port))
        first.start()
        wire = Wire(first.port, CLIENT)
        for line in ("EHLO client.example", "MAIL FROM:<s@sender.example> ENVID=other", "RCPT TO:<team@mx.engine.example>", "DATA"):
            assert wire.ask(line)[:3] in ("250", "354")
        assert wire.ask(MAIL).startswith("250 ")
        wire.close()
        sink.wait_for_messages(3)
        records = first.wait_for_records(3, "d")
        eventually(lambda: ">>> DATA" in first.log(), "the dialogue is in the log")
    assert sorted(record["rcpt"] for record in records) == ["archive@c.example", "one@a.example", "two@b.example"]
    assert {(record["jobId"], record["envId"]) for record in records} == {("p-spring", "e7")}
    for message in sink.messages:
        head, _, text = message.content.partition(b"\r\n\r\n")
        names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n") if not line.startswith((b" ", b"\t"))]
        assert names == [b"received", b"x-engine", b"date", b"message-id", b"subject"]
        assert b"then" not in head and text == b".text\r\n"


DELAY = """
host-name mx.engine.example
smtp-listener 127.0.0.1:@port@
<source 127.0.0.1>
    always-allow-relaying yes
</source>
<domain sender.example>
    smtp-hosts [127.0.0.1]:{inbox}
</domain>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-recipients-after 1s
    notify-of-delay-every 1s
</domain>
"""


def test_who_asks_for_it_hears_of_a_delay(make_engine: MakeEngine) -> None:
    with Sink("rcpt-4xx") as slow, Sink("accept-all") as inbox:
        engine = make_engine(DELAY.format(port=slow.port, inbox=inbox.port))
        wire = Wire(engine.port, CLIENT)
        recipients = ("RCPT TO:<a@d.example>", "RCPT TO:<b@d.example> NOTIFY=DELAY")
        for line in ("EHLO client.example", "MAIL FROM:<s@sender.example> RET=FULL", *recipients, "DATA"):
            assert wire.ask(line)[:3] in ("250", "354")
        assert wire.ask("Subject: s\r\n\r\nsecret text\r\n.").startswith("250 ")
        wire.close()
        inbox.wait_for_messages(2, timeout_s=30)
        first = inbox.messages[0].content
        eventually(lambda: engine.log().count(" delay-told ") >= 2, "both are in the log")
    assert b"\r\nAction: delayed\r\n" in first and b"\r\nWill-Retry-Until: " in first and b"rfc822;b@d.example" in first
    assert b"a@d.example" not in first and b"secret text" not in first


def test_a_recipient_that_is_no_address_bounces_after_it_was_accepted(make_engine: MakeEngine) -> None:
    with Sink("accept-all") as inbox:
        engine = make_engine(DELAY.replace("yes\n", "yes\n    accept-invalid-recipients yes\n", 1).format(port=inbox.port, inbox=inbox.port))
        wire = Wire(engine.port, CLIENT)
        for line in ("EHLO client.example", "MAIL FROM:<s@sender.example>", "RCPT TO:<o'brien,, x@y z>", "RCPT TO:<a@d.example>", "DATA"):
            assert wire.ask(line)[:3] in ("250", "354")
        assert wire.ask("Subject: s\r\n\r\ntext\r\n.").startswith("250 ")
        wire.close()
        messages = inbox.wait_for_messages(2)
        (bounce,) = engine.wait_for_records(1, "b")
    assert (bounce["rcpt"], bounce["dsnStatus"][:5], bounce["queue"]) == ("o'brien,, x@y z", "5.1.3", "{invalid}/{default}")
    (report,) = [message.content for message in messages if b"Status: 5.1.3" in message.content]
    assert b"Final-Recipient: rfc822;o'brien,, x@y z\r\n" in report


LATE = """
host-name mx.engine.example
smtp-listener 127.0.0.1:@port@
track-time-first-attempt yes
<virtual-mta v>
    include-headers-from headers.txt
</virtual-mta>
<source 127.0.0.1>
    always-allow-relaying yes
    default-virtual-mta v
    add-date-header yes
    date-header-time delivery
    verp-default yes
</source>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""


def test_what_is_made_when_a_message_is_sent(make_engine: MakeEngine) -> None:
    """A virtual MTA's fields, the date of delivery, a sender for each recipient."""
    with Sink("accept-all") as sink:
        engine = make_engine("")
        engine.stop()
        (engine.directory / "headers.txt").write_text("X-Of: v\n")
        engine.configure(LATE.format(port=sink.port))
        engine.start()
        wire = Wire(engine.port, CLIENT)
        for line in ("EHLO client.example", "MAIL FROM:<s@sender.example>", "RCPT TO:<a@d.example>", "RCPT TO:<b@d.example>", "DATA"):
            assert wire.ask(line)[:3] in ("250", "354")
        assert wire.ask("Subject: s\r\nx-dkim-key: secret\r\n\r\ntext\r\n.").startswith("250 ")
        wire.close()
        sink.wait_for_messages(2)
        records = engine.wait_for_records(2, "d")
    assert sorted(message.sender for message in sink.messages) == ["s-a=d.example@sender.example", "s-b=d.example@sender.example"]
    assert sorted(record["orig"] for record in records) == ["s-a=d.example@sender.example", "s-b=d.example@sender.example"]
    assert all(record["timeFirstAttempt"] for record in records)
    for message in sink.messages:
        head = message.content.partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert [line.partition(b":")[0] for line in head if line[:1] not in b" \t"] == [b"Received", b"Date", b"X-Of", b"Subject"]
