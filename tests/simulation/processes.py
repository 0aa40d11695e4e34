"""The engine's processes in the simulated world: a delivery slot and a listener, put together as their workers do, on simulated sockets."""

from __future__ import annotations

import contextvars
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, cast

from engine.delivery.attempt import Failed
from engine.delivery.backlog import Backlog
from engine.delivery.connection import Connection
from engine.delivery.destination import Destinations
from engine.delivery.dressing import fields_of
from engine.delivery.ownership import Ownership
from engine.delivery.report import Reporter
from engine.delivery.settling import Settler
from engine.delivery.slot import Slot
from engine.delivery.sources import Sources
from engine.dns import NoTargets, Resolver
from engine.door import Door
from engine.listener.connection import Connection as Incoming
from engine.listener.listener import Listener
from engine.process import ListenSocket, SharedCount
from engine.reception import Reception
from engine.scheduler.clockstep import StepGuard
from engine.scheduler.queue import Queue
from engine.scheduler.scheduler import Scheduler
from engine.spool import SpoolLink
from tests.simulation.ledger import CONFIRM_S, STEP_MS, Ledger
from tests.simulation.loop import TICK_S, Process
from tests.simulation.network import Endpoint, Line
from tests.simulation.peers import connect
from tests.simulation.spool import Reader, Segments

if TYPE_CHECKING:
    from tests.simulation.world import World

STRIDE_S = 5.0  # between two ticks that nothing is known to call for: they are what finds forgotten queues
DECIDED_MS = 100  # connections that one turn of the loop decided on begin one after the other; the first may fail before the last begins
_queue: contextvars.ContextVar[Queue | None] = contextvars.ContextVar("queue", default=None)  # that is being connected for


class Log:
    """engine.log.EventLog, into the trace; bounces for age are looked at."""

    def __init__(self, world: World, process: Process) -> None:
        self._ledger = world.ledger
        self._process = process
        self.since_s = world.clock.now_s  # a step before is none that the process could see

    def event(self, kind: str, text: str) -> None:
        """A line."""
        ledger = self._ledger
        ledger.say(self._process.name, f"{kind} {text}")
        if kind == "bounced" and " status=5.4.7 " in text and TICK_S < ledger.clock.now_s - ledger.last_step_s < CONFIRM_S and (
            ledger.last_step_s > self.since_s
        ):
            ledger.fail(f"the clock has just stepped, and: {text}")

    def flush(self) -> None:
        """Nothing is held."""


class Socket:
    """A socket to a peer, from its making to its end: what the limits count."""

    def __init__(self, world: World, source_ip: str, address: str) -> None:
        self.world = world
        self.source_ip = source_ip
        self.address = address
        self.queue = _queue.get()
        self.connection: Connection | None = None
        world.sockets.opened(self)

    def close(self) -> None:
        """It did not come about."""
        self.world.sockets.closed(self)

    def getsockname(self) -> tuple[str, int]:
        """Where it is bound."""
        return self.source_ip, 40000


class Sockets:
    """All sockets to peers, and what must hold of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[Socket, None] = {}
        self.opened_in_all = 0

    def opened(self, socket: Socket) -> None:
        """One more: too many?"""
        world, config = self._world, self._world.config
        self._open[socket] = None
        self.opened_in_all += 1
        limit = config.server.total_max_smtp_out
        if len(self._open) > limit:
            world.ledger.fail(f"{len(self._open)} connections, total-max-smtp-out is {limit}")
        queue = socket.queue
        assert queue is not None
        limit = config.virtual_mtas[queue.vmta].max_smtp_out
        vmtas = world.ledger.vmtas
        count = sum(vmtas[each.source_ip] == queue.vmta for each in self._open)
        if limit and count > limit:
            world.ledger.fail(f"{count} connections of virtual MTA {queue.vmta}, max-smtp-out is {limit}")
        self.check(queue)

    def check(self, queue: Queue) -> None:
        """Its own limit."""
        mine = sum((each.connection.queue if each.connection is not None else each.queue).number == queue.number for each in self._open)  # type: ignore[union-attr]
        if mine > queue.settings.max_smtp_out:
            self._world.ledger.fail(f"{mine} connections of {queue.name}, max-smtp-out is {queue.settings.max_smtp_out}")

    def closed(self, socket: Socket) -> None:
        """One less."""
        self._open.pop(socket, None)

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def killed(self) -> None:
        """All of them, with their process."""
        self._open.clear()


class Outgoing(Endpoint):
    """The slot's side of a connection."""

    ledger: Ledger

    def write(self, data: Any) -> None:
        """See Endpoint; the ledger looks at what is asked of the peer."""
        if not self.closed and self.process is not None:
            self.ledger.sent(self.process, bytes(data), self.name)
        super().write(data)


