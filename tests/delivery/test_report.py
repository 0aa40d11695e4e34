"""DSNs and copies as they are accepted: for whom, to whom, in which queue."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from engine.config.settings import DomainSettings, ServerSettings
from engine.delivery.outcome import DISCARDED, Peer, Result
from engine.delivery.report import COPIED_WHOLE_BYTES, Reporter
from engine.errors import SpoolError
from engine.mail.envelope import Body, Due, Message
from engine.mail.received import date
from engine.scheduler.queue import Queue, Row
from engine.spool.ops import Accept

CONTENT = b"Subject: hello\r\n\r\nbody\r\n"


class FakeSpool:
    """Link, reader and writer in one: keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False
        self.broken = False

    def new_id(self) -> bytes:
        return b"n" * 12

    def body(self, body: Body, message_id: bytes) -> bytes:
        return CONTENT

    def body_chunks(self, body: Body, message_id: bytes) -> Any:
        yield CONTENT[:18]
        if self.broken:
            raise SpoolError("checksum")
        yield CONTENT[18:]

    def write(self, first: Any, parts: Any = None) -> Body:
        self.written += b"".join(parts) if parts is not None else first
        return Body(1, 2, 3, len(self.written), 0)

    def begin_large(self, message_id: bytes) -> FakeSpool:
        return self

    def finish(self) -> Body:
        return Body(1, 1 << 31, 3, len(self.written), 0)

    def abort(self) -> None:
        self.aborted = True


def message(**changes: Any) -> Message:
    made = Message(Body(1, 1, 20, len(CONTENT), 0), "a@b.example", b"Received: us\r\n", 1_000, False, True, "", "", "smtp", "h", "job")
    return msgspec.structs.replace(made, **changes)


def reporter(spool: FakeSpool, **server: Any) -> Reporter:
    fake = cast(Any, spool)
    return Reporter(ServerSettings(host_name=("us.example",), **server), fake, fake, fake)


def dsn(spool: FakeSpool, settings: DomainSettings, about: Message, diag: str = "smtp;550 no", **server: Any) -> Accept | None:
    results = [Result(Row(b"k" * 29, Due("u@d.example", 1_000)), "b", "5.1.1", diag)]
    return reporter(spool, **server).accept_for(Queue(1, "d.example/v", settings), about, b"m" * 12, results, Peer(), 2_000)


def recipient(accept: Accept) -> tuple[str, str]:
    (only,) = accept.recipients
    return only.queue, msgspec.msgpack.decode(only.due, type=Due).address


@pytest.mark.parametrize(
    ("settings", "about", "diag", "queue_and_address"),
    [
        ({}, {}, "smtp;550 no", ("b.example/v", "a@b.example")),
        ({"bounce_address": "bounces@us.example"}, {}, "smtp;550 no", ("us.example/v", "bounces@us.example")),
        ({"bounce_address": "postmaster"}, {}, "smtp;550 no", ("us.example/v", "postmaster@us.example")),
        ({"bounce_address": "bounces@us.example"}, {"return_path": ""}, "smtp;550 no", None),
        ({"deliver_local_dsn": False}, {}, "smtp;550 no", None),
        ({"type": "discard"}, {}, DISCARDED, None),
    ],
)
def test_who_is_told(settings: dict[str, Any], about: dict[str, Any], diag: str, queue_and_address: tuple[str, str] | None) -> None:
    accept = dsn(FakeSpool(), DomainSettings(**settings), message(**about), diag)
    assert (accept and recipient(accept)) == queue_and_address


def test_what_operators_set_of_its_words() -> None:
    spool = FakeSpool()
    assert dsn(
        spool, DomainSettings(retry_after=(60.0,)), message(), custom_dsn_from_header="Us <us@us.example>",
        dsn_failed_subject_template="Failed: ${subject}", dsn_failed_body_template_from=("/t", "Sorry. ${retryAfter} ${bounceAfter}\n"),
    )  # fmt: skip
    assert b"From: Us <us@us.example>\r\nSubject: Failed: hello\r\n" in spool.written
    assert b"\r\n\r\nSorry. 1m 4d12h\r\n" in spool.written and b"multipart/report" in spool.written


