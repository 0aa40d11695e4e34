"""Why something is not sent: each situation is made in a real slot with its scheduler, and read as the sentence that an operator gets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from engine.clock import wall_ms
from engine.config import build, from_text
from engine.control.sentence import CLAUSES, sentence
from engine.control.views import Standing
from engine.delivery import settling, standing
from engine.delivery.attempt import Failed
from engine.delivery.outcome import NOWHERE
from engine.delivery.sources import Source
from engine.delivery.standing import Standings
from engine.dns import NoTargets
from engine.errors import SpoolError
from engine.mail.envelope import Due
from engine.scheduler import scheduler as scheduler_module
from engine.scheduler.reachability import REMEMBERED
from tests.delivery.slot_world import SlotWorld

NAME = "d1.example/v"
REFUSED = Failed("4.4.1", "connect to mx.example[192.0.2.1]:25 failed: refused", NOWHERE, None, permanent=False)


class World(SlotWorld):
    """A slot of one configuration: *domain* stands in <domain *>, *vmta* in <virtual-mta v>, *more* outside."""

    def __init__(self, domain: str = "", vmta: str = "", more: str = "", total: int = 0, virtual_mta_limit: int = 0) -> None:
        stanza = f"<virtual-mta v>\nsmtp-source-host 127.0.0.1 v.example\n{vmta}\n</virtual-mta>"
        text = f"log-file /l\n{more}\n{stanza}\n<domain *>\n{domain}\n</domain>\n"
        loaded = build(from_text(text))
        assert loaded.config is not None, loaded.problems
        self.config = loaded.config
        super().__init__(self.config.domain("d1.example", "v"), total=total, virtual_mta_limit=virtual_mta_limit)
        self.answers = True
        self.local = True
        self.standings = Standings(self.slot, self.config, lambda: self.answers)

    def known(self, vmta: str) -> bool:
        return vmta in self.config.virtual_mtas

    def next(self, vmta: str) -> Source | None:  # type: ignore[override]
        return super().next(vmta) if self.local else None

    def fails(self, result: Failed | NoTargets) -> None:
        """Every attempt to open a connection ends so."""

        async def fail(*_: object) -> Any:
            return result

        self.slot._opener.open_for = fail  # type: ignore[method-assign]

    def of_queue(self, number: int = 1, name: str = "") -> Standing:
        return self.standings.of_queue(number, name or f"d{number}.example/v", wall_ms())

    def of_row(self, key: bytes, due: Due, number: int = 1) -> Standing:
        name = f"d{number}.example/v"
        return self.standings.of_recipient(number, name, key, due.queued_ms, due.attempts, due.last_reply, wall_ms())

    def rows(self, number: int = 1) -> list[tuple[bytes, Due]]:
        """What lies on disk of a queue, in order."""
        return sorted((key, due) for key, due in self.disk.items() if key[:4] == number.to_bytes(4, "big"))

    def stored(self) -> tuple[bytes, Due]:
        """The row of the recipient that was settled last, as it waits now."""
        row = [row for operation in self.records for row in operation.rows][-1]
        ((key, _),) = [each for each in self.disk.items() if each[0][13:] == row.key[13:]]
        return key, msgspec.msgpack.decode(row.due, type=Due)


async def retry_after() -> Standing:
    world = World("retry-after 5m")
    world.fails(REFUSED)
    world.add(1)
    await world.rest()
    found = world.of_row(*world.rows()[0])
    assert found == world.of_queue()
    return found


async def unreachable() -> Standing:
    world = World()
    world.fails(REFUSED._replace(why=REFUSED.why + REMEMBERED))
    world.add(1)
    await world.rest()
    return world.of_queue()


async def dns() -> Standing:
    world = World("retry-after-dns-error 2m")
    world.fails(NoTargets("temporary", "4.4.3", "MX look-up of d1.example failed: SERVFAIL"))
    world.add(1)
    await world.rest()
    return world.of_queue()


async def doomed() -> Standing:
    world = World()
    world.fails(NoTargets("null-mx", "5.1.10", "domain d1.example accepts no mail (null MX)"))
    world.auto = False
    world.add(1)
    await world.rest()
    return world.of_queue()


async def doomed_later() -> Standing:
    world = World("bounce-upon-no-mx 2d")
    world.fails(NoTargets("no-mx", "5.4.4", "no mail host of d1.example has an address that we can reach"))
    world.add(1)
    await world.rest()
    return world.of_row(*world.rows()[0])


async def no_vmta() -> Standing:
    return World().of_queue(1, "d1.example/gone")


async def no_source() -> Standing:
    world = World()
    world.local = False
    world.add(1)
    await world.rest()
    return world.of_queue()


async def total_out() -> Standing:
    world = World(more="total-max-smtp-out 1", total=1)
    world.add(1)
    await world.open()
    world.add(2)
    world.add(3)
    await world.rest()
    return world.of_row(*world.rows(3)[0], number=3)


async def vmta_out() -> Standing:
    world = World(vmta="max-smtp-out 1", virtual_mta_limit=1)
    world.add(1)
    await world.open()
    world.add(2)
    await world.rest()
    return world.of_queue(2)


async def pool_out() -> Standing:
    pool = "<virtual-mta-pool p>\nvirtual-mta v\nmax-smtp-out 1\n</virtual-mta-pool>"
    world = World(more=pool, virtual_mta_limit=1)
    world.add(1)
    await world.open()
    world.add(2)
    await world.rest()
    return world.of_queue(2)


async def connecting_slot() -> Standing:
    world = World()
    for number in range(1, scheduler_module.CONNECTING_MOST + 2):
        world.add(number)
    for _ in range(10):
        await world.rest()
    return world.of_queue(scheduler_module.CONNECTING_MOST + 1)


async def queue_out() -> Standing:
    world = World("max-smtp-out 1")
    world.add(1)
    await world.open()
    world.add(1)
    world.add(1)
    await world.rest()
    return world.of_row(*world.rows()[2])


async def connecting() -> Standing:
    world = World()
    world.add(1)
    await world.rest()
    return world.of_row(*world.rows()[0])


async def goodbye() -> Standing:
    world = World("max-smtp-out 1\nmax-msg-per-connection 1")
    world.add(1)
    connection, transport = await world.open()
    world.add(1)
    await world.rest()
    connection.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n")
    connection.data_received(b"250 delivered\r\n")
    await world.rest()
    assert transport.said().endswith(b"QUIT\r\n")
    return world.of_row(*world.rows()[0])


async def sending() -> Standing:
    world = World()
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"250 ok\r\n")
    return world.of_row(*world.rows()[0])


async def storing() -> Standing:
    world = World()
    world.auto = False
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n")
    connection.data_received(b"250 delivered\r\n")
    await world.rest()
    return world.of_row(*world.rows()[0])


async def bouncing() -> Standing:
    world = World()
    world.auto = False
    world.fails(NoTargets("null-mx", "5.1.10", "domain d1.example accepts no mail (null MX)"))
    world.add(1, recipients=settling.BURIED_MOST + 1)
    world.add(1)
    await world.rest()
    return world.of_row(*world.rows()[-1])


async def retry() -> Standing:
    world = World("retry-recipients-after 30m")
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"250 ok\r\n451 4.7.1 greylisted\r\n503 no recipients\r\n")
    await world.rest()
    return world.of_row(*world.stored())


async def retry_behind_a_hold() -> Standing:
    """The recipient is due in ten minutes, and the queue waits an hour: the later time counts."""
    world = World("retry-recipients-after 10m\nretry-after 1h")
    world.add(1)
    connection, _ = await world.open()
    world.fails(REFUSED)
    connection.data_received(b"250 ok\r\n451 4.7.1 greylisted\r\n503 no recipients\r\n")
    connection.abort("gone")
    world.add(1)
    await world.rest()
    return world.of_row(*world.stored())


async def aside() -> Standing:
    world = World()

    def unreadable(*_: object) -> bytes:
        raise SpoolError("checksum 00000000, stored 12345678")

    world.body = unreadable  # type: ignore[method-assign]
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n")
    await world.rest()
    return world.of_row(*world.stored())


async def expired() -> Standing:
    world = World("bounce-after 1h")
    world.add(1)
    key, due = world.rows()[0]
    return world.of_row(key, msgspec.structs.replace(due, queued_ms=due.queued_ms - 7_200_000))


async def clock() -> Standing:
    world = World("bounce-after 1h")
    world.add(1)
    world.scheduler.may_expire = False
    key, due = world.rows()[0]
    return world.of_row(key, msgspec.structs.replace(due, queued_ms=due.queued_ms - 7_200_000))


async def next_() -> Standing:
    world = World()
    world.add(1)
    world.slot.backlog.load(wall_ms())
    return world.of_row(*world.rows()[0])


async def turn() -> Standing:
    world = World()
    world.add(1)
    world.add(1)
    world.slot.backlog.load(wall_ms())
    return world.of_row(*world.rows()[1])


async def unread() -> Standing:
    world = World()
    world.add(1)
    return world.of_row(*world.rows()[0])


async def window(monkeypatch: pytest.MonkeyPatch) -> Standing:
    for module in (scheduler_module, standing):
        monkeypatch.setattr(module, "WINDOW_ROWS", 2)
    world = World()
    world.add(1)
    world.add(1)
    world.add(1)
    world.slot.backlog.load(wall_ms())
    world.add(2)
    world.slot.backlog.load(wall_ms())
    return world.of_row(*world.rows(2)[0], number=2)


async def unsettled(monkeypatch: pytest.MonkeyPatch) -> Standing:
    for module in (settling, standing):
        monkeypatch.setattr(module, "UNSETTLED_MOST", 1)
    world = World()
    world.auto = False
    world.add(1)
    connection, _ = await world.open()
    connection.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n")
    connection.data_received(b"250 delivered\r\n")
    world.add(2)
    await world.rest()
    return world.of_row(*world.rows(2)[0], number=2)


async def spool_away() -> Standing:
    world = World()
    world.answers = False
    return world.of_queue()


async def draining() -> Standing:
    world = World()
    world.slot.drain()
    world.add(1)
    await world.rest()
    return world.of_row(*world.rows()[0])


async def discard() -> Standing:
    return World("type discard").of_queue()


async def resting() -> Standing:
    world = World()
    world.scheduler.timers.wake(1, wall_ms() + 60_000)
    return world.of_queue()


async def idle() -> Standing:
    return World().of_queue()


HOUR = r"next attempt at [\d: -]+ \(in (59m|1h)"
PLACE = r"\(/engine.conf:\d+\)"
SITUATIONS: dict[Callable[..., Awaitable[Standing]], tuple[str, str]] = {
    retry_after: ("retry-after", rf"waits retry-after 5m {PLACE} after .*: connect to .*refused; since .*next attempt.*\(in (4m|5m)"),
    unreachable: ("unreachable", r"waits retry-after 10m \(the default\), since another attempt .* dead: connect to .*: refused; since"),
    dns: ("dns", rf"retry-after-dns-error 2m {PLACE} .*: MX look-up of d1.example failed: SERVFAIL; since .*next attempt"),
    doomed: ("doomed", r"bounces: 5.1.10 domain d1.example accepts no mail \(null MX\)"),
    doomed_later: ("doomed-later", rf"bounces when it is old enough for bounce-upon-no-mx 2d {PLACE}: 5.4.4 no mail host"),
    no_vmta: ("no-vmta", r"bounces with 5.3.5: there is no virtual MTA gone"),
    no_source: ("no-source", r"waits for an address to send from: no smtp-source-host of virtual MTA v .*next attempt"),
    total_out: ("total-out", r"total-max-smtp-out 1 \(/engine.conf:2\); since .*; place 2 of 2 queues in that line"),
    vmta_out: ("vmta-out", r"under max-smtp-out of virtual-mta v 1 \(/engine.conf:5\); since .*; place 1 of 1"),
    pool_out: ("pool-out", r"under max-smtp-out of virtual-mta-pool p 1 \(/engine.conf:4\); since .*; place 1 of 1"),
    connecting_slot: ("connecting-slot", r"connections still connecting 500 .* of this process are the most, .*place 1 of 1"),
    queue_out: ("queue-out", rf"under max-smtp-out 1 {PLACE}: 1 open, of which 0 are connecting; since .*; 1 recipients of its queue are before it"),
    connecting: ("connecting", r"a connection that is being opened: mx.example\[192.0.2.1\]:25 from 127.0.0.1, waiting for its greeting"),
    goodbye: ("goodbye", rf"waits for the end of 1 of 1 connections that have carried max-msg-per-connection 1 {PLACE}"),
    sending: ("sending", r"right now: mx.example\[192.0.2.1\]:25 from 127.0.0.1, waiting for the reply to a RCPT, .* \w{20} for 1 recipients; since"),
    storing: ("storing", r"has been dealt with, and its outcome is being stored"),
    bouncing: ("bouncing", r"is about to bounce: 5.1.10 "),
    retry: ("retry", rf"retry-recipients-after 30m {PLACE}, since it was answered: 451 4.7.1 greylisted; since .*in (29|3[0123])m"),
    retry_behind_a_hold: ("retry", rf"451 4.7.1 greylisted.*{HOUR}"),
    aside: ("aside", r"put aside for an hour: its body cannot be read \(checksum 00000000, stored 12345678\).*next attempt at"),
    expired: ("expired", rf"is older than bounce-after 1h {PLACE} and bounces within seconds"),
    clock: ("clock", r"the wall clock has just jumped"),
    next_: ("next", r"is the next of its queue to be sent"),
    turn: ("turn", r"waits for its turn; 1 recipients of its queue are before it"),
    unread: ("unread", r"is about to be read from the disk"),
    window: ("window", r"waits on disk: \d recipients of this slot are in memory, and that is the most"),
    unsettled: ("unsettled", r"waits for the disk: 1 outcomes are not on disk yet, and at 1 nothing new begins"),
    spool_away: ("spool-away", r"waits for the spool process, which is down or restarting"),
    draining: ("draining", r"this process drains and begins nothing new"),
    discard: ("discard", rf"is discarded as soon as it is read, by type discard {PLACE}"),
    resting: ("resting", r"has nothing to send before its next retry; next attempt at .*\(in (59s|1m)"),
    idle: ("idle", r"has nothing to send\.$"),
}
OF_THE_COMMAND = {"disk-full", "elsewhere", "outbox", "slot-down"}  # tests/cli/test_why.py


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_situation(situation: Callable[..., Awaitable[Standing]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def bounded() -> Standing:
        async with asyncio.timeout(10):
            return await situation(*((monkeypatch,) if situation in (window, unsettled) else ()))

    found = asyncio.run(bounded())
    kind, wanted = SITUATIONS[situation]
    text = sentence("it", found, wall_ms())
    assert found.kind == kind, text
    assert re.search(wanted, text), text
    assert (text.startswith("it "), text.endswith("."), "\n" in text, "None" in text) == (True, True, False, False), text


def test_every_clause_has_its_situation() -> None:
    assert {kind for kind, _ in SITUATIONS.values()} | OF_THE_COMMAND == CLAUSES.keys()
