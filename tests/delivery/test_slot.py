"""A slot and its connections, reply by reply: what each outcome leaves of recipients, queues and counts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from engine.config.settings import DomainSettings
from engine.delivery import settling
from engine.errors import SpoolError
from engine.mail.envelope import Due
from engine.mail.record import RecipientRecord, decode
from engine.scheduler import scheduler as scheduler_module
from engine.spool import BodyCorrupt, BodyMissing
from tests.delivery.slot_world import EHLO, SlotWorld, turned

ACCEPTED = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"


@turned
async def test_delivered() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    connection, transport = await world.open()
    assert transport.said().startswith(b"MAIL FROM:<a@b.example>")
    connection.data_received(ACCEPTED)
    assert transport.said() == b"body\r\n.\r\n"
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert world.fates() == ["m1r0 d 2.0.0"]
    assert world.total.mine() == 1 and connection.is_idle


@turned
async def test_what_is_no_address_bounces_unseen_by_any_host() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    world.names[1] = "{invalid}/v"
    for _ in range(3):
        await world.rest()
    assert world.fates() == ["m1r0 b 5.1.3"] and not world.connections and not world.total.mine()


@turned
async def test_recipients_with_verp_travel_alone_from_senders_of_their_own() -> None:
    world = SlotWorld(DomainSettings(max_smtp_out=1))
    world.add(1, 3)
    for key in sorted(world.disk)[:2]:
        world.disk[key] = msgspec.structs.replace(world.disk[key], verp=True)
    connection, transport = await world.open()
    for sender, recipients in (("a-m1r0=d1.example@b.example", [0]), ("a-m1r1=d1.example@b.example", [1]), ("a@b.example", [2])):
        said = transport.said().decode()
        assert f"MAIL FROM:<{sender}>" in said
        assert [f"RCPT TO:<m1r{index}@d1.example>" in said for index in range(3)] == [index in recipients for index in range(3)]
        connection.data_received(ACCEPTED)
        transport.said()
        connection.data_received(b"250 2.0.0 taken\r\n")
        await world.rest()
    assert world.fates() == ["m1r0 d 2.0.0", "m1r1 d 2.0.0", "m1r2 d 2.0.0"]
    records = [decode(row.record) for operation in world.records for row in operation.rows]
    assert [record.orig for record in records if isinstance(record, RecipientRecord)] == [
        "a-m1r0=d1.example@b.example", "a-m1r1=d1.example@b.example", "a@b.example",
    ]  # fmt: skip


@turned
async def test_a_bounce_of_age_goes_to_the_sender_of_its_recipient() -> None:
    world = SlotWorld(DomainSettings(bounce_after_s=1.0))
    told: list[tuple[str, int]] = []
    world.accept_for = lambda queue, message, message_id, results, *_: told.append((message.return_path, len(results)))  # type: ignore[method-assign]
    world.add(1, 2)
    for key in world.disk:
        world.disk[key] = msgspec.structs.replace(world.disk[key], queued_ms=1, verp=True)
    await world.open()
    await world.rest()
    assert told == [("a-m1r0=d1.example@b.example", 1), ("a-m1r1=d1.example@b.example", 1)]


@pytest.mark.parametrize(("wanted", "corrupt", "fates"), [(True, True, ["m1r0 b 5.3.0"]), (True, False, []), (False, True, [])])
def test_damaged_mail_bounces_only_where_that_is_wanted(wanted: bool, corrupt: bool, fates: list[str]) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(), bounce_corrupted=wanted)

        def damaged(*_: object) -> bytes:
            raise BodyCorrupt("checksum") if corrupt else BodyMissing("no such file")

        world.body = damaged  # type: ignore[method-assign]
        world.add(1)
        connection, _ = await world.open()
        connection.data_received(ACCEPTED)
        await world.rest()
        assert world.fates() == fates and len(world.disk) == (0 if fates else 1)
        assert [kind for kind, _ in world.log if kind in ("corrupted", "quarantine")] == ["corrupted" if fates else "quarantine"]

    run()


# --- deadlines ----------------------------------------------------------------------------------------------------------------------------


@turned
async def test_bytes_that_make_no_reply_do_not_move_its_deadline() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    await world.rest()
    connection = world.connections[0]
    deadline_s = connection.deadline_s
    for byte in b"220-wait for it":
        connection.check(connection.now_s + 1)
        connection.data_received(bytes([byte]))
    assert connection.deadline_s == deadline_s
    connection.data_received(b"\r\n220 now\r\n")
    assert connection.deadline_s > deadline_s


# --- what was not tried costs no attempt ----------------------------------------------------------------------------------------------------


@turned
async def test_an_idle_connection_that_dies_at_rset_costs_no_attempt() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    connection, transport = await world.open()
    connection.data_received(b"250 2.1.0 ok\r\n550 5.1.1 no\r\n554 5.5.1 no recipients\r\n")
    await world.rest()
    transport.said()
    world.add(1)
    await world.rest()
    assert transport.said().startswith(b"RSET\r\n")
    connection.connection_lost(None)
    await world.rest()
    assert world.fates() == ["m1r0 b 5.1.1"]
    await world.open()
    assert world.transports[-1].said().startswith(b"MAIL")


@turned
async def test_421_to_the_next_mail_costs_no_attempt() -> None:
    """So peers say that a connection has carried messages enough, or that it was idle too long."""
    world = SlotWorld(DomainSettings())
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    world.add(1)
    await world.rest()
    connection.data_received(b"421 4.7.0 too many messages in this connection\r\n")
    await world.rest()
    assert world.fates() == ["m1r0 d 2.0.0"]
    second, transport = await world.open()
    assert second is not connection and transport.said().startswith(b"MAIL")
    second.data_received(b"421 4.7.0 not now\r\n")  # to the first MAIL: that was an attempt
    await world.rest()
    assert world.fates() == ["m1r0 d 2.0.0", "m2r0 t 4.7.0"]
    assert world.total.mine() == 0


# --- an idle connection serves whoever has mail for the same host ---------------------------------------------------------------------------


async def handed_over(world: SlotWorld) -> None:
    """Queue 1 has a connection that becomes idle, then queue 2 gets mail for the same host: it has that connection, and no other is opened."""
    world.add(1)
    connection, transport = await world.open()
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    transport.said()
    world.add(2)
    await world.rest()
    assert b"<m2r0@d2.example>" in transport.said()
    assert connection.queue.number == 2 and connection.transaction is not None
    assert set(world.scheduler.queues) == {2} and world.scheduler.queues[2].open == 1
    assert not world.slot.openings() and len(world.connections) == 1
    assert world.total.mine() == 1


@turned
async def test_an_idle_connection_goes_to_another_queue_at_once() -> None:
    """Even where total-max-smtp-out lets nobody open one."""
    await handed_over(SlotWorld(DomainSettings(), total=1))


@turned
async def test_an_idle_connection_goes_to_another_queue_after_its_look_up() -> None:
    world = SlotWorld(DomainSettings())
    world.dns_known = False
    await handed_over(world)


@turned
async def test_who_is_handed_a_connection_passes_on_the_room_to_open_one() -> None:
    """Hundreds of queues stood in line for room to connect that nobody needed; ten left it in each tick."""
    world = SlotWorld(DomainSettings())
    most, scheduler_module.CONNECTING_MOST = scheduler_module.CONNECTING_MOST, 1
    try:
        for number in range(1, 21):
            world.add(number)
        await world.rest()
        greeted: set[int] = set()
        for _ in range(20):
            for index, connection in enumerate(world.connections):
                if index not in greeted:
                    greeted.add(index)
                    connection.data_received(b"220 mx.example\r\n")
                    connection.data_received(EHLO)
                elif connection.transaction is not None:
                    connection.data_received(ACCEPTED)
                    connection.data_received(b"250 2.0.0 taken\r\n")
            await world.rest()
    finally:
        scheduler_module.CONNECTING_MOST = most
    assert not world.scheduler._parked and not any(queue.window for queue in world.scheduler.queues.values())


@turned
async def test_no_connection_changes_queues_while_no_outcome_can_be_stored() -> None:
    """It could begin nothing there, and would be idle again: the slot would hand it over without end."""
    world = SlotWorld(DomainSettings())
    world.add(1)
    connection, transport = await world.open()
    connection.data_received(ACCEPTED)
    world.auto = False
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    transport.said()
    for number, kind in ((2, "discard"), (3, "smtp")):
        world.settings = DomainSettings(type=kind)
        world.add(number)
        world.slot.backlog.load(world.now_ms + 1_000)
    most, settling.UNSETTLED_MOST = settling.UNSETTLED_MOST, 2
    try:
        await world.rest()
        assert len(world.unanswered) == 2 and world.slot.settler.full
        assert len(world.scheduler.queues[3].window) == 1 and not transport.said()
    finally:
        settling.UNSETTLED_MOST = most
    world.auto = True
    world.answer()
    world.slot.plan()
    await world.rest()
    assert b"<m3r0@d3.example>" in transport.said()


# --- 452 and 552 behind accepted recipients say "no more in this transaction" ---------------------------------------------------------------


@turned
async def test_552_bounces_nobody_when_the_connection_is_lost_then() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1, recipients=2)
    connection, _ = await world.open()
    connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n552 5.5.3 too many recipients\r\n354 go ahead\r\n")
    connection.connection_lost(None)
    await world.rest()
    assert sorted(fate[:6] for fate in world.fates()) == ["m1r0 t", "m1r1 t"]


@turned
async def test_552_bounces_nobody_when_421_comes_then() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1, recipients=3)
    connection, _ = await world.open()
    connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n552 5.5.3 too many recipients\r\n421 4.3.2 bye\r\n")
    await world.rest()
    assert [fate[:6] for fate in world.fates()] == ["m1r0 t", "m1r2 t"]
    _, transport = await world.open(0)
    assert b"m1r1@" in transport.said()


@turned
async def test_552_bounces_nobody_when_the_body_is_refused_then() -> None:
    world = SlotWorld(DomainSettings())
    world.size_bytes = 900_000
    world.chunks = lambda: iter([b"x\r\n"] * 3)
    world.add(1, recipients=2)
    connection, _ = await world.open()
    connection.pause_writing()
    connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n552 5.5.3 too many recipients\r\n354 go ahead\r\n")
    connection.data_received(b"451 4.3.0 disk full\r\n")
    await world.rest()
    assert [fate[:6] for fate in world.fates()] == ["m1r0 t"]


# --- bodies -------------------------------------------------------------------------------------------------------------------------------


@turned
async def test_no_final_dot_behind_a_body_that_cannot_be_read_to_its_end() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"first\r\n"
        raise SpoolError("checksum")

    world = SlotWorld(DomainSettings())
    world.size_bytes = 900_000
    world.chunks = chunks
    world.add(1)
    connection, transport = await world.open()
    transport.said()
    connection.data_received(ACCEPTED)
    assert transport.said() == b"first\r\n" and transport.closing
    connection.connection_lost(None)
    await world.rest()
    assert world.fates() == [] and world.total.mine() == 0
    assert world.scheduler.queues == {} or not world.scheduler.queues[1].open
    assert [kind for kind, _ in world.log].count("quarantine") == 1


@turned
async def test_nothing_more_is_read_of_a_body_once_the_connection_is_closing() -> None:
    read = 0

    def chunks() -> Iterator[bytes]:
        nonlocal read
        while read < 1_000:
            read += 1
            if read == 3:
                world.transports[-1].closing = True  # as a transport is whose write failed
            yield b"x\r\n"

    world = SlotWorld(DomainSettings())
    world.size_bytes = 900_000
    world.chunks = chunks
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(ACCEPTED)
    assert read < 10
    connection.connection_lost(None)
    await world.rest()
    assert world.fates() == ["m1r0 t 4.4.2"]


# --- nobody is forgotten ------------------------------------------------------------------------------------------------------------------


@turned
async def test_a_connection_that_goes_idle_because_the_settler_is_full_is_used_when_there_is_room() -> None:
    world = SlotWorld(DomainSettings(max_smtp_out=1))
    world.add(1)
    world.add(1)
    connection, transport = await world.open()
    transport.said()
    world.auto = False
    most, settling.UNSETTLED_MOST = settling.UNSETTLED_MOST, 1
    try:
        connection.data_received(ACCEPTED)
        connection.data_received(b"250 2.0.0 taken\r\n")
        await world.rest()
        transport.said()
        assert connection.is_idle and len(world.unanswered) == 1
        world.auto = True
        world.answer()
        await world.rest()
    finally:
        settling.UNSETTLED_MOST = most
    assert transport.said().startswith(b"MAIL")


@turned
async def test_a_fault_of_ours_leaks_no_count_and_forgets_no_recipient() -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError

    world = SlotWorld(DomainSettings())
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(ACCEPTED)
    event, world.log.event = world.log.event, fault  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        connection.data_received(b"250 2.0.0 taken\r\n")
    world.log.event = event  # type: ignore[method-assign]
    connection.abort("an internal fault, see the log")  # as the loop's exception handler does
    await world.rest()
    assert world.total.mine() == 0
    assert all(queue.open == 0 and not queue.in_flight for queue in world.scheduler.queues.values())
    assert world.fates() == ["m1r0 t 4.4.2"]


# --- recipients of one message travel together ------------------------------------------------------------------------------------------


@turned
async def test_the_end_of_a_read_parts_no_message() -> None:
    world = SlotWorld(DomainSettings())
    for _ in range(400):
        world.add(1, recipients=3)
    world.add(1, recipients=700)
    sizes = []
    while True:
        world.slot.backlog.load(world.now_ms)
        transaction = world.scheduler.take(world.scheduler.queues[1], world.now_ms)
        if transaction is None:
            break
        sizes.append(len(transaction.rows))
    assert sizes == [3] * 400 + [700]


@turned
async def test_a_message_for_more_than_one_transaction_fills_each() -> None:
    world = SlotWorld(DomainSettings(max_rcpt_per_message=200))
    world.add(1)
    world.add(1, recipients=1_100)
    sizes = []
    while True:
        world.slot.backlog.load(world.now_ms)
        transaction = world.scheduler.take(world.scheduler.queues[1], world.now_ms)
        if transaction is None:
            break
        sizes.append(len(transaction.rows))
    assert sizes == [1, 200, 200, 200, 200, 200, 100]


@turned
async def test_an_address_that_cannot_stand_in_a_command_waits_and_hurts_nobody() -> None:
    world = SlotWorld(DomainSettings())
    world.add(1)
    key = next(iter(world.disk))
    world.disk[key] = Due("gr\u00fcn@d1.example", world.disk[key].queued_ms)
    world.add(1)
    _, transport = await world.open()
    assert b"<m2r0@d1.example>" in transport.said()
    assert [kind for kind, _ in world.log] == ["quarantine"]


@turned
async def test_nothing_is_kept_of_queues_whose_work_is_done() -> None:
    world = SlotWorld(DomainSettings(type="discard"))
    for number in range(1, 50):
        world.add(number)
    await world.rest()
    assert len(world.records) == 49
    assert not world.scheduler.queues and not world.scheduler.rows


@turned
async def test_connections_that_break_while_they_open_leak_no_count() -> None:
    world = SlotWorld(DomainSettings(), total=20)
    for number in range(1, 50):
        world.add(number)
    for _ in range(5):
        await world.rest()
        assert world.total.mine() <= 20
        for connection in world.connections[:]:
            connection.connection_lost(None)
        await world.rest()
        world.slot.tick()
    await world.rest()
    assert world.total.mine() == 0 and world.scheduler.connecting == 0
    assert not world.scheduler.queues and len(world.scheduler.held) == 49


# --- limits that queues share -------------------------------------------------------------------------------------------------------------


async def one_message(world: SlotWorld, index: int) -> None:
    """The connection's transaction ends well, whatever comes next."""
    world.connections[index].data_received(ACCEPTED)
    world.connections[index].data_received(b"250 2.0.0 taken\r\n")
    await world.rest()


