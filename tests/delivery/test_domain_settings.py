"""What single <domain> directives change in the life of a message, one test each."""

from __future__ import annotations

import pytest

from engine.config.settings import DomainSettings
from engine.mail.record import QueueRecord, RecipientRecord, decode
from engine.spool.ops import Settle
from tests.delivery.slot_world import SlotWorld, turned

ACCEPTED = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"
STARS = b"220 " + b"*" * 40 + b"\r\n"


def diagnostics(world: SlotWorld) -> list[str]:
    found = [decode(row.record) for operation in world.records for row in operation.rows if row.record]
    return [record.dsn_diag for record in found if isinstance(record, RecipientRecord)]


# --- a transfer that breaks off -------------------------------------------------------------------------------------------------------------


async def broken_off(settings: DomainSettings, how: str, greeting: bytes = b"220 mx.example\r\n") -> list[str]:
    """The fate of a message whose connection ends after the final dot: lost, timed out, or by our own doing."""
    world = SlotWorld(settings)
    world.add(1)
    await world.rest()
    connection, transport = world.connections[0], world.transports[0]
    connection.data_received(greeting)
    transport.said()
    connection.data_received(b"250 mx.example\r\n")
    for reply in (b"250 2.1.0 ok\r\n", b"250 2.1.5 ok\r\n", b"354 go ahead\r\n"):
        connection.data_received(reply)
    connection.check(connection.now_s + 1)
    assert transport.said().endswith(b"body\r\n.\r\n")
    if how == "lost":
        connection.connection_lost(None)
    elif how == "timeout":
        connection.check(connection.now_s + 100_000)
    else:
        connection.abort("an internal fault, see the log", True)
    await world.rest()
    assert world.total.mine() == 0
    return world.fates()


@pytest.mark.parametrize(
    ("settings", "how", "greeting", "fate"),
    [
        ({}, "lost", b"220 mx\r\n", "m1r0 t 4.4.2"),
        ({}, "timeout", b"220 mx\r\n", "m1r0 t 4.4.2"),
        ({"bounce_upon_transfer_failure": True}, "lost", b"220 mx\r\n", "m1r0 b 5.4.2"),
        ({"bounce_upon_transfer_failure": True}, "timeout", b"220 mx\r\n", "m1r0 b 5.4.2"),
        ({"bounce_upon_transfer_failure": True}, "ours", b"220 mx\r\n", "m1r0 t 4.4.2"),
        ({"bounce_upon_pix_transfer_failure": True}, "lost", b"220 mx\r\n", "m1r0 t 4.4.2"),
        ({"bounce_upon_pix_transfer_failure": True}, "lost", STARS, "m1r0 b 5.4.2"),
        ({"bounce_upon_pix_transfer_failure": True}, "ours", STARS, "m1r0 t 4.4.2"),
        ({"assume_delivery_upon_data_termination_timeout": True}, "timeout", b"220 mx\r\n", "m1r0 d 2.0.0"),
        ({"assume_delivery_upon_data_termination_timeout": True}, "lost", b"220 mx\r\n", "m1r0 t 4.4.2"),
        ({"assume_delivery_upon_data_termination_timeout": True}, "ours", b"220 mx\r\n", "m1r0 t 4.4.2"),
    ],
)
def test_a_transfer_that_breaks_off(settings: dict[str, bool], how: str, greeting: bytes, fate: str) -> None:
    @turned
    async def run() -> None:
        assert await broken_off(DomainSettings(**settings), how, greeting) == [fate]  # type: ignore[arg-type]

    run()


@turned
async def test_before_the_body_a_lost_connection_is_no_transfer_failure() -> None:
    world = SlotWorld(DomainSettings(bounce_upon_transfer_failure=True, assume_delivery_upon_data_termination_timeout=True))
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n")
    connection.connection_lost(None)
    await world.rest()
    assert world.fates() == ["m1r0 t 4.4.2"]


