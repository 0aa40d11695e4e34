"""What a delivery slot says when it is asked: about its queues, and why something of them is not sent now.  It changes nothing.

Work is bounded per question and cut into slices, so that the loop never holds for an asker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from engine.clock import monotonic_s, wall_ms
from engine.config.model import Config
from engine.control.protocol import Request
from engine.control.views import ConnectionView, Detail, Part, QueueDetail, QueueView, Reason, SlotView
from engine.delivery import limits
from engine.delivery.standing import Standings
from engine.mail.message_id import text as id_text
from engine.scheduler.scheduler import WINDOW_ROWS
from engine.smtp.client import Stage

if TYPE_CHECKING:
    from engine.delivery.connection import Connection
    from engine.delivery.slot import Slot
    from engine.dns import Resolver
    from engine.spool import SpoolLink

QUEUES_MOST = 2_000  # in one answer
SLICE = 100  # queues between two turns of the loop


class Answers:
    """Answers for one slot, *name*; *owns* as everywhere: whether a virtual MTA's mail is this slot's."""

    def __init__(self, name: str, slot: Slot, config: Config, link: SpoolLink, resolver: Resolver, owns: Callable[[str], bool]) -> None:
        self._name = name
        self._slot = slot
        self._scheduler = slot.scheduler
        self._config = config
        self._link = link
        self._resolver = resolver
        self._owns = owns
        self._standings = Standings(slot, config, lambda: link.connected)

    async def slot(self, _request: Request) -> SlotView:
        """`slot`: the slot in numbers."""
        scheduler = self._scheduler
        return SlotView(
            slot=self._name,
            queues=len(scheduler.queues),
            held=len(scheduler.held),
            window=scheduler.rows,
            window_most=WINDOW_ROWS,
            open=len(self._slot.connections()) + len(self._slot.openings()),
            connecting=scheduler.connecting,
            unsettled=len(scheduler.settling),
            draining=self._slot.draining,
            spool_connected=self._link.connected,
            names_cached=self._resolver.names_cached,
            names_pending=self._resolver.names_pending,
        )

    async def queues(self, request: Request) -> Part:
        """`queues`: those named that are ours, and if asked those that are connected."""
        wanted = {number: name for number, name in request.queues if self._is_ours(name)}
        if request.active:
            wanted |= {queue.number: queue.name for queue in list(self._scheduler.queues.values())[: 10 * QUEUES_MOST] if queue.open}
        now_ms = wall_ms()
        found: list[QueueView] = []
        for count, (number, name) in enumerate(wanted.items()):
            if count % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if len(found) >= QUEUES_MOST:
                break
            found.append(self._view(number, name, now_ms))
        return Part(self._name, found)

    async def queue(self, request: Request) -> Detail:
        """`queue`: all about the first that is named."""
        number, name = _first(request.queues)
        if not self._is_ours(name):
            return Detail(self._name, None)
        now_ms = wall_ms()
        domain, _, vmta = name.rpartition("/")
        errors = self._slot.settler.events.errors(number)
        detail = QueueDetail(
            view=self._view(number, name, now_ms),
            standing=self._standings.of_queue(number, name, now_ms),
            limits=limits.every(self._config, domain, vmta),
            connections=self._connections(name),
            errors=errors,
            recipient_events=self._slot.settler.events.recipients(number),
        )
        return Detail(self._name, detail)

    async def why(self, request: Request) -> Reason:
        """`why`: of a queue, or of a recipient in it."""
        number, name = _first(request.queues)
        if not self._is_ours(name):
            return Reason(self._name, None)
        now_ms = wall_ms()
        if not request.key:
            return Reason(self._name, self._standings.of_queue(number, name, now_ms))
        key = _unhex(request.key)
        standing = self._standings.of_recipient(number, name, key, request.queued_ms, request.attempts, request.last_reply, now_ms)
        return Reason(self._name, standing)

    def _is_ours(self, name: str) -> bool:
        return self._owns(name.rpartition("/")[2])

    def _view(self, number: int, name: str, now_ms: int) -> QueueView:
        scheduler = self._scheduler
        last = self._slot.settler.events.last(number)
        queue = scheduler.queues.get(number)
        if queue is None:
            held = scheduler.held.get(number)
            next_ms = held.until_ms if held is not None else scheduler.timers.at_ms(number)
            return QueueView(number, name, "retry" if held else "resting", 0, 0, 0, 0, held.failures if held else 0, next_ms, last)
        holds = queue.hold_until_ms > now_ms
        mode = "doomed" if queue.doom else "retry" if holds else "sending" if queue.open else "waiting" if queue.window else "resting"
        next_ms = queue.doom.until_ms if queue.doom else queue.hold_until_ms if holds else scheduler.timers.at_ms(number)
        in_flight = len(queue.in_flight)
        return QueueView(number, name, mode, len(queue.window), in_flight, queue.open, queue.connecting, queue.failures, next_ms, last)

    def _connections(self, name: str) -> list[ConnectionView]:
        found = [_connection(each) for each in self._slot.connections() if each.queue.name == name]
        for queue, since_s in self._slot.openings():
            if queue.name == name and len(found) < QUEUES_MOST:
                found.append(ConnectionView(name, "connecting", "DNS or TCP", "", "", "", 0, 0, seconds=int(monotonic_s() - since_s)))
        return found[:QUEUES_MOST]


def _connection(connection: Connection) -> ConnectionView:
    route, stage, transaction = connection.route, connection.client.stage, connection.transaction
    opening = stage in (Stage.GREETING, Stage.EHLO, Stage.HELO)
    state = "connecting" if opening else "idle" if connection.is_idle else "closing" if stage is Stage.QUIT else "sending"
    return ConnectionView(
        queue=connection.queue.name,
        state=state,
        waits_for=stage.value,
        source_ip=connection.local_ip,
        host=route.host,
        address=route.address,
        port=route.port,
        transactions=connection.transactions,
        message=id_text(transaction.message) if transaction else "",
        recipients=len(transaction.rows) if transaction else 0,
        seconds=max(0, int(monotonic_s() - connection.began_s)),
    )


def _first(queues: Iterable[tuple[int, str]]) -> tuple[int, str]:
    return next(iter(queues), (0, ""))


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
