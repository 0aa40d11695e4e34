"""Wake-ups: each once, the earlier of two, and no memory for those that were overtaken or forgotten."""

from __future__ import annotations

from engine.scheduler.timers import Timers


def test_the_earlier_of_two_wins_and_rings_once() -> None:
    timers = Timers()
    timers.wake(1, 300)
    timers.wake(1, 200)
    timers.wake(1, 250)
    timers.wake(2, 100)
    assert (timers.at_ms(1), timers.next_ms(), len(timers)) == (200, 100, 2)
    assert timers.due(199, 10) == [2]
    assert timers.due(1_000, 10) == [1]
    assert timers.due(1_000, 10) == []


def test_no_more_than_asked_for_at_once() -> None:
    timers = Timers()
    for number in range(10):
        timers.wake(number, number)
    assert timers.due(100, 4) == [0, 1, 2, 3]
    assert len(timers) == 6


def test_a_forgotten_one_does_not_ring() -> None:
    timers = Timers()
    timers.wake(1, 100)
    timers.forget(1)
    timers.forget(2)
    assert timers.due(1_000, 10) == []
    timers.wake(1, 300)
    assert timers.due(299, 10) == []
    assert timers.due(300, 10) == [1]


def test_queues_that_come_and_go_leave_nothing_behind() -> None:
    timers = Timers()
    for number in range(100_000):
        timers.wake(number, 1_000_000_000)
        timers.forget(number)
    assert len(timers._heap) <= 1_001
    timers.wake(7, 5)
    assert timers.due(10, 10) == [7]
