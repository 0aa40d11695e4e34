"""What a message becomes on its way into the spool, and when it is refused."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from typing import Any

import pytest

from engine.errors import SpoolError
from engine.mail import message_id
from engine.mail.received import from_clause
from engine.mail.reply import Reply
from engine.policy.access import Admitted
from engine.reception import Envelope, Intake, Origin, Reception
from engine.reception.intake import LARGE_BYTES, MEMORY_SHORT_BYTES, SPILL_BYTES
from engine.reception.reception import MAX_PENDING_BYTES, MEMORY_FULL_BYTES
from tests.reception.fakes import FakeLink, FakeLog, FakeSegments, client, config

SMALL = b"From: a@b.example\r\nSubject: x\r\n\r\n..dot\r\nbody\r\n"


class Gate:
    """A Reception with fakes behind it; `send` takes one message in and returns the answer."""

    def __init__(self, **changes: Any) -> None:
        self.link, self.segments, self.log = FakeLink(), FakeSegments(), FakeLog()
        self.client: Any = client(**changes)
        self.reception = Reception(config(), self.link, self.segments, self.log)  # type: ignore[arg-type]
        self.answers: list[Reply] = []

    def origin(self, helo: str = "client.example") -> Origin:
        clause = "" if self.client.hide_message_source else from_clause(helo, "192.0.2.9")
        return Origin(self.client, "192.0.2.9", helo, "ESMTP", "mx.engine.example", clause, f"{helo} (192.0.2.9)", lambda: "127.0.0.12")

    def envelope(self, recipients: Iterable[str], sender: str = "s@sender.example", notify: int = 0, orcpt: str = "") -> Envelope:
        envelope = Envelope(sender, "HDRS" if notify else "", "env-1" if notify else "")
        for address in recipients:
            verdict = self.reception.access.admit(address, self.client.always_allow_relaying)
            assert isinstance(verdict, Admitted)
            envelope.add(address, verdict, notify, orcpt, self.reception.dsn_for_relayed)
        return envelope

    def begin(self, recipients: Iterable[str] = ("r@one.example",), sender: str = "s@sender.example") -> Intake:
        return self.reception.begin(self.origin(), self.envelope(recipients, sender))

    def send(self, *chunks: bytes, recipients: Iterable[str] = ("r@one.example",), sender: str = "s@sender.example") -> Reply:
        intake = self.begin(recipients, sender)
        for chunk in chunks:
            refusal = intake.write(chunk)
            if refusal is not None:
                intake.abort()
                return refusal
        intake.end(self.answers.append)
        return self.answers.pop()

    @property
    def body(self) -> bytes:
        (stored,) = self.segments.bodies.values()
        return stored


def test_a_message_is_stored_and_acknowledged_with_its_id() -> None:
    gate = Gate()
    answer = gate.send(SMALL)
    shown = message_id.text(message_id.pack(1, 1, 1))
    assert answer.text == f"250 2.6.0 message received, queued as {shown}"
    assert gate.body == SMALL
    (message,) = gate.link.messages()
    assert (message.return_path, message.eight_bit, message.notify_sender, message.src_type) == ("s@sender.example", False, True, "smtp")
    assert message.src_mta == "client.example (192.0.2.9)"
    assert message.body.size_bytes == len(SMALL)
    ((queue, due),) = gate.link.recipients()
    assert (queue, due.address, due.orcpt, due.pool) == ("one.example/{default}", "r@one.example", "", "")
    expected = (
        rb"Received: from client\.example \(\[192\.0\.2\.9\]\)\r\n\tby mx\.engine\.example \(engine v[0-9.]+\) with ESMTP id "
        + shown.encode()
        + rb"\r\n\tfor <r@one\.example>; [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\r\n"
    )
    assert re.fullmatch(expected, message.prefix)
    assert gate.log.text("accepted") == (
        f"id={shown} queue=one.example/{{default}} (1 rcpts) client=192.0.2.9 helo=client.example from=<s@sender.example> size={len(SMALL)}"
    )


def test_for_stands_only_with_one_recipient() -> None:
    gate = Gate()
    gate.send(SMALL, recipients=("a@one.example", "b@two.example"))
    assert b"for <" not in gate.link.messages()[0].prefix


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({"hide_message_source": True}, b"Received: by mx.engine.example", b"192.0.2.9"),
        ({"add_received_header": False}, b"", b"Received"),
        ({"add_x_virtual_mta_header": True, "default_virtual_mta": "a"}, b"\r\nX-Virtual-MTA: a\r\n", b"\n\n"),
    ],
)
def test_headers_of_ours(changes: dict[str, Any], present: bytes, absent: bytes) -> None:
    gate = Gate(**changes)
    gate.send(SMALL)
    (message,) = gate.link.messages()
    assert present in message.prefix
    assert absent not in message.prefix
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\r\n\.", message.prefix)


@pytest.mark.parametrize("helo", ["x); by evil (y", "a b", "[1.2.3.4] x", "", "é.example", "a\\b"])
def test_a_helo_that_is_no_name_stays_out_of_received(helo: str) -> None:
    assert from_clause(helo, "192.0.2.9") == "from [192.0.2.9] ([192.0.2.9])\r\n\t"  # RFC 5321 §4.4: Extended-Domain


def test_address_literals_in_received() -> None:
    assert from_clause("[IPv6:2001:db8::1]", "2001:db8::1") == "from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\t"


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (b"", b""),
        (b"\r\nno header\r\n", b"\r\nno header\r\n"),
        (b"Just text\r\n", b"\r\nJust text\r\n"),
        (b"From who Mon Jan 1\r\nTo: x\r\n", b"\r\nFrom who Mon Jan 1\r\nTo: x\r\n"),
        (b" folded into ours\r\n\r\nx\r\n", b"\r\n folded into ours\r\n\r\nx\r\n"),
        (b"Only: header\r\n", b"Only: header\r\n"),
    ],
)
def test_text_without_a_header_section_keeps_apart_from_ours(content: bytes, stored: bytes) -> None:
    gate = Gate()
    assert gate.send(content).code == 250
    assert gate.body == stored


@pytest.mark.parametrize(("body", "eight_bit"), [(b"caf\xc3\xa9\r\n", True), (b"\x7f\r\n", False)])
def test_eight_bit_is_noticed(body: bytes, eight_bit: bool) -> None:
    gate = Gate()
    gate.send(b"A: b\r\n\r\n", body)
    assert gate.link.messages()[0].eight_bit is eight_bit


def test_every_cut_gives_the_same_body() -> None:
    for at in range(len(SMALL) + 1):
        gate = Gate()
        assert gate.send(SMALL[:at], SMALL[at:]).code == 250
        assert gate.body == SMALL
    gate = Gate()
    gate.send(*(SMALL[i : i + 1] for i in range(len(SMALL))))
    assert gate.body == SMALL


# --- the virtual MTA --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [10, LARGE_BYTES + 1])
def test_x_virtual_mta_is_obeyed_and_stripped(size_bytes: int) -> None:
    gate = Gate()
    text = b"x" * 70 + b"\r\n"
    body = text * (size_bytes // 72 + 1)
    assert gate.send(b"A: 1\r\nX-Virtual-MTA :\r\n\t b \r\nB: 2\r\nx-virtual-mta: a\r\n\r\n" + body).code == 250
    assert gate.body == b"A: 1\r\nB: 2\r\n\r\n" + body
    assert [queue for queue, _ in gate.link.recipients()] == ["one.example/b"]


@pytest.mark.parametrize(
    ("changes", "queue", "kept"),
    [
        ({"retain_x_virtual_mta": True}, "one.example/b", True),
        ({"process_x_virtual_mta": False}, "one.example/{default}", True),
    ],
)
def test_x_virtual_mta_kept(changes: dict[str, Any], queue: str, kept: bool) -> None:
    gate = Gate(**changes)
    gate.send(b"X-Virtual-MTA: b\r\n\r\nx\r\n")
    assert (b"X-Virtual-MTA" in gate.body) is kept
    assert gate.link.recipients()[0][0] == queue


def test_strangers_control_nothing() -> None:
    gate = Gate(always_allow_relaying=False)
    gate.send(b"X-Virtual-MTA: b\r\n\r\nx\r\n", recipients=("u@relay.example",))
    assert gate.link.recipients()[0][0] == "relay.example/{default}"


def test_unknown_virtual_mta_refuses_the_message() -> None:
    gate = Gate()
    assert gate.send(b"X-Virtual-MTA: nope\r\n\r\nx\r\n").text == "550 5.5.0 specified Virtual MTA 'nope' does not exist"
    assert not gate.link.accepted
    assert not gate.segments.bodies


def test_large_text_without_a_header_section() -> None:
    gate = Gate()
    text = b"text, not a field\r\n" * 20_000
    assert gate.send(text).code == 250
    assert gate.body == b"\r\n" + text


def test_a_header_that_only_the_body_shows_is_no_header() -> None:
    gate = Gate()
    gate.send(b"A: b\r\n\r\nX-Virtual-MTA: b\r\nReceived: x\r\n")
    assert gate.body == b"A: b\r\n\r\nX-Virtual-MTA: b\r\nReceived: x\r\n"


def test_pool_members_take_turns_by_recipient() -> None:
    gate = Gate(default_virtual_mta="p")
    gate.send(SMALL, recipients=[f"u{n}@one.example" for n in range(4)])
    assert [(queue, due.pool) for queue, due in gate.link.recipients()] == [(f"one.example/{m}", "p") for m in ("a", "b", "a", "b")]


def test_a_header_that_names_the_virtual_mta_is_true_for_all_recipients() -> None:
    gate = Gate(default_virtual_mta="p", add_x_virtual_mta_header=True)
    gate.send(SMALL, recipients=[f"u{n}@one.example" for n in range(3)])
    assert {queue for queue, _ in gate.link.recipients()} == {"one.example/a"}
    assert b"X-Virtual-MTA: a\r\n" in gate.link.messages()[0].prefix


def test_by_smtp_source_ip() -> None:
    gate = Gate(default_virtual_mta="by-smtp-source-ip")
    gate.send(SMALL)
    assert gate.link.recipients()[0][0] == "one.example/b"


# --- recipients -------------------------------------------------------------------------------------------------------------------------


def test_each_address_once() -> None:
    gate = Gate()
    gate.send(SMALL, recipients=("a@one.example", "a@one.example", "A@one.example"))
    assert [due.address for _, due in gate.link.recipients()] == ["a@one.example", "A@one.example"]


def test_postmaster_is_forwarded() -> None:
    gate = Gate(always_allow_relaying=False)
    gate.send(SMALL, recipients=("postmaster", "Postmaster@mx.engine.example"), sender="")
    ((queue, due),) = gate.link.recipients()
    assert (queue, due.address, due.orcpt) == ("corp.example/{default}", "ops@corp.example", "rfc822;postmaster@mx.engine.example")


@pytest.mark.parametrize(
    ("may_relay", "sender", "notify"),
    [(True, "s@sender.example", True), (True, "", False), (False, "s@sender.example", False)],
)
def test_dsn_permission(may_relay: bool, sender: str, notify: bool) -> None:
    gate = Gate(always_allow_relaying=may_relay)
    gate.send(SMALL, recipients=("u@relay.example",), sender=sender)
    assert gate.link.messages()[0].notify_sender is notify


def test_dsn_for_relayed_domain() -> None:
    gate = Gate(always_allow_relaying=False)
    gate.reception.dsn_for_relayed = True
    gate.send(SMALL, recipients=("u@relay.example",))
    assert gate.link.messages()[0].notify_sender


# --- refusals ---------------------------------------------------------------------------------------------------------------------------


def test_hops() -> None:
    for hops, code in ((3, 250), (4, 554)):
        answer = Gate().send(b"received: x\r\n y\r\n" * hops + b"\r\nReceived: not one\r\n")
        assert answer.code == code
    assert answer.text.startswith("554 5.4.6")


@pytest.mark.parametrize("end", [b"", b"\r\n\r\nbody\r\n"])
def test_header_section_without_end(end: bytes) -> None:
    gate = Gate()
    answer = gate.send(b"A: " + b"b" * LARGE_BYTES, end)
    assert answer.text.startswith("552 5.3.4")
    assert not gate.segments.large


@pytest.mark.parametrize(
    ("reason", "answer"),
    [("disk low: 1 MB free", "452 4.3.1"), ("full: map", "452 4.3.1"), ("sync of segment 1 failed", "451 4.3.0"), ("closed", "451 4.3.0")],
)
def test_spool_refuses(reason: str, answer: str) -> None:
    gate = Gate()
    gate.link.reply = reason
    assert gate.send(SMALL).text.startswith(answer)
    assert reason in gate.log.text("not-stored")
    gate.link.reply = None
    gate.segments.failing = reason
    assert gate.send(SMALL).text.startswith(answer)
    assert "accepted" not in gate.log.kinds()


def test_too_much_unacknowledged_refuses_early() -> None:
    gate = Gate()
    assert gate.reception.refusal() is None
    gate.link.pending_bytes = MAX_PENDING_BYTES + 1
    refusal = gate.reception.refusal()
    assert refusal is not None
    assert refusal.text.startswith("451 4.3.0")


def test_disk_low_refuses_early_until_the_next_tick() -> None:
    gate = Gate()
    gate.link.reply = "disk low: 1 MB free"
    gate.send(SMALL)
    refusal = gate.reception.refusal()
    assert refusal is not None
    assert refusal.text.startswith("452 4.3.1")
    gate.reception.tick()
    assert gate.reception.refusal() is None


def test_no_space_left_is_disk_low() -> None:
    gate = Gate()

    def write(*_: object) -> None:
        raise SpoolError("body cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    gate.segments.write = write  # type: ignore[assignment,method-assign]
    assert gate.send(SMALL).text.startswith("452 4.3.1")


def test_a_spool_that_only_delivers_takes_nothing_in() -> None:
    settings = config(spool="deliver-only yes")
    refusal = Reception(settings, FakeLink(), FakeSegments(), FakeLog()).refusal()  # type: ignore[arg-type]
    assert refusal is not None
    assert refusal.text.startswith("450 4.3.2")


def test_the_answer_waits_for_the_spool() -> None:
    gate = Gate()
    gate.link.holding = True
    intake = gate.begin()
    intake.write(SMALL)
    intake.end(gate.answers.append)
    assert not gate.answers
    assert not gate.log.events
    gate.link.release()
    assert gate.answers[0].code == 250


def test_given_up_means_no_answer_but_delivery() -> None:
    gate = Gate()
    gate.link.holding = True
    intake = gate.begin()
    intake.write(SMALL)
    intake.end(gate.answers.append)
    intake.give_up()
    gate.link.release()
    assert not gate.answers
    assert gate.log.kinds() == ["accepted"]


# --- bodies that stream -----------------------------------------------------------------------------------------------------------------


def test_large_bodies_stream_into_a_file_of_their_own() -> None:
    gate = Gate()
    chunk = (b"y" * 998 + b"\r\n") * 64
    assert gate.send(b"A: b\r\n\r\n", *[chunk] * 8, b"\xff\r\n").code == 250
    assert gate.body == b"A: b\r\n\r\n" + chunk * 8 + b"\xff\r\n"
    assert gate.segments.large[0].state == "finished"
    (message,) = gate.link.messages()
    assert message.eight_bit
    assert gate.link.accepted[0].id == gate.segments.large[0].identity


@pytest.mark.parametrize("when", ["mid-way", "write fails", "finish fails"])
def test_large_bodies_are_aborted(when: str) -> None:
    gate = Gate()
    intake = gate.begin()
    assert intake.write(b"A: b\r\n\r\n" + b"z" * LARGE_BYTES) is None
    (large,) = gate.segments.large
    if when == "write fails":
        gate.segments.failing = "disk full"
        refusal = intake.write(b"more\r\n")
        assert refusal is not None
        assert refusal.code == 452
    if when == "finish fails":
        gate.segments.failing = "short write"
        intake.end(gate.answers.append)
        assert gate.answers[0].code == 451
    intake.abort()
    assert large.state == "aborted"
    assert not gate.link.accepted


def test_what_the_client_wants_to_hear_travels_along() -> None:
    gate = Gate()
    envelope = gate.envelope(["a@one.example", "postmaster"], notify=6, orcpt="rfc822;x@y.example")
    intake = gate.reception.begin(gate.origin(), envelope)
    intake.write(SMALL)
    intake.end(gate.answers.append)
    (message,) = gate.link.messages()
    assert (message.ret, message.env_id) == ("HDRS", "env-1")
    assert [(due.notify, due.orcpt) for _, due in gate.link.recipients()] == [(6, "rfc822;x@y.example")] * 2


# --- memory -----------------------------------------------------------------------------------------------------------------------------


def test_while_memory_is_short_bodies_go_to_disk_early() -> None:
    gate = Gate()
    intake = gate.begin()
    gate.reception.held_bytes += MEMORY_SHORT_BYTES + 1
    held = gate.reception.held_bytes
    assert gate.reception.refusal() is None
    assert intake.write(SMALL) is None and not gate.segments.large
    assert gate.reception.held_bytes == held + len(SMALL)
    more = b"x" * 98 + b"\r\n"
    for _ in range(SPILL_BYTES // 100 + 1):
        assert intake.write(more) is None
    assert gate.segments.large and gate.reception.held_bytes == held
    intake.end(gate.answers.append)
    assert gate.answers.pop().code == 250
    assert gate.body == SMALL + more * (SPILL_BYTES // 100 + 1)


def test_a_header_section_that_does_not_end_is_held_until_memory_is_full() -> None:
    gate = Gate()
    intake = gate.begin()
    gate.reception.held_bytes += MEMORY_FULL_BYTES - SPILL_BYTES
    assert intake.write(b"X: " + b"x" * (SPILL_BYTES - 3)) is None
    assert not gate.segments.large
    refusal = intake.write(b"y")
    assert refusal is not None and refusal.text.startswith("452 4.3.1")
    intake.abort()
