"""What is remembered of queues that fail, and that it is bounded whatever fails."""

from __future__ import annotations

from engine.control.views import Event
from engine.delivery import events as module
from engine.delivery.events import EVENTS_OF_A_QUEUE, RECIPIENT_EVENTS, Events
from engine.delivery.outcome import NOWHERE, Result
from engine.mail.envelope import Due, due_key
from engine.scheduler.queue import Row


def result(kind: str, number: int = 1) -> Result:
    return Result(Row(due_key(number, 50, 1, bytes(12), 0), Due("a@d.example", 1)), kind, "2.0.0", f"smtp;250 {kind}\r\n")


def test_the_last_errors_of_a_queue_are_kept() -> None:
    events = Events()
    for at_ms in range(15):
        events.queue_failed(1, 10, f"why {at_ms}", NOWHERE, at_ms)
    assert [event.at_ms for event in events.errors(1)] == list(range(5, 15))
    assert events.last(1) == Event(14, "tq", "why 14")
    assert (events.errors(2), events.last(2), events.recipients(1)) == ([], None, [])


def test_none_are_kept_where_none_are_wanted() -> None:
    events = Events()
    events.queue_failed(1, 0, "why", NOWHERE, 1)
    events.settled(1, 0, False, [result("t")], NOWHERE, 1)
    assert events.errors(1) == []


def test_deliveries_are_events_only_where_they_are_tracked() -> None:
    events = Events()
    events.settled(1, 10, False, [result("d"), result("t"), result("b")], NOWHERE, 1)
    assert ([event.kind for event in events.errors(1)], events.recipients(1)) == (["t", "b"], [])
    for _ in range(RECIPIENT_EVENTS):
        events.settled(2, 10, True, [result("d"), result("t")], NOWHERE, 1)
    assert [event.kind for event in events.recipients(2)] == ["d", "t"] * (RECIPIENT_EVENTS // 2)
    assert events.errors(2)[-1].text == r"smtp;250 t\r\n", "peer text is escaped"


def test_memory_is_bounded_over_all_queues_and_the_quiet_are_forgotten() -> None:
    events = Events()
    for number in range(2 * module.EVENTS_MOST):
        events.queue_failed(number, 10, "why", NOWHERE, number)
        events.queue_failed(0, 10, "why", NOWHERE, number)
    assert len(events._errors) <= module.EVENTS_MOST
    assert len(events.errors(0)) == 10
    assert events.errors(1) == []
    assert events.errors(2 * module.EVENTS_MOST - 1) != []


def test_one_queue_alone_is_bounded_whatever_is_configured() -> None:
    events = Events()
    for at_ms in range(3 * EVENTS_OF_A_QUEUE):
        events.queue_failed(1, 10**12, "why", NOWHERE, at_ms)
    assert len(events.errors(1)) == len(events._errors) == EVENTS_OF_A_QUEUE
    events.queue_failed(1, 3, "after a reload", NOWHERE, 1)
    assert len(events.errors(1)) == len(events._errors) == 3
