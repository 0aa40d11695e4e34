"""What becomes of mail at each misbehaving peer, by its accounting records: real processes, one named misbehaviour each."""

from __future__ import annotations

import smtplib

import pytest

from tests.sinks.session import Hangup, Session
from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1h
    retry-recipients-after 1h
    smtp-greeting-timeout 2s
    smtp-multiple-line-response-timeout 2s
    smtp-data-termination-timeout 2s
    data-send-timeout 2s
    connect-timeout 2s
</domain>
"""

DELIVERED = ["accept-all", "no-extensions", "no-pipelining", "no-8bitmime", "ehlo-rejected", "byte-by-byte", "multi-line"]
BOUNCED = {
    "greeting-554": "5.7.1",
    "mail-5xx": "5.7.1",
    "rcpt-5xx": "5.1.1",
    "data-5xx": "5.6.0",
    "dot-5xx": "5.7.1",
    "354-after-refusals": "5.1.1",
    "size-limit": "5.3.4",
}
DEFERRED = {
    "mail-4xx": "4.3.0",
    "rcpt-4xx": "4.2.1",
    "data-4xx": "4.3.0",
    "dot-4xx": "4.3.0",
    "421-at-mail": "4.3.2",
    "421-at-rcpt": "4.3.2",
    "421-at-data": "4.3.2",
    "421-at-dot": "4.3.2",
    "drop-after-mail": "4.4.2",
    "drop-after-rcpt": "4.4.2",
    "drop-after-data": "4.4.2",
    "drop-mid-body": "4.4.2",
    "deliver-then-drop": "4.4.2",
    "stall-mid-body": "4.4.2",
    "malformed-no-code": "4.4.2",
    "malformed-mixed-codes": "4.4.2",
    "malformed-long-line": "4.4.2",
    "malformed-binary": "4.4.2",
    "malformed-empty-line": "4.4.2",
    "malformed-endless-lines": "4.4.2",
    "extra-replies": "4.4.2",
}
SIZES = {"drop-mid-body": 200_000, "stall-mid-body": 8_000_000, "size-limit": 50_000}
QUEUE_FAILED = [
    *("refuse-connection", "silent-greeting", "greeting-421", "drop-before-greeting"),
    *("drop-after-greeting", "drop-after-ehlo", "421-at-ehlo"),
]


def send(engine: Engine, recipients: list[str], body: bytes = b"Subject: x\r\n\r\nhello\r\n", sender: str = "sender@origin.example") -> None:
    """Inject one message over SMTP."""
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        client.sendmail(sender, recipients, body)


def run(make_engine: MakeEngine, behaviour: str, types: str, recipients: list[str] | None = None) -> list[dict[str, str]]:
    """The first records of *types* that one message through *behaviour* leaves, one per recipient."""
    recipients = recipients or ["user@dest.example"]
    with Sink(behaviour) as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, recipients, b"Subject: x\r\n\r\n" + b"0123456789\r\n" * (SIZES.get(behaviour, 0) // 12 + 1))
        wanted = 1 if types == "tq" else len(recipients)

        def records() -> list[dict[str, str]]:
            return [record for record in engine.records() if record["type"] == types and record.get("rcpt", "") != "sender@origin.example"]

        eventually(lambda: len(records()) >= wanted, f"{wanted} records {types}")
        return records()


@pytest.mark.parametrize("behaviour", DELIVERED)
def test_delivered(make_engine: MakeEngine, behaviour: str) -> None:
    (record,) = run(make_engine, behaviour, "d")
    assert record["rcpt"] == "user@dest.example"
    assert record["queue"] == "dest.example/{default}"
    assert record["dsnStatus"].startswith("2.")


@pytest.mark.parametrize("behaviour", BOUNCED)
def test_bounced(make_engine: MakeEngine, behaviour: str) -> None:
    (record,) = run(make_engine, behaviour, "b")
    assert record["dsnStatus"].partition(" ")[0] == BOUNCED[behaviour]
    assert record["dsnAction"] == "failed"


@pytest.mark.parametrize("behaviour", DEFERRED)
def test_deferred(make_engine: MakeEngine, behaviour: str) -> None:
    (record,) = run(make_engine, behaviour, "t")
    assert record["dsnStatus"].partition(" ")[0] == DEFERRED[behaviour]
    assert record["dsnAction"] == "delayed"


@pytest.mark.parametrize("behaviour", QUEUE_FAILED)
def test_queue_failed(make_engine: MakeEngine, behaviour: str) -> None:
    (record,) = run(make_engine, behaviour, "tq")
    assert record["queue"] == "dest.example/{default}"


def test_too_many_recipients_go_in_the_next_transaction_at_once(make_engine: MakeEngine) -> None:
    recipients = [f"u{n}@dest.example" for n in range(25)]
    with Sink("rcpt-452-after-n", limit=10) as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, recipients)
        eventually(lambda: len(engine.records("d")) == 25, "25 d records")
        assert not engine.records("t")
        assert sorted(rcpt for message in sink.messages for rcpt in message.recipients) == sorted(recipients)


def test_each_recipient_has_its_own_fate(make_engine: MakeEngine) -> None:
    with Sink("rcpt-5xx", addresses=["bad@dest.example"]) as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, ["good@dest.example", "bad@dest.example", "fine@dest.example"])
        eventually(lambda: len(engine.records("d")) >= 2 and len(engine.records("b")) == 1, "two d, one b")
        assert engine.records("b")[0]["rcpt"] == "bad@dest.example"
        eventually(lambda: any(m.sender == "" for m in sink.messages), "the DSN")
        dsn = next(m for m in sink.messages if m.sender == "")
        assert dsn.recipients == ("sender@origin.example",)
        assert b"multipart/report" in dsn.header
        assert b"bad@dest.example" in dsn.body


def test_8bit_content_goes_unchanged_to_a_peer_without_8bitmime(make_engine: MakeEngine) -> None:
    body = "Subject: x\r\n\r\nGrüße\r\n".encode()
    with Sink("no-8bitmime") as sink:
        engine = make_engine(CONF.format(port=sink.port))
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.sendmail("sender@origin.example", ["user@dest.example"], body, mail_options=["BODY=8BITMIME"])
        eventually(lambda: sink.messages, "the message")
        assert sink.messages[0].content.endswith(body)
        assert "BODY" not in sink.messages[0].mail_parameters


class GoesStale(Session):
    """Serves one transaction a connection, and hangs up at the next MAIL, as a peer that has given up on an idle connection."""

    name = "goes-stale"
    transactions = 0

    def answer(self, stage: str, argument: str) -> bytes:
        """See Session."""
        if stage == "mail":
            self.transactions += 1
            if self.transactions > 1:
                raise Hangup
        return super().answer(stage, argument)


def test_a_stale_idle_connection_costs_no_attempt(make_engine: MakeEngine) -> None:
    with Sink(GoesStale) as sink:
        engine = make_engine(CONF.format(port=sink.port) + "<domain dest.example>\nconnection-idle-timeout 5m\n</domain>\n")
        send(engine, ["one@dest.example"])
        eventually(lambda: len(sink.messages) == 1, "the first message")
        send(engine, ["two@dest.example"])
        eventually(lambda: len(engine.records("d")) == 2, "two d records")
        assert not engine.records("t")
        assert len(sink.connections) == 2


def test_two_steps_of_retry_after(make_engine: MakeEngine) -> None:
    with Sink("greeting-421") as sink:
        engine = make_engine(CONF.format(port=sink.port).replace("retry-after 1h", "retry-after 1s,1h"))
        send(engine, ["u@dest.example"])
        eventually(lambda: len(engine.records("tq")) == 2, "two failures of the queue")
        eventually(lambda: engine.log().count("again_in=3600s") == 1, "the second waits an hour")
        assert engine.log().count("again_in=1s") == 1
        assert len(sink.connections) == 2