class Streams:
    """engine.stream.Streams for a slot; its own `loop` as far as connecting goes."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self.loop = self

    async def sock_connect(self, sock: Socket, address: tuple[str, int]) -> None:
        """As the loop's."""
        host = self._world.hosts.get(address[0])
        await connect(host, host.manners.line if host is not None else Line(0.01))

    def open(self, sock: Socket, peername: Any, protocol: Any) -> Outgoing:
        """A transport over *sock*."""
        world = self._world
        host = world.hosts[sock.address]
        ours, theirs = world.network.pair(self._process, None, (sock.source_ip, sock.address), host.manners.line, host.cuts(), Outgoing)
        assert isinstance(ours, Outgoing)
        ours.ledger, sock.connection = world.ledger, protocol
        ours.protocol = protocol
        ours.on_closed = sock.close
        protocol.connection_made(ours)
        world.network.later(0.0, host.answer, world.network.context, theirs)
        return ours


class DeliveryProcess(Process):
    """One life of the slot."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(f"delivery#{number}")
        self.world = world
        self.slot: Slot | None = None
        self.link: SpoolLink | None = None
        self.holds: dict[int, tuple[int, int]] = {}  # by queue: no new connection before, since; wall ms
        self.failed_ms: dict[int, int] = {}  # the last failure of each queue

    async def start(self) -> None:
        """As engine.delivery.worker does."""
        world, config = self.world, self.world.config
        log: Any = Log(world, self)
        ours = frozenset(config.virtual_mtas)
        link = self.link = await SpoolLink.connect(
            "spool", role="delivery", index=0, virtual_mtas=sorted(ours), fallback=True, on_announce=self._announced, on_lost=self._lost
        )
        reader = cast(Any, Reader(world.spool))
        resolver = Resolver([], rng=Random(world.random.random()), clock=world.clock.monotonic_s)
        resolver._servers = [cast(Any, world.dns)]
        scheduler = Scheduler(config.domain, lambda vmta: config.virtual_mtas[vmta].max_smtp_out)
        total = self.total = SharedCount(memoryview(bytearray(4)), 0, config.server.total_max_smtp_out)
        slot = Slot(scheduler, reader, Destinations(resolver, frozenset()), Sources(config, list), total, log, fields_of(config))
        reporter = Reporter(config.server, link, reader, cast(Any, Segments(world.spool, link)))
        slot.settler = Settler(scheduler, link, reader, reporter, log, slot.plan)
        steps = StepGuard(world.clock.wall_ms(), world.clock.monotonic_s())
        log.since_s = world.clock.now_s
        slot.backlog = Backlog(scheduler, reader, slot.settler, steps, log, Ownership(ours, ours, True, log), link.stamp_ms)
        self._watch(slot)
        self.slot = slot
        self.scheduler = scheduler
        world.loop.begin(self)

    def tick(self) -> None:
        """As the worker's loop."""
        if self.slot is not None:
            self.slot.tick()
            self.check()

    def wants_tick_s(self) -> float:
        """Deadlines of connections, and timers; the rest in strides."""
        at_s = self.last_tick_s + STRIDE_S
        for end in self.world.network.of(self):
            deadline_s = getattr(end.protocol, "deadline_s", inf)
            at_s = min(at_s, deadline_s)
        next_ms = self.scheduler.timers.next_ms()
        if next_ms:
            at_s = min(at_s, (next_ms - self.world.clock.offset_ms) / 1000)
        return at_s

    def stepped(self, by_ms: int) -> None:
        """The wall clock has.  By less than the engine notices: then a hold that is over may count once more, and a new one begin late."""
        if abs(by_ms) < STEP_MS:
            self.holds.clear()
            self.failed_ms = dict.fromkeys(self.world.spool.disk.names, self.world.clock.wall_ms() + max(0, -by_ms))
            return
        self.holds = {number: (until_ms + by_ms, since_ms + by_ms) for number, (until_ms, since_ms) in self.holds.items()}
        self.failed_ms = {number: failed_ms + by_ms for number, failed_ms in self.failed_ms.items()}

    def check(self) -> None:
        """What must hold whenever the loop comes round."""
        scheduler, fail = self.scheduler, self.world.ledger.fail
        if scheduler.rows != sum(len(queue.window) for queue in scheduler.queues.values()):
            fail("rows are counted wrongly")
        under_way: set[bytes] = set()
        for end in self.world.network.of(self):
            connection = end.protocol
            if isinstance(connection, Connection):
                self.world.sockets.check(connection.queue)
                if connection.transaction is not None:
                    for row in connection.transaction.rows:
                        if row.key in under_way:
                            fail(f"{row.due.address} is under way twice")
                        under_way.add(row.key)
        for number, held in scheduler.held.items():
            woken = 0 < scheduler.timers.at_ms(number) <= held.until_ms or number in scheduler.to_load
            if number in scheduler.queues or not woken:
                fail(f"nobody will wake {self.world.spool.disk.names[number]}, which is held")

    def _watch(self, slot: Slot) -> None:
        opener = slot._opener
        real = opener.open_for

        async def open_for(queue: Queue, source: Any) -> Any:
            _queue.set(queue)
            ledger, clock = self.world.ledger, self.world.clock
            ledger.say(self.name, f"connects for {queue.name}")
            hold_ms, since_ms = self.holds.get(queue.number, (0, 0))
            if clock.wall_ms() < hold_ms and abs(clock.wall_ms() - since_ms) > DECIDED_MS:
                ledger.fail(f"{queue.name} connects {hold_ms - clock.wall_ms()} ms before its retry-after has passed")
            result = await real(queue, source)
            ledger.say(self.name, f"has for {queue.name}: {type(result).__name__} {result.why if isinstance(result, Failed) else ''}")
            self._note_hold(queue, result)
            return result

        opener.open_for = open_for

    def _note_hold(self, queue: Queue, result: Any) -> None:
        settings, now_ms = queue.settings, self.world.clock.wall_ms()
        if isinstance(result, Connection):
            self.holds.pop(queue.number, None)
            return
        wait_s = longest_s = 0.0
        if isinstance(result, Failed) and not (result.permanent and settings.bounce_upon_5xx_greeting and result.reply is not None):
            wait_s, longest_s = min(settings.retry_after), max(settings.retry_after)
        elif isinstance(result, NoTargets) and (result.kind == "temporary" or (result.kind == "no-mx" and settings.bounce_upon_no_mx is None)):
            wait_s = settings.retry_after_dns_error_s
        if wait_s:
            longest_ms = int(max(longest_s, settings.retry_after_dns_error_s) * 1000)  # so long the one before may hold: this one then begins no hold
            if now_ms > self.failed_ms.get(queue.number, 0) + longest_ms:
                self.holds[queue.number] = now_ms + int(wait_s * 1000), now_ms
            self.failed_ms[queue.number] = now_ms

    def _announced(self, numbers: list[int], stamp_ms: int) -> None:
        if self.slot is not None:
            self.slot.backlog.announced(numbers, stamp_ms)
            self.slot.plan()

    def _lost(self, error: Exception) -> None:
        self.world.network.later(0.0, self.world.spool_lost, self.world.network.context, self)


