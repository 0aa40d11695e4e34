"""A slot takes on the queues that the configuration gives it, whoever is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from engine.delivery.backlog import Backlog
from engine.delivery.ownership import Ownership
from engine.scheduler.clockstep import StepGuard
from engine.scheduler.scheduler import Scheduler

NAMES = {1: "d.example/mine", 2: "d.example/theirs", 3: "d.example/gone"}


def backlog(fallback: bool) -> tuple[Backlog, Scheduler, list[str]]:
    """A Backlog over three queues with rows: of our virtual MTA, of another slot's, and of one that is configured no more."""
    settings: Any = SimpleNamespace(type="smtp", bounce_after_s=60.0, max_smtp_out=5)
    scheduler = Scheduler(lambda domain, vmta: settings, lambda vmta: 0)
    said: list[str] = []
    log = SimpleNamespace(event=lambda kind, text: said.append(f"{kind} {text}"))

    def queues(after: int, most: int) -> Sequence[tuple[int, int]]:
        return [(number, 1) for number in NAMES if number > after][:most]

    reader = SimpleNamespace(queue_name=NAMES.__getitem__, queues=queues)
    owns = Ownership(frozenset({"mine"}), frozenset({"mine", "theirs"}), fallback, cast(Any, log))
    return Backlog(scheduler, cast(Any, reader), cast(Any, None), StepGuard(0, 0.0), cast(Any, log), owns, 0), scheduler, said


def test_announcements_of_another_slots_queues_are_not_ours() -> None:
    """The spool process tells the first slot of queues whose own slot is not connected: that one is only starting, and will send."""
    for fallback in (False, True):
        made, scheduler, _ = backlog(fallback)
        made.announced([1, 2], 5)
        assert set(scheduler.queues) == {1}


def test_what_nobody_owns_falls_to_the_first_slot_and_that_is_said_once() -> None:
    made, scheduler, said = backlog(True)
    made.announced([3], 5)
    made.announced([3], 6)
    assert set(scheduler.queues) == {3}
    assert len(said) == 1
    assert "gone" in said[0]
    made, scheduler, _ = backlog(False)
    made.announced([3], 5)
    assert not scheduler.queues


def test_the_search_at_start_finds_the_same() -> None:
    for fallback, found in ((False, {1}), (True, {1, 3})):
        made, scheduler, _ = backlog(fallback)
        made.restore()
        made.wake_due(10)
        assert set(scheduler.queues) == found
