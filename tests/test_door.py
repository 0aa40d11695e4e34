"""What listener processes share of clients: each writes its own cells, all read them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from engine.door import MAX_GROUPS, PROBES, SLOTS, Door, door_file, network_of
from engine.errors import StartError

ROWS = 4


@pytest.fixture
def doors() -> Iterator[list[Door]]:
    fd = door_file(ROWS)
    yield [Door(fd, ROWS, row) for row in range(ROWS)]
    os.close(fd)


def test_failures_are_counted_over_all_processes(doors: list[Door]) -> None:
    for number, door in enumerate(doors, 1):
        assert door.failed("192.0.2.1", 60, 1000.0 + number).number == number
    assert [door.failures("192.0.2.1", 60, 1010.0) for door in doors] == [(4, 51.0)] * ROWS
    assert doors[0].failures("192.0.2.2", 60, 1010.0) == (0, 0.0)


def test_a_period_begins_with_its_first_failure(doors: list[Door]) -> None:
    one, other = doors[:2]
    one.failed("192.0.2.1", 60, 1000.0)
    assert other.failed("192.0.2.1", 60, 1059.0) == (2, 1.0)
    assert one.failures("192.0.2.1", 60, 1060.0) == (1, 59.0)  # the other's period goes on
    assert one.failed("192.0.2.1", 60, 1061.0) == (2, 58.0)
    assert one.failures("192.0.2.1", 60, 1121.0) == (0, 0.0)


def test_a_network_is_one_client(doors: list[Door]) -> None:
    assert [network_of(ip) for ip in ("192.0.2.1", "2001:db8:1:2:3::4")] == ["192.0.2.1", "2001:db8:1:2::/64"]
    doors[0].failed("2001:db8:1:2::1", 60, 0.0)
    assert doors[1].failed("2001:db8:1:2:ffff::9", 60, 0.0).number == 2
    assert doors[1].failures("2001:db8:1:3::1", 60, 0.0).number == 0


def test_thousands_of_guessers_push_nobody_out_who_fails_more(doors: list[Door]) -> None:
    for _ in range(50):
        doors[0].failed("192.0.2.1", 3600, 1000.0)
    for number in range(SLOTS * PROBES * 2):
        doors[0].failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 3600, 1000.0)
    assert doors[1].failures("192.0.2.1", 3600, 1001.0).number == 50


def test_a_group_keeps_its_place_and_its_counts(doors: list[Door]) -> None:
    supervisor, one, other, _ = doors
    supervisor.assign(["a", "b"])
    assert one.group("a", 2).take() and other.group("a", 2).take()
    assert not one.group("a", 2).take() and one.group("b", 2).take()
    supervisor.assign(["c", "b"])
    assert one.group("a", 2).total() == 2 and one.group("c", 1).total() == 0
    supervisor.reclaim(2)
    assert (one.group("a", 2).total(), one.group("a", 2).mine(), one.group("b", 2).total()) == (1, 1, 1)


def test_there_are_so_many_names_of_groups_and_no_more(doors: list[Door]) -> None:
    doors[0].assign([str(number) for number in range(MAX_GROUPS)])
    doors[0].assign(["0"])
    with pytest.raises(StartError, match="source-group one-more"):
        doors[0].assign(["one-more"])
    with pytest.raises(StartError):
        doors[1].group("one-more", 0)
