"""What processes share: exact counts, heartbeats, and the words of a birth."""

from __future__ import annotations

import os

import pytest

from engine.errors import EngineError
from engine.process import Birth, Heartbeat, ListenSocket, SharedCount, counter_rows, heartbeat_cells, incoming, outgoing


def birth(row: int, counters_fd: int = -1, heartbeat_fd: int = -1) -> Birth:
    return Birth(
        role="listener", index=row, module="m", title="t", supervisor_pid=1, row=row, rows=3, config_fd=-1, lifeline_fd=-1,
        counters_fd=counters_fd, heartbeat_fd=heartbeat_fd, sockets=[ListenSocket(5, "127.0.0.1", 25, "s")], listening=[("127.0.0.1", 25)],
    )  # fmt: skip


@pytest.fixture
def memory() -> int:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 4096)
    return fd


def test_birth_survives_its_way() -> None:
    assert Birth.decode(birth(1).encode()) == birth(1)
    assert birth(1).name == "listener/1"


def test_limit_holds_over_processes_and_the_two_counts_are_apart(memory: int) -> None:
    first, second, out = incoming(birth(0, memory), 3), incoming(birth(1, memory), 3), outgoing(birth(0, memory), 1)
    assert [first.take(), second.take(), first.take()] == [True, True, True]
    assert not second.take()
    assert (first.mine(), second.mine()) == (2, 1)
    assert out.take()
    first.give()
    assert second.take()


def test_row_of_a_dead_process_can_be_taken_back(memory: int) -> None:
    dead, living = incoming(birth(0, memory), 1), incoming(birth(1, memory), 1)
    assert dead.take()
    assert not living.take()
    counter_rows(memory, 3)[0].cast("i")[0] = 0
    assert living.take()


def test_no_limit_only_counts() -> None:
    count = SharedCount(memoryview(bytearray(8)), 1, 0)
    assert all(count.take() for _ in range(1000))
    assert count.mine() == 1000


def test_giving_back_what_was_not_taken_is_a_fault() -> None:
    with pytest.raises(EngineError):
        SharedCount(memoryview(bytearray(8)), 0, 5).give()


def test_heartbeats_are_seen_by_row(memory: int) -> None:
    Heartbeat(birth(0, heartbeat_fd=memory)).beat()
    beating = Heartbeat(birth(2, heartbeat_fd=memory))
    beating.beat()
    beating.beat()
    assert list(heartbeat_cells(memory, 3)) == [1, 0, 2]