# --- pix-bug-workaround ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("greeting", "workaround", "apart"), [(STARS, True, True), (STARS, False, False), (b"220 mx ****\r\n", True, False)])
def test_the_final_dot_goes_out_apart(greeting: bytes, workaround: bool, apart: bool, large: bool) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(pix_bug_workaround=workaround))
        if large:
            world.size_bytes = 900_000
            world.chunks = lambda: iter([b"body\r\n"])
        world.add(1)
        await world.rest()
        connection, transport = world.connections[0], world.transports[0]
        connection.data_received(greeting)
        connection.data_received(b"250-mx\r\n250 PIPELINING\r\n")
        transport.said()
        connection.data_received(ACCEPTED)
        assert transport.said() == (b"body\r\n" if apart else b"body\r\n.\r\n")
        transport.unsent = 6
        connection.check(connection.now_s + 0.25)
        assert transport.said() == b"", "the body has not left yet"
        transport.unsent = 0
        connection.check(connection.now_s + 0.25)
        assert transport.said() == (b".\r\n" if apart else b"")
        connection.data_received(b"250 2.0.0 taken\r\n")
        await world.rest()
        assert world.fates() == ["m1r0 d 2.0.0"]

    run()


@turned
async def test_no_dot_follows_a_body_that_was_refused_before_it() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    await world.rest()
    connection, transport = world.connections[0], world.transports[0]
    connection.data_received(STARS)
    connection.data_received(b"250-mx\r\n250 PIPELINING\r\n")
    connection.data_received(ACCEPTED)
    connection.data_received(b"552 5.3.4 too large\r\n")
    transport.said()
    connection.check(connection.now_s + 0.25)
    await world.rest()
    assert transport.said() == b"" and world.fates() == ["m1r0 b 5.3.4"]


# --- 421 and 553 ----------------------------------------------------------------------------------------------------------------------------


@turned
async def test_421_means_that_the_mx_is_unavailable() -> None:
    world = SlotWorld(DomainSettings(smtp_421_means_mx_unavailable=True))
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"250 2.1.0 ok\r\n421 4.7.0 too busy\r\n")
    await world.rest()
    assert world.fates() == [], "nothing was tried"
    blocked = world.slot._opener._reachability.blocked("127.0.0.1", "192.0.2.1", 25, connection.now_s, 1.0)
    assert blocked == "RCPT was answered 421 4.7.0 too busy"
    _, transport = await world.open()
    assert b"m1r0@" in transport.said()


@turned
async def test_421_to_the_final_dot_costs_that_message_an_attempt() -> None:
    """Or a message that is answered so each time would stand before all others for days."""
    world = SlotWorld(DomainSettings(smtp_421_means_mx_unavailable=True))
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(ACCEPTED)
    connection.data_received(b"421 4.7.0 too busy\r\n")
    await world.rest()
    assert world.fates() == ["m1r0 t 4.7.0"]
    assert world.slot._opener._reachability.blocked("127.0.0.1", "192.0.2.1", 25, connection.now_s, 1.0)


@turned
async def test_without_it_421_is_an_attempt_and_the_mx_is_not_to_blame() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"421 4.7.0 too busy\r\n")
    await world.rest()
    assert world.fates() == ["m1r0 t 4.7.0"]
    assert not world.slot._opener._reachability.blocked("127.0.0.1", "192.0.2.1", 25, connection.now_s, 1.0)


@pytest.mark.parametrize(("replace", "diag"), [(True, "smtp;421 service unavailable"), (False, "smtp;421 4.7.0 call us at 555")])
def test_what_421_says_is_kept_out_of_records(replace: bool, diag: str) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(replace_smtp_421_service_response=replace))
        world.add(1)
        connection, _ = await world.open()
        connection.data_received(b"421 4.7.0 call us at 555\r\n")
        await world.rest()
        assert diagnostics(world) == [diag]
        assert world.fates() == ["m1r0 t 4.7.0"], "the status stays"

    run()


@turned
async def test_what_421_says_in_a_greeting_is_kept_out_of_records() -> None:
    world = SlotWorld(DomainSettings(replace_smtp_421_service_response=True))
    world.add(1)
    await world.rest()
    world.connections[0].data_received(b"421 4.7.0 call us at 555\r\n")
    await world.rest()
    (operation,) = world.records
    record = decode(operation.records[0])
    assert isinstance(record, QueueRecord) and record.dsn_diag.endswith("GREETING was answered 421 service unavailable")