@pytest.mark.parametrize(
    ("settings", "about", "notify", "reported"),
    [
        ({}, {"ret": "FULL"}, 8, True),
        ({}, {}, 0, False),
        ({}, {}, 6, False),
        ({}, {"return_path": ""}, 8, False),
        ({}, {"notify_sender": False}, 8, False),
        ({"deliver_local_dsn": False}, {}, 8, False),
    ],
)
def test_a_delay_is_told_to_whom_asked_for_it_with_its_end_and_without_the_message(
    settings: dict[str, Any], about: dict[str, Any], notify: int, reported: bool
) -> None:
    spool = FakeSpool()
    queue = Queue(1, "d.example/v", DomainSettings(bounce_after_s=86_400.0, **settings))
    results = [Result(Row(b"k" * 29, Due("u@d.example", 1_000, notify=notify)), "t", "4.2.1", "smtp;450 4.2.1 busy", 5_000)]
    peer = Peer("", "mx.d.example", "192.0.2.1")
    accept = reporter(spool).accept_for(queue, message(**about), b"m" * 12, results, peer, 2_000, True)
    assert (accept is not None) == reported
    if accept is not None:
        sent = msgspec.msgpack.decode(accept.message, type=Message)
        assert (sent.return_path, sent.notify_sender, recipient(accept)) == ("", False, ("b.example/v", "a@b.example"))
        assert b"\r\nAction: delayed\r\nStatus: 4.2.1\r\nRemote-MTA: dns;mx.d.example (192.0.2.1)\r\n" in spool.written
        assert f"\r\nWill-Retry-Until: {date(86_401)}\r\n".encode() in spool.written
        assert b"Tried until: " in spool.written and b"Subject: Delivery Status Notification (Delay)" in spool.written
        assert b"text/rfc822-headers" in spool.written and not spool.written.endswith(CONTENT)
    assert reporter(FakeSpool()).accept_for(queue, message(**about), b"m" * 12, results, peer, 2_000) is None, "a deferral is no bounce"


def test_plain_text_has_no_parts() -> None:
    spool = FakeSpool()
    assert dsn(spool, DomainSettings(dsn_format="plain-text"), message())
    assert b"Content-Type: text/plain" in spool.written and b"multipart" not in spool.written and b"Subject: hello" in spool.written


# --- bcc-upon-delivery ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
def test_a_copy_is_the_message_itself_for_another_recipient_of_whom_nobody_hears(large: bool) -> None:
    spool = FakeSpool()
    size = COPIED_WHOLE_BYTES + 1 if large else len(CONTENT)
    queue = Queue(1, "d.example/v", DomainSettings(bcc_upon_delivery="archive@us.example"))
    accept = reporter(spool).copy_for(queue, message(body=Body(1, 1, 20, size, 0)), b"m" * 12, 5_000)
    assert accept is not None and recipient(accept) == ("us.example/v", "archive@us.example")
    assert spool.written == CONTENT and (accept.epoch, accept.segment) == (1, 1 << 31 if large else 2)
    copied = msgspec.msgpack.decode(accept.message, type=Message)
    assert (copied.return_path, copied.prefix, copied.src_type, copied.notify_sender) == ("a@b.example", b"Received: us\r\n", "local", False)
    assert msgspec.msgpack.decode(accept.recipients[0].due, type=Due).notify == 1
    assert reporter(spool).copy_for(queue, copied, b"m" * 12, 5_000) is None, "no copies of copies"


def test_a_large_copy_that_cannot_be_read_leaves_nothing() -> None:
    spool = FakeSpool()
    spool.broken = True
    queue = Queue(1, "d.example/v", DomainSettings(bcc_upon_delivery="archive@us.example"))
    with pytest.raises(SpoolError):
        reporter(spool).copy_for(queue, message(body=Body(1, 1, 20, COPIED_WHOLE_BYTES + 1, 0)), b"m" * 12, 5_000)
    assert spool.aborted