@pytest.mark.parametrize("limits", [{"virtual_mta_limit": 1}, {"total": 1}])
def test_an_idle_connection_makes_room_for_a_queue_that_waits(limits: dict[str, int]) -> None:
    @turned
    async def test() -> None:
        world = SlotWorld(DomainSettings(connection_idle_timeout_s=300.0), **limits)
        world.add(1)
        await world.open()
        await one_message(world, 0)
        world.address = "192.0.2.2"
        world.add(2)
        await world.rest()
        assert len(world.connections) == 1
        world.slot.tick()
        assert world.transports[0].said().endswith(b"QUIT\r\n")
        world.connections[0].data_received(b"221 bye\r\n")
        await world.rest()
        assert len(world.connections) == 2 and world.total.mine() == 1

    test()


@pytest.mark.parametrize("limits", [{"virtual_mta_limit": 1}, {"total": 1}])
def test_a_long_queue_does_not_keep_a_shared_limit_to_itself(limits: dict[str, int]) -> None:
    @turned
    async def test() -> None:
        world = SlotWorld(DomainSettings(), **limits)
        for _ in range(300):
            world.add(1)
        await world.open()
        world.address = "192.0.2.2"
        world.add(2)
        for _ in range(250):  # more than two turns
            await one_message(world, -1)
            world.slot.tick()
            await world.rest()
            if world.transports[-1].said().endswith(b"QUIT\r\n"):
                world.connections[-1].data_received(b"221 bye\r\n")
                await world.rest()
                assert world.total.mine() == 1
                if world.connections[-1].queue.number == 2:
                    break
                await world.open()
        await world.open()
        assert b"@d2.example" in world.transports[-1].said()

    test()