@pytest.mark.parametrize(
    ("means", "reply", "status"),
    [
        (True, b"553 no such mailbox\r\n", "5.1.1"),
        (False, b"553 no such mailbox\r\n", "5.0.0"),
        (True, b"553 5.7.1 not allowed\r\n", "5.7.1"),
        (True, b"550 no\r\n", "5.0.0"),
    ],
)
def test_553_to_rcpt(means: bool, reply: bytes, status: str) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(smtp_553_means_invalid_mailbox=means))
        world.add(1)
        connection, _ = await world.open()
        connection.data_received(b"250 2.1.0 ok\r\n" + reply + b"503 5.5.1 no recipients\r\n")
        await world.rest()
        assert world.fates() == [f"m1r0 b {status}"]

    run()


@turned
async def test_553_to_mail_says_nothing_of_the_mailbox() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"553 no\r\n503 5.5.1 no\r\n503 5.5.1 no\r\n")
    await world.rest()
    assert world.fates() == ["m1r0 b 5.0.0"]


# --- records, headers, discard --------------------------------------------------------------------------------------------------------------


@turned
async def test_records_that_are_disabled_are_not_written_and_the_outcome_stands() -> None:
    world = SlotWorld(DomainSettings(disable_acct_records=("d", "t")))
    world.add(1)
    world.add(1)
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    connection.data_received(b"250 2.1.0 ok\r\n450 4.2.0 later\r\n503 5.5.1 no recipients\r\n")
    connection.data_received(b"250 2.0.0 reset\r\n250 2.1.0 ok\r\n550 5.1.1 no\r\n503 5.5.1 no recipients\r\n")
    await world.rest()
    assert world.fates() == ["m3r0 b 5.1.1"]
    (left,) = world.disk.values()
    assert left.address == "m2r0@d1.example" and left.attempts == 1 and left.last_reply == "450 4.2.0 later"


@pytest.mark.parametrize(("disabled", "records"), [(("tq",), 0), ((), 1)])
def test_queue_records_that_are_disabled(disabled: tuple[str, ...], records: int) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(disable_acct_records=disabled))
        world.add(1)
        await world.rest()
        world.connections[0].data_received(b"421 4.3.2 no\r\n")
        await world.rest()
        assert sum(len(operation.records) for operation in world.records) == records
        assert [kind for kind, _ in world.log] == ["queue-failed"]

    run()


@pytest.mark.parametrize("large", [False, True])
def test_header_fields_are_cut_out(large: bool) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(remove_header=(b"x-secret", b"received")))
        wire = b"X-Secret: a\r\n b\r\nSubject: x\r\nX-SECRET : c\r\n\r\nX-Secret: body\r\n"
        world.content = wire
        if large:
            world.size_bytes = 900_000
            world.chunks = lambda: iter([wire[i : i + 5] for i in range(0, len(wire), 5)])
        world.prefix = b"Received: by us\r\n for <x@y>\r\nMessage-ID: <1@us>\r\n"
        world.add(1)
        connection, transport = await world.open()
        transport.said()
        connection.data_received(ACCEPTED)
        assert transport.said() == b"Message-ID: <1@us>\r\nSubject: x\r\n\r\nX-Secret: body\r\n.\r\n"

    run()


@pytest.mark.parametrize(("as_bounce", "fate"), [(True, "m1r0 b 5.0.0"), (False, "m1r0 d 2.0.0")])
def test_discard_as_bounce_writes_b_and_tells_nobody(as_bounce: bool, fate: str) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(type="discard", discard_as_bounce=as_bounce))
        world.add(1)
        await world.rest()
        assert world.fates() == [fate] and diagnostics(world) == ["x-engine;discarded"]
        assert all(isinstance(operation, Settle) and operation.accept is None for operation in world.records)

    run()


# --- retry-upon-new-mail --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("upon_new_mail", "attempts"), [(True, 2), (False, 1)])
def test_new_mail_ends_the_wait_of_a_queue(upon_new_mail: bool, attempts: int) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(retry_upon_new_mail=upon_new_mail))
        world.add(1)
        await world.rest()
        world.connections[0].data_received(b"421 4.3.2 no\r\n")
        await world.rest()
        world.slot.backlog.wake_due(world.now_ms + 30_000)
        await world.rest()
        assert len(world.connections) == 1, "it waits"
        stamp_ms = world.now_ms - 10_000  # the second that an attempt waits for is over
        assert set(world.scheduler.held) == {1}
        world.scheduler.announce(1, stamp_ms)
        assert 1 not in world.scheduler.to_load, "a timer reads it"
        world.slot.backlog.wake_due(world.now_ms)
        world.slot.plan()
        await world.rest()
        assert len(world.connections) == attempts

    run()
