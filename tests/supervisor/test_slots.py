"""When a slot's next process may start, and when its sockets need somebody else: arithmetic over a clock that is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.supervisor.slots import Slot, Timing

TIMING = Timing()


def slot() -> Slot:
    return Slot("listener", 0, "module", 0)


def test_back_off_doubles_to_its_longest() -> None:
    one, now_s, delays = slot(), 100.0, []
    for _ in range(12):
        one.started(42, now_s)
        one.ended(now_s, TIMING)
        delays.append(one.not_before_s - now_s)
        now_s = one.not_before_s
    assert [round(delay_s, 6) for delay_s in delays[:4]] == [0.1, 0.2, 0.4, 0.8]
    assert round(delays[-1], 6) == TIMING.longest_backoff_s


def test_who_worked_long_enough_is_started_again_at_once() -> None:
    one = slot()
    one.started(42, 0.0)
    one.observe(1, 1.0)
    one.ended(20.0, TIMING)
    assert (one.not_before_s, one.crashes, one.worked, one.ready) == (20.0, 0, True, False)


def test_waiting_for_the_spool_process_is_not_hanging() -> None:
    one = slot()
    one.started(42, 0.0)
    one.observe(1, 1.0)
    assert not one.hung(1.0 + TIMING.hung_s, TIMING)
    assert one.hung(1.1 + TIMING.hung_s, TIMING)


def test_sockets_are_taken_over_a_second_after_the_worker_died() -> None:
    one = slot()
    assert one.unattended_at(5.0, TIMING) == 5.0 + TIMING.boot_grace_s
    one.started(42, 10.0)
    assert one.unattended_at(5.0, TIMING) == 10.0 + TIMING.boot_grace_s
    one.observe(1, 11.0)
    assert one.unattended_at(5.0, TIMING) is None
    one.ended(30.0, TIMING)
    assert one.unattended_at(5.0, TIMING) == 30.0 + TIMING.takeover_s


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30))
def test_a_slot_in_a_crash_loop_is_never_unattended_for_long(lives: list[tuple[float, bool]]) -> None:
    """Whatever happens, from a death until the next heartbeat the sockets are due for takeover within the grace of a start."""
    one, now_s = slot(), 0.0
    for lived_s, beats in lives:
        one.started(42, now_s)
        if beats:
            one.observe(1, now_s)
        now_s += lived_s
        one.ended(now_s, TIMING)
        at_s = one.unattended_at(0.0, TIMING)
        assert at_s is not None
        assert at_s <= now_s + TIMING.takeover_s
        assert one.not_before_s <= now_s + TIMING.longest_backoff_s
        now_s = one.not_before_s
