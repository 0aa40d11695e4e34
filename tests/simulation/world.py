"""One world, lived from its plan: unkind for a while, then kind until everybody's fate is on disk; what is left or broken is its failure."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from random import Random
from typing import Any

from engine.config import build, from_text
from engine.delivery import attempt as attempt_module
from engine.delivery import backlog as backlog_module
from engine.delivery import slot as slot_module
from engine.listener import listener as listener_module
from engine.reception import intake as intake_module
from engine.spool import link as link_module
from tests.simulation.client import Client
from tests.simulation.dns import NameServer
from tests.simulation.ledger import STEP_MS, Ledger
from tests.simulation.loop import Clock, Process, SimulatedLoop, current_process
from tests.simulation.network import Line, Network
from tests.simulation.peers import Host
from tests.simulation.plan import Arrival, Plan, draw
from tests.simulation.processes import DeliveryProcess, ListenerProcess, Socket, Sockets, Streams
from tests.simulation.spool import Spool, Temper

STRICT_S = {"calm": 5.0, "crowd": 90.0}  # from due to tried; in a crowd others have their turns before
SETTLE_WITHIN_S = 700.0  # from due to settled, in a kind one: retry-after, a doom, an unreachable host's wait, a probe's claim, a stalled session
DRAIN_S = 20.0
REST_S = 40.0  # longer than any idle timeout


@dataclass(frozen=True)
class Outcome:
    """How a world ended."""

    seed: int
    kind: str
    failure: str  # "": none
    digest: str
    account: str
    recipients: int
    attempts: int
    connections: int
    events: int  # lines of the trace
    simulated_s: float
    late_ms: int  # the latest settlement in the kind part
    trace: list[str]

    def without_trace(self) -> Outcome:
        """Itself, without what only a failure is asked for."""
        return replace(self, trace=[])


def live(seed: int) -> Outcome:
    """The world of *seed*, from its beginning to its end."""
    return World(draw(seed)).live()


class World:
    """See the module."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(plan.seed + 1)
        self.clock = Clock(plan.drag_s)
        loaded = build(from_text(plan.config))
        assert loaded.config is not None, loaded.problems
        self.config = loaded.config
        self.ledger = Ledger(self.clock, self.config)
        self.loop = SimulatedLoop(self.clock, self._connect)
        context = contextvars.copy_context()
        self.network = Network(self.loop, Random(plan.seed + 2), context)
        self.spool = Spool(self.network, self.clock, Random(plan.seed + 3), plan.temper, self.ledger)
        self.dns = NameServer(plan.zones, plan.addresses, Random(plan.seed + 4), self.ledger)
        self.hosts = {
            address: Host(address, manners, self.network, Random(plan.seed + 5 + number), self.ledger, self._limits)
            for number, (address, manners) in enumerate(plan.hosts.items())
        }
        for address, domains in plan.domains_of.items():
            self.hosts[address].domains = domains
        self.sockets = Sockets(self)
        self.delivery: DeliveryProcess | None = None
        self.listener: ListenerProcess | None = None
        self.lives = 0
        self.clients: list[Client] = []
        self.ledger.stamp_ms = lambda: self.spool.disk.stamp_ms  # type: ignore[method-assign]
        self.ledger.on_failure = self.loop.stop

    def live(self) -> Outcome:
        """All of it."""
        loop, ledger = self.loop, self.ledger
        loop.set_exception_handler(self._fault)
        account = ""
        with _simulated(self):
            main = loop.create_task(self._main())
            main.add_done_callback(lambda _: loop.stop())
            try:
                loop.run_forever()
                if not ledger.failure:
                    main.result()
                    account = ledger.account()
            except Exception as error:  # noqa: BLE001 - whatever it is, the seed has failed
                ledger.fail("".join(traceback.format_exception(error)))
            finally:
                self._bury()
        return Outcome(
            self.plan.seed, self.plan.kind, ledger.failure, ledger.digest(), account, len(ledger.recipients), ledger.attempts,
            self.sockets.opened_in_all, len(ledger.trace), self.clock.now_s - 1_000.0, ledger.late_ms, ledger.trace,
        )  # fmt: skip

    # --- its course -------------------------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        plan, loop = self.plan, self.loop
        self.ledger.crowded = plan.crowded
        self.ledger.strict_s = STRICT_S.get(plan.kind, inf)
        self._start_delivery()
        self._start_listener()
        begin_s = loop.time() + 1.0
        for arrival in plan.arrivals:
            loop.call_at(begin_s + arrival.at_s, self._arrive, arrival)
        for at_s, event, amount in plan.events:
            loop.call_at(begin_s + at_s, self._happen, event, amount)
        await asyncio.sleep(1.0 + plan.unkind_s)
        for host in self.hosts.values():
            host.kind = True
        self.dns.kind = True
        self.spool.temper = Temper()
        await asyncio.sleep(40.0)  # processes are back, clients gone, what was refused is answered
        self.ledger.kind_since_s = self.clock.now_s
        self.ledger.settle_within_s = SETTLE_WITHIN_S
        self.ledger.say("world", "is kind from now on")
        await self._run_out()
        await asyncio.sleep(REST_S)
        self._check_rest()

    async def _run_out(self) -> None:
        disk = self.spool.disk
        while disk.rows:
            last_ms = max(recipient.due_ms for recipient in self.ledger.recipients.values() if not recipient.ended)
            last_s = max((last_ms - self.clock.offset_ms) / 1000, self.ledger.kind_since_s)
            if self.clock.now_s > last_s + SETTLE_WITHIN_S:
                left = sorted(due.address for due in disk.rows.values())
                self.ledger.fail(f"forgotten: {', '.join(left)}")
                return
            first_ms = min(int.from_bytes(keys[0][5:13], "big") for keys in disk.due.values() if keys)
            await asyncio.sleep(max(5.0, min(600.0, (first_ms - self.clock.offset_ms) / 1000 - self.clock.now_s)))

    def _check_rest(self) -> None:
        """With nothing queued, nothing is held."""
        delivery, fail = self.delivery, self.ledger.fail
        if delivery is None or delivery.slot is None:
            fail("the slot is not back")
            return
        scheduler = delivery.scheduler
        if self.sockets.count or delivery.slot.busy:
            fail(f"{self.sockets.count} connections are left")
        held = (scheduler.connecting, scheduler.rows, len(scheduler.settling), len(scheduler.casualties), delivery.total.mine())
        if any(held):
            fail("left: {} connecting, {} rows, {} settling, {} to bounce, {} counted".format(*held))
        if self.spool.disk.messages or self.spool.disk.rows:
            fail(f"{len(self.spool.disk.messages)} messages are left without a recipient")

    # --- processes --------------------------------------------------------------------------------------------------------------------

    def _start_delivery(self) -> None:
        self.lives += 1
        self.delivery = DeliveryProcess(self, self.lives)
        self._run(self.delivery, self.delivery.start())

    def _start_listener(self) -> None:
        self.lives += 1
        self.listener = ListenerProcess(self, self.lives)
        self._run(self.listener, self.listener.start())

    def _run(self, process: Process, start: Any) -> None:
        self.ledger.say(process.name, "starts")
        process.context.run(self.loop.create_task, start)

    def _end_delivery(self, excused: bool) -> None:
        process, self.delivery = self.delivery, None
        if process is None:
            return
        self.network.kill(process)
        if excused:
            self.ledger.killed(process)
        self.sockets.killed()
        self.loop.call_later(self.random.uniform(0.1, 5.0), self._start_delivery)

    def _drained(self, process: DeliveryProcess, until_s: float) -> None:
        if process is not self.delivery or process.slot is None or process.link is None:
            return
        if (process.slot.busy or process.link.pending) and self.clock.now_s < until_s:
            self.loop.call_later(0.25, self._drained, process, until_s)
            return
        process.context.run(process.slot.stop, "the engine stops")
        process.context.run(process.link.close)
        self._end_delivery(excused=self.plan.crashes_spool)

    def spool_lost(self, process: DeliveryProcess) -> None:
        """Its epoch is closed: it ends, and comes back."""
        if process is self.delivery and process.slot is not None:
            process.context.run(process.slot.stop, "the spool is lost")
            self._end_delivery(excused=True)

    def _happen(self, event: str, amount: int) -> None:
        self.ledger.say("world", f"{event} {amount}")
        if event == "kill-delivery":
            self._end_delivery(excused=True)
        elif event == "drain-delivery" and self.delivery is not None and self.delivery.slot is not None:
            self.delivery.context.run(self.delivery.slot.drain)
            self._drained(self.delivery, self.clock.now_s + DRAIN_S)
        elif event == "kill-listener" and self.listener is not None:
            process, self.listener = self.listener, None
            self.network.kill(process)
            self.loop.call_later(self.random.uniform(0.1, 5.0), self._start_listener)
        elif event == "crash-spool" and self.spool.up:
            self.spool.crash()
            self.loop.call_later(self.random.uniform(0.3, 5.0), self.spool.start)
        elif event == "crash-spool-at-commit" and self.spool.up:
            self.spool.crash_at_commit = True
        elif event == "step":
            self.ledger.stepping()
            self.clock.offset_ms += amount
            if abs(amount) >= STEP_MS:
                self.ledger.last_step_s = self.clock.now_s
            if self.delivery is not None and self.delivery.slot is not None:
                self.delivery.stepped(amount)

    # --- connections ------------------------------------------------------------------------------------------------------------------

    async def _connect(self, make: Any) -> Any:
        return await self.spool.connect(current_process(), make)

    def _arrive(self, arrival: Arrival) -> None:
        listener = self.listener
        if listener is None or listener.listener is None:
            return
        ip = "192.0.2.77" if arrival.stranger else "10.9.9.9"
        ours, theirs = self.network.pair(None, listener, (ip, "10.0.0.25"), Line(0.005, 3), (arrival.cut, None))
        self.clients.append(Client(f"client{len(self.clients)}.example", list(arrival.mails), ours, self.ledger, arrival.ignore_pipelining))
        self.network.later(0.0, listener.accept, listener.context, theirs)

    def _limits(self, domain: str) -> Any:
        return self.config.domain(domain, "v1")

    def _fault(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.ledger.fail("fault: " + ("".join(traceback.format_exception(error)) if error else str(context.get("message"))))

    def _bury(self) -> None:
        """End without a word: nothing of this world runs after it."""
        self.loop.set_exception_handler(lambda *_: None)
        for process in [*self.loop.processes, *self.loop.graves]:
            for task in process.tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that the end of the world keeps from their first line
            self.loop.close()
            for process in [*self.loop.processes, *self.loop.graves]:
                process.tasks.clear()


@contextmanager
def _simulated(world: World) -> Iterator[None]:
    """The engine's modules see the clock, the sockets and the transports of *world*."""

    def streams(loop: Any) -> Any:
        process = current_process()
        return Streams(world, process) if isinstance(process, DeliveryProcess) else None

    clock = world.clock
    changes: list[tuple[Any, str, Any]] = [
        (slot_module, "monotonic_s", clock.monotonic_s),
        (slot_module, "wall_ms", clock.wall_ms),
        (slot_module, "Streams", streams),
        (attempt_module, "monotonic_s", clock.monotonic_s),
        (attempt_module, "bound_socket", lambda source_ip, address: Socket(world, source_ip, address)),
        (backlog_module, "monotonic_s", clock.monotonic_s),
        (listener_module, "Streams", streams),
        (intake_module, "wall_ms", clock.wall_ms),
        (link_module, "monotonic_s", clock.monotonic_s),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)

