"""Very many destinations at once: what is in memory of them is bounded by what can be sent, not by how many there are."""

from __future__ import annotations

import tracemalloc
from typing import Any, cast

from engine.mail.envelope import DEFAULT_PRIORITY, Due, due_key
from engine.scheduler.line import Line
from engine.scheduler.scheduler import WINDOW_ROWS, Scheduler
from tests.scheduler.world import Destination, World

NOW_MS = 1_800_000_000_000


def test_a_queue_whose_mail_cannot_be_read_yet_is_a_number() -> None:
    """It was an object of 1.4 KB as soon as it was announced: 100,000 destinations took 190 MB while the window had room for 20,000 rows."""
    scheduler = Scheduler(lambda domain, vmta: cast(Any, Destination()), lambda vmta: 0)
    count = WINDOW_ROWS + 30_000
    tracemalloc.start()
    try:
        for number in range(1, count + 1):
            scheduler.announce(number, NOW_MS)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert not scheduler.queues
    assert grown / count < 160, f"{grown / count:.0f} bytes each"
    seen = []
    while (load := scheduler.next_load(NOW_MS)) is not None:
        seen.append(load[0])
        queue = scheduler.add(load[0], f"d{load[0]}.example/v")
        row = due_key(load[0], DEFAULT_PRIORITY, NOW_MS, load[0].to_bytes(12, "big"), 0), Due("u@d.example", NOW_MS)
        scheduler.loaded(queue, [row], None, complete=True)
    assert len(scheduler.queues) == scheduler.rows == WINDOW_ROWS
    assert seen == list(range(1, WINDOW_ROWS + 1)), "first come, first served"
    assert not scheduler.wants_load, "it spins"


def test_each_is_read_and_sent_in_its_turn(monkeypatch: Any) -> None:
    """More destinations than the window has rows, while a tenth of the hosts is down for a minute: nobody is forgotten."""
    monkeypatch.setattr("engine.scheduler.scheduler.WINDOW_ROWS", 8)
    names = {number: f"d{number}.example/v" for number in range(1, 101)}
    world = World(names, {f"d{number}.example": Destination() for number in names}, {}, total_out=5)
    for number in names:
        world.arrive(number, 1)
    while world.announcements:
        world.hear()
    assert not world.scheduler.queues
    world.tick()
    for connection in world.in_state("connecting"):
        world.connect_failed(connection)
    assert len(world.scheduler.queues) <= 13
    world.run_out()
    assert all(recipient.ended for recipient in world.recipients.values())


def test_a_held_queue_whose_timer_rings_early_is_held_on() -> None:
    world = World({1: "a.example/v"}, {"a.example": Destination()}, {})
    world.arrive(1, 1)
    world.hear()
    world.tick()
    world.connect_failed(world.in_state("connecting")[0])
    assert set(world.scheduler.held) == {1}
    world.scheduler.timers.wake(1, world.now_ms + 10)
    world.now_ms += 10
    world.tick()
    assert set(world.scheduler.held) == {1} and not world.scheduler.queues
    assert world.scheduler.timers.at_ms(1) == world.scheduler.held[1].until_ms
    world.run_out()


def test_nobody_stands_in_line_twice() -> None:
    line = Line()
    for number in (3, 1, 3, 2, 1):
        line.join(number)
    assert len(line) == 3 and 3 in line
    assert [line.next(), line.next()] == [3, 1]
    assert 3 not in line
    line.join(3)
    assert [line.next(), line.next()] == [2, 3] and not line
