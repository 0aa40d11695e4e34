"""A slot takes on the queues that the configuration gives it, whoever is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.config.settings import DomainSettings
from engine.delivery import backlog as backlog_module
from engine.delivery.backlog import Backlog
from engine.delivery.ownership import Ownership
from engine.mail.envelope import Due, due_key
from engine.scheduler.clockstep import StepGuard
from engine.scheduler.queue import due_ms
from engine.scheduler.scheduler import Scheduler


@pytest.fixture(autouse=True)
def _no_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine five milliseconds may pass within any turn."""
    monkeypatch.setattr(backlog_module, "TURN_S", 60.0)


NAMES = {1: "d.example/mine", 2: "d.example/theirs", 3: "d.example/gone"}


def backlog(fallback: bool, on_disk: Sequence[int] = ()) -> tuple[Backlog, Scheduler, list[str]]:
    """A Backlog over three queues with rows: of our virtual MTA, of another slot's, and of one that is configured no more."""
    settings = DomainSettings(bounce_after_s=60.0, max_smtp_out=5)
    scheduler = Scheduler(lambda domain, vmta: settings, lambda vmta: 0)
    said: list[str] = []
    log = SimpleNamespace(event=lambda kind, text: said.append(f"{kind} {text}"))

    def queues(after: int, most: int) -> Sequence[tuple[int, int]]:
        return [(number, 1) for number in on_disk if number > after][:most]

    def due(number: int, *_: object) -> tuple[list[tuple[bytes, Due]], int | None]:
        return [(due_key(number, 50, 1, bytes(12), 0), Due("a@d.example", 0))], None

    reader = SimpleNamespace(queue_name=NAMES.__getitem__, queues=queues, due=due, named_due=lambda number, *_: (NAMES[number], *due(number)))
    owns = Ownership(frozenset({"mine"}), frozenset({"mine", "theirs"}), fallback, cast(Any, log))
    return Backlog(scheduler, cast(Any, reader), cast(Any, None), StepGuard(0, 0.0), cast(Any, log), owns, 0), scheduler, said


def test_announcements_of_another_slots_queues_are_not_ours() -> None:
    """The spool process tells the first slot of queues whose own slot is not connected: that one is only starting, and will send."""
    for fallback in (False, True):
        made, scheduler, _ = backlog(fallback)
        made.announced([1, 2], 5)
        made.load(10)
        assert set(scheduler.queues) == {1}


def test_what_nobody_owns_falls_to_the_first_slot_and_that_is_said_once() -> None:
    made, scheduler, said = backlog(True)
    made.announced([3], 5)
    made.load(10)
    made.announced([3], 6)
    made.load(10)
    assert set(scheduler.queues) == {3}
    assert len(said) == 1
    assert "gone" in said[0]
    made, scheduler, _ = backlog(False)
    made.announced([3], 5)
    made.load(10)
    assert not scheduler.queues


def test_the_search_at_start_finds_the_same() -> None:
    for fallback, found in ((False, {1}), (True, {1, 3})):
        made, scheduler, _ = backlog(fallback, on_disk=tuple(NAMES))
        made.restore()
        made.wake_due(10)
        made.load(10)
        assert set(scheduler.queues) == found


def behind(due: list[tuple[bytes, Due]]) -> tuple[Backlog, Scheduler]:
    """A Backlog whose queue 1 has the rows *due*, with new mail stamped up to 1,000,000, as after a step of the wall clock back from there."""
    settings = DomainSettings(bounce_after_s=1e6, max_smtp_out=5, max_rcpt_per_message=5, retry_after=(50.0,))
    scheduler = Scheduler(lambda domain, vmta: settings, lambda vmta: 0)

    def read(number: int, after: bytes | None, until_ms: int, most: int) -> tuple[list[tuple[bytes, Due]], int | None]:
        later = [row for row in due if row[0] > (after or b"")]
        ripe = [row for row in later if due_ms(row[0]) <= until_ms]
        return ripe[:most], due_ms(later[len(ripe)][0]) if len(later) > len(ripe) else None

    def named(number: int, until_ms: int, most: int) -> tuple[Any, ...]:
        return NAMES[number], *read(number, None, until_ms, most)

    reader = SimpleNamespace(queue_name=NAMES.__getitem__, due=read, named_due=named, queues=lambda after, most: [])
    owns = Ownership(frozenset({"mine"}), frozenset({"mine"}), False, cast(Any, None))
    made = Backlog(scheduler, cast(Any, reader), cast(Any, None), StepGuard(0, 0.0), cast(Any, None), owns, 0)
    made.announced([1], 1_000_000)
    return made, scheduler


def test_a_held_queue_rests_while_the_clock_is_behind_the_stamps() -> None:
    """It was asked for again and again, for as long as the hold's end lay between the clock and the stamps: a process busy with nothing."""
    made, scheduler = behind([(due_key(1, 50, 1_000_000, bytes(12), 0), Due("a@d.example", 0))])
    assert not made.load(900_000)
    queue = scheduler.queues[1]
    scheduler.connecting_to(queue)
    scheduler.connect_failed(queue, 900_000, "refused")
    assert not made.load(400_000)
    made.wake_due(400_000)
    assert not made.load(400_000)
    made.wake_due(950_000)
    made.load(950_000)
    assert [row.due.address for row in scheduler.queues[1].window] == ["a@d.example"]


def test_a_retry_waits_for_its_time_while_the_clock_is_behind_the_stamps() -> None:
    """It was read as due at once, since it lies before the stamps: a recipient was tried again and again without any wait."""
    retry = due_key(1, 50, 460_000, b"m" * 12, 0), Due("retry@d.example", 0, attempts=1)
    new = due_key(1, 50, 999_999, b"m" * 12, 1), Due("new@d.example", 0)
    made, scheduler = behind([retry, new])
    made.load(400_000)
    queue = scheduler.queues[1]
    assert [row.due.address for row in queue.window] == ["new@d.example"]
    transaction = scheduler.take(queue, 400_000)
    assert transaction is not None
    scheduler.due_again(queue, 480_000)  # another one is deferred: read again from there, and nothing before is forgotten
    scheduler.timers.wake(1, 430_000)  # of something else, and earlier: it takes the retry's place
    made.wake_due(459_999)
    assert not made.load(459_999)
    assert not queue.window
    made.wake_due(460_000)
    made.load(460_000)
    assert [row.due.address for row in queue.window] == ["retry@d.example"]
