"""The order in which an upgrade replaces processes: plans, without processes."""

from __future__ import annotations

import pytest

from engine.supervisor.renewal import SIDE_BY_SIDE, STOP_ORDER, Renewal, renewal
from engine.supervisor.slots import Slot
from engine.supervisor.start import MODULES

OLD = [("spool", 0), ("accounting", 0), ("mover", 0), ("listener", 0), ("listener", 1), ("delivery", 0), ("delivery", 3), ("sink", 0)]


def halves() -> tuple[list[Slot], list[Slot]]:
    """The old processes and those that shall come, as a supervisor has them that has just taken over."""
    old = [Slot(role, index, "m", row, pid=100 + row, ready=True, retiring=True) for row, (role, index) in enumerate(OLD)]
    new = []
    for each in old:
        before = [other for other in old if other.role == each.role and each.role != "listener"]
        new.append(Slot(each.role, each.index, "m", 20 + each.row, after=before))
    return old, new


def told(order: Renewal, slots: list[Slot]) -> set[str]:
    return {slot.name for slot in slots if slot.retiring and order.may_go(slot, slots)}


def go(slots: list[Slot], role: str) -> None:
    slots[:] = [slot for slot in slots if not (slot.retiring and slot.role == role)]


def come(slots: list[Slot], role: str) -> None:
    for slot in slots:
        if slot.role == role and not slot.retiring:
            slot.ready = True


def test_every_role_has_its_place() -> None:
    assert set(SIDE_BY_SIDE) == set(STOP_ORDER) == set(MODULES)


def test_role_after_role_goes_when_the_one_before_has_come_anew() -> None:
    old, new = halves()
    slots, order = old + new, renewal(1, 1)
    assert not order.apart
    for role in SIDE_BY_SIDE:
        assert told(order, slots) == {slot.name for slot in old if slot.role == role}
        go(slots, role)
        assert told(order, slots) == set(), "the next one waits until the successor works"
        come(slots, role)
    assert slots == new


def test_across_a_change_of_protocol_all_go_before_any_comes() -> None:
    old, new = halves()
    slots, order = old + new, renewal(1, 2)
    assert order.apart
    for role in STOP_ORDER:
        assert told(order, slots) == {slot.name for slot in old if slot.role == role}
        go(slots, role)
    assert slots == new


def test_a_reload_has_no_order() -> None:
    old, new = halves()
    assert told(Renewal(), old + new) == {slot.name for slot in old}


@pytest.mark.parametrize(("role", "index", "others"), [("delivery", 3, {"delivery/0"}), ("accounting", 0, set()), ("listener", 1, set())])
def test_who_ends_before_its_turn_has_its_kind_follow(role: str, index: int, others: set[str]) -> None:
    """The successors of a delivery process wait for all old ones: its mail must not wait for the other roles' turns."""
    old, new = halves()
    slots = [slot for slot in old if (slot.role, slot.index) != (role, index)] + new
    assert told(renewal(1, 1), slots) == {"spool/0"} | others


def test_a_role_of_an_older_version_that_we_do_not_know_goes_last() -> None:
    old, new = halves()
    pickup = Slot("pickup", 0, "", 50, pid=9, ready=True, retiring=True)
    slots = [*old, *new, pickup]
    assert "pickup/0" not in told(renewal(1, 1), slots)
    for role in SIDE_BY_SIDE:
        go(slots, role)
        come(slots, role)
    assert told(renewal(1, 1), slots) == {"pickup/0"}