class ListenerProcess(Process):
    """One life of the listener."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(f"listener#{number}")
        self.world = world
        self.listener: Listener | None = None
        self.link: SpoolLink | None = None

    async def start(self) -> None:
        """As engine.listener.worker does."""
        world = self.world
        log: Any = Log(world, self)
        link = self.link = await SpoolLink.connect("spool", role="listener", index=0, on_lost=lambda error: None)
        reception = Reception(world.config, link, cast(Any, Segments(world.spool, link)), log)
        count = SharedCount(memoryview(bytearray(4)), 0, world.config.server.total_max_smtp_in)
        self.listener = Listener(reception, log, [], count, 1000, Door.alone())
        world.loop.begin(self)

    def accept(self, end: Endpoint) -> None:
        """A client is there."""
        assert self.listener is not None
        incoming = Incoming(self.listener, ListenSocket(0, "10.0.0.25", 25))
        end.protocol = incoming
        incoming.connection_made(cast(Any, end))

    def tick(self) -> None:
        """Once a second is enough, but more often harms nobody."""
        listener = self.listener
        if listener is not None:
            listener.now_s = self.world.clock.now_s
            listener._sweep()
            listener.reception.tick()
            listener.refusals.tick()

    def wants_tick_s(self) -> float:
        """While somebody is connected."""
        return self.last_tick_s + 1.0 if self.world.network.of(self) else inf
