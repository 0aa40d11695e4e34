"""An asyncio event loop in simulated time: nothing waits, the clock jumps to whatever comes next; and processes in it that can be killed."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from math import ceil, floor, inf
from typing import Any

TICK_S = 0.25  # of the delivery worker
TURNS_MOST = 200_000  # of the loop, in one world
LOOKS_MOST = 20_000  # at the clock, in one turn
TURNS_AT_ONCE = 5_000  # without a moment's passing: somebody is busy for ever
START_WALL_MS = 1_900_000_000_000


class Clock:
    """Both clocks.  *drag_s* passes with every look at the monotonic one: a slow machine, on which every slice of work ends early."""

    def __init__(self, drag_s: float = 0.0) -> None:
        self.now_s = 1_000.0
        self.offset_ms = START_WALL_MS
        self.drag_s = drag_s
        self.looks = 0  # in this turn of the loop

    def monotonic_s(self) -> float:
        """Seconds that never step."""
        self.now_s += self.drag_s
        self.looks += 1
        if self.looks > LOOKS_MOST:
            raise AssertionError("somebody waits for the clock within one turn of the loop, for ever")
        return self.now_s

    def wall_ms(self) -> int:
        """Milliseconds that a step of the wall clock moves (`offset_ms`)."""
        return int(self.now_s * 1000) + self.offset_ms


class Process:
    """What a process is here: the context that its callbacks run in, by which they are found when it is killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.context = contextvars.copy_context()
        self.context.run(_process.set, self)
        self.tasks: list[asyncio.Task[Any]] = []
        self.last_tick_s = 0.0

    def tick(self) -> None:
        """Its loop's regular turn."""

    def wants_tick_s(self) -> float:
        """When the next tick has something to do, as far as is known."""
        return inf

    def next_tick_s(self, event_s: float) -> float:
        """When to tick next, on the grid of ticks, if the next event comes at *event_s*; ticks that would find nothing to do are left out."""
        before = floor(event_s / TICK_S) * TICK_S if event_s < inf else inf
        if before <= self.last_tick_s:
            before = inf
        wants_s = self.wants_tick_s()
        return min(before, max(ceil(wants_s / TICK_S) * TICK_S, self.last_tick_s + TICK_S)) if wants_s < inf else before


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """Whose callback is running; None: the world's."""
    return _process.get()


class _Jump:
    """In a selector's place: waiting is setting the clock."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._turns = self._at_once = 0
        self._at_s = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        loop = self._loop
        clock = loop.clock
        self._turns += 1
        clock.looks = 0
        self._at_once = self._at_once + 1 if clock.now_s == self._at_s else 0
        self._at_s = clock.now_s
        if self._turns > TURNS_MOST or self._at_once > TURNS_AT_ONCE:
            raise AssertionError(f"the loop never comes to rest: {self._turns} turns, {self._at_once} at one moment")
        if timeout is not None and timeout <= 0:
            return []
        event_s = inf if timeout is None else clock.now_s + timeout
        first: Process | None = None
        tick_s = inf
        for process in loop.processes:
            at_s = process.next_tick_s(event_s)
            if at_s <= event_s and at_s < tick_s:
                first, tick_s = process, at_s
        if first is not None:
            clock.now_s = max(clock.now_s, tick_s)
            first.last_tick_s = floor(clock.now_s / TICK_S) * TICK_S
            first.context.run(first.tick)
        elif event_s == inf:
            raise AssertionError("everybody waits, and nothing will ever happen")
        else:
            clock.now_s = max(clock.now_s, event_s)
        return []

    def close(self) -> None:
        """Nothing is held."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the module.  *connect* makes the connections to the spool process."""

    def __init__(self, clock: Clock, connect: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        super().__init__()
        self.clock = clock
        self.processes: list[Process] = []
        self.graves: list[Process] = []  # their tasks, kept: collecting them would run their last lines at a moment of its own
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9
        self._connect = connect

    def time(self) -> float:
        """The simulated monotonic clock."""
        return self.clock.now_s

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        """As any loop, and remembers whose it is."""
        task = super().create_task(coro, name=name, context=context)
        process = _process.get()
        if process is not None:
            if len(process.tasks) > 64:
                process.tasks = [each for each in process.tasks if not each.done()]
            process.tasks.append(task)
        return task

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **_: Any) -> Any:
        """To the spool process."""
        return await self._connect(protocol_factory)

    def begin(self, process: Process) -> None:
        """*process* starts to tick."""
        process.last_tick_s = floor(self.clock.now_s / TICK_S) * TICK_S
        self.processes.append(process)

    def kill(self, process: Process) -> None:
        """None of its callbacks runs any more."""
        process.alive = False
        if process in self.processes:
            self.processes.remove(process)
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            if handle._context is not None and handle._context.get(_process) is process:
                handle.cancel()
        for task in process.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.graves.append(process)

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody is outside."""
