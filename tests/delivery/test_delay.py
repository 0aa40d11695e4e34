"""notify-of-delay-every: who asked for it (NOTIFY=DELAY) hears that mail waits, once in each period, over restarts and whatever holds the mail."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.config.settings import DomainSettings
from engine.errors import SpoolError
from engine.mail.envelope import Due
from engine.scheduler.scan import look_through, scan_pause_ms
from engine.spool.ops import Accept, Settlement
from tests.delivery.slot_world import SlotWorld, decode_due, turned

HOUR_MS = 3_600_000
DSN = Accept(b"d" * 12, b"", 1, 1, 1, [])
DEFERRED = b"250 2.1.0 ok\r\n450 4.2.1 busy\r\n554 5.5.1 no recipients\r\n"


class World(SlotWorld):
    """A SlotWorld whose reporter writes DSNs, or cannot."""

    def __init__(self, disk: dict[bytes, Due] | None = None, **settings: Any) -> None:
        super().__init__(DomainSettings(**settings))
        self.reported: list[list[tuple[str, str, str]]] = []  # of each DSN, for each recipient
        self.broken = False
        if disk is not None:
            self.disk, self.names = disk, {1: "d1.example/v"}
            self.slot.backlog.announced([1], self.now_ms)
            self.slot.plan()

    def accept_for(self, *arguments: Any) -> Any:
        *_, results, _, _, delayed = arguments
        assert delayed
        if self.broken:
            raise SpoolError("disk full")
        self.reported.append([(r.row.due.address.partition("@")[0], r.status, r.diag) for r in results])
        return DSN

    def arrive(self, age_ms: int, notify: int = 8, recipients: int = 1) -> None:
        """A message that has been in the spool for *age_ms*."""
        before = set(self.disk)
        self.add(1, recipients)
        for key in set(self.disk) - before:
            due = self.disk[key]
            self.disk[key] = msgspec.structs.replace(due, queued_ms=due.queued_ms - age_ms, notify=notify)

    def told(self) -> list[Settlement]:
        """The rows that were stored with a DSN."""
        return [row for operation in self.records if operation.accept is not None for row in operation.rows]

    def make_due(self) -> None:
        """Whatever waits is due now."""
        for key in list(self.disk):
            self.disk[key[:5] + self.now_ms.to_bytes(8, "big") + key[13:]] = self.disk.pop(key)


async def defer(world: World) -> None:
    """The next attempt, which the peer defers."""
    connection, _ = await world.open()
    connection.data_received(DEFERRED)
    await world.rest()


@pytest.mark.parametrize(
    ("age_ms", "notify", "every_s", "reported"),
    [
        (5 * HOUR_MS, 8, 14400.0, True),
        (5 * HOUR_MS, 12, 14400.0, True),
        (3 * HOUR_MS, 8, 14400.0, False),
        (5 * HOUR_MS, 0, 14400.0, False),
        (5 * HOUR_MS, 4, 14400.0, False),
        (5 * HOUR_MS, 8, None, False),
        (5 * HOUR_MS, 8, 21600.0, False),
    ],
)
def test_a_deferral_is_told_where_it_was_asked_for_and_is_late(age_ms: int, notify: int, every_s: float | None, reported: bool) -> None:
    @turned
    async def run() -> None:
        world = World(notify_of_delay_every_s=every_s)
        world.arrive(age_ms, notify)
        await defer(world)
        assert world.fates() == ["m1r0 t 4.2.1"]
        assert world.reported == ([[("m1r0", "4.2.1", "smtp;450 4.2.1 busy")]] if reported else [])
        assert [decode_due(row.due).attempts for row in world.told()] == [1] * reported
        (due,) = world.disk.values()
        assert (due.notified_ms > 0, due.attempts) == (reported, 1)

    run()


@turned
async def test_once_in_each_period_over_restarts() -> None:
    world = World()
    world.arrive(5 * HOUR_MS)
    await defer(world)
    disk = world.disk
    for since_ms, reports in ((0, 0), (3 * HOUR_MS, 0), (4 * HOUR_MS, 1), (0, 0)):
        again = World(disk)
        again.make_due()
        (key,) = disk
        disk[key] = msgspec.structs.replace(disk[key], notified_ms=disk[key].notified_ms - since_ms)
        await defer(again)
        assert len(again.reported) == reports
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(disk.popitem()[1]), type=Due).attempts == 5


@turned
async def test_recipients_deferred_together_share_a_dsn_and_others_are_stored_without() -> None:
    world = World()
    world.arrive(5 * HOUR_MS, recipients=3)
    last = max(world.disk)
    world.disk[last] = msgspec.structs.replace(world.disk[last], notify=0)
    connection, _ = await world.open()
    connection.data_received(b"250 2.1.0 ok\r\n450 4.2.1 a\r\n450 4.2.1 b\r\n450 4.2.1 c\r\n554 5.5.1 no recipients\r\n")
    await world.rest()
    assert [[name for name, _, _ in each] for each in world.reported] == [["m1r0", "m1r1"]]
    assert sorted(world.fates()) == ["m1r0 t 4.2.1", "m1r1 t 4.2.1", "m1r2 t 4.2.1"]
    assert sorted(due.notified_ms > 0 for due in world.disk.values()) == [False, True, True]


@turned
async def test_a_queue_that_stands_still_is_looked_through() -> None:
    world = World()
    world.arrive(5 * HOUR_MS, recipients=2)
    await world.rest()
    before = dict(world.disk)
    for connection in list(world.connections):
        connection.connection_lost(ConnectionResetError("reset"))
    await world.rest()
    world.slot.tick()
    await world.rest()
    assert [sorted(each) for each in world.reported] == [[(name, "4.4.1", "x-engine;connection lost: reset") for name in ("m1r0", "m1r1")]]
    assert world.fates() == [] and world.disk.keys() == before.keys()  # nothing was tried: they stay where they are
    assert all(due.notified_ms and not due.attempts for due in world.disk.values())
    assert any(kind == "delay-told" for kind, _ in world.log)
    for _ in range(3):
        world.slot.tick()
        await world.rest()
    assert len(world.reported) == 1
    queue = world.scheduler.queues.get(1)
    assert queue is None or not queue.in_flight


@turned
async def test_a_dsn_that_cannot_be_written_costs_no_deferral_and_is_tried_again() -> None:
    world = World()
    world.broken = True
    world.arrive(5 * HOUR_MS)
    await defer(world)
    assert world.fates() == ["m1r0 t 4.2.1"] and not world.told()
    assert [due.notified_ms for due in world.disk.values()] == [0]
    assert any(kind == "dsn-failed" for kind, _ in world.log)


@turned
async def test_nobody_is_told_while_the_clock_is_not_believed() -> None:
    world = World()
    world.slot.backlog._steps.may_expire = lambda *_: False  # type: ignore[method-assign]
    world.arrive(5 * HOUR_MS)
    await defer(world)
    assert world.fates() == ["m1r0 t 4.2.1"] and not world.reported


def test_the_scan_foresees_the_next_warning() -> None:
    settings = DomainSettings(notify_of_delay_every_s=3600.0, bounce_after_s=86400.0)
    now_ms = 100 * HOUR_MS

    def look(*dues: Due) -> tuple[list[str], list[str], int, int]:
        rows = [(bytes([index]) * 29, due) for index, due in enumerate(dues)]
        found = look_through(rows, settings, now_ms, (), {b"\x09" * 29})
        return [r.due.address for r in found.expired], [r.due.address for r in found.overdue], found.spared, (found.earliest_ms - now_ms) // HOUR_MS

    old, late = now_ms - 24 * HOUR_MS, now_ms - 2 * HOUR_MS
    assert look() == ([], [], 0, 24)
    assert look(Due("a", old, notify=8), Due("b", late)) == (["a"], [], 1, 22)
    assert look(Due("c", late, notify=8)) == ([], ["c"], 1, 1)
    assert look(Due("d", late, notify=8, notified_ms=now_ms)) == ([], [], 1, 1)
    assert look(Due("e", now_ms - 23 * HOUR_MS - HOUR_MS // 2, notify=8, notified_ms=now_ms)) == ([], [], 1, 0)


@pytest.mark.parametrize(("bounce_after_s", "every_s", "pause_ms"), [(86400.0, None, 4_320_000), (86400.0, 3600.0, 900_000), (60.0, 1.0, 1000)])
def test_looks_are_often_enough_for_both(bounce_after_s: float, every_s: float | None, pause_ms: int) -> None:
    assert scan_pause_ms(DomainSettings(bounce_after_s=bounce_after_s, notify_of_delay_every_s=every_s)) == pause_ms
