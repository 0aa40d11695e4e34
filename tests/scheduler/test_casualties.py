"""Recipients to bounce wait on disk, not in memory: whatever condemns them, only so many are taken out of the spool before they are buried."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any, cast

import pytest

from engine.mail.envelope import DEFAULT_PRIORITY, Due, due_key
from engine.scheduler.queue import Doom, Queue
from engine.scheduler.scheduler import CASUALTIES_MOST, Scheduler
from tests.scheduler.world import Destination

NOW_MS = 1_800_000_000_000
TURNS = 200


class Endless:
    """A queue with more old recipients than memory should ever see, each of a message of its own."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(lambda domain, vmta: cast(Any, Destination()), lambda vmta: 0)
        self.queue: Queue = self.scheduler.add(1, "a.example/v")
        self.scheduler.announce(1, NOW_MS)
        self._numbers = count(1)

    def turn(self, serve: Callable[[Queue], object], now_ms: int = NOW_MS) -> None:
        """What the slot's pump does, without a spool process that would acknowledge anything."""
        for number in self.scheduler.timers.due(now_ms, 100):
            self.scheduler.wake(self.scheduler.queues[number], now_ms)
        while (load := self.scheduler.next_load(now_ms)) is not None:
            number, most = load
            queue = self.scheduler.queues[number]
            rows = [(due_key(1, DEFAULT_PRIORITY, 5, n.to_bytes(12, "big"), 0), Due("u@a.example", 5)) for n in islice(self._numbers, most)]
            self.scheduler.loaded(queue, rows, None, complete=False)
            for ready in list(self.scheduler.ready.values()):
                serve(ready)
            if len(self.scheduler.casualties) > 10 * CASUALTIES_MOST:
                return


def condemn(endless: Endless) -> Callable[[Queue], object]:
    endless.scheduler.doomed(endless.queue, Doom(NOW_MS + 60_000, "5.1.2", "x-engine;no such domain"))
    return lambda queue: endless.scheduler.condemn(queue, NOW_MS)


def take(endless: Endless) -> Callable[[Queue], object]:
    return lambda queue: endless.scheduler.take(queue, NOW_MS)


@pytest.mark.parametrize("how", [condemn, take])
def test_the_condemned_wait_on_disk(how: Callable[[Endless], Callable[[Queue], object]]) -> None:
    endless = Endless()
    serve = how(endless)
    for _ in range(TURNS):
        endless.turn(serve)
    scheduler = endless.scheduler
    assert CASUALTIES_MOST <= len(scheduler.casualties) < 2 * CASUALTIES_MOST
    assert not scheduler.wants_load and not scheduler.ready, "it spins"
    assert len(endless.queue.in_flight) == len(scheduler.casualties) and scheduler.rows == 0

    while scheduler.casualties:
        _, row, _, _ = scheduler.casualties.popleft()
        endless.queue.in_flight.discard(row.key)
    endless.turn(serve, NOW_MS + 1_000)
    assert scheduler.casualties, "the next ones are forgotten"
