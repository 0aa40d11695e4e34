"""A short pass over the states that a power cut could leave (`make crash-states` is the long one); and that the harness finds what it is for."""

from __future__ import annotations

import os
import random
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

import pytest

from tests.crash_states.disk import SECTOR, Choice, Disk, Tree, at_random, edges
from tests.crash_states.explore import ANSWERS
from tests.crash_states.lives import explore, total
from tests.crash_states.recorder import REPOSITORY
from tests.crash_states.trial import scratch

STATES = 300


def test_nothing_is_lost_in_a_power_cut(tmp_path: Path) -> None:
    seed = secrets.token_hex(4)
    results = [result for _, result in explore(seed, STATES, again=2, keep=tmp_path)]
    result = total(results)
    print(f"python -m tests.crash_states --states {STATES} --again 2 --seed {seed}: {result}")
    assert not result.failures, "\n".join([f"seed {seed}", *map(str, result.failures)])
    assert len(results) == 5 and result.distinct > STATES // 2 and result.commits > 100


@pytest.mark.parametrize("omit", ["spool/bodies/*", "spool/bodies", "spool/index/data.mdb", ANSWERS])
def test_what_is_left_out_is_found(omit: str) -> None:
    """In a process of its own: LMDB need not survive what is left of an index that was never synced."""
    command = [sys.executable, "-m", "tests.crash_states", "--states", "200", "--again", "0", "--seed", "1", "--omit", omit, "--jobs", "2"]
    with tempfile.TemporaryDirectory(prefix="crash-states-", dir=scratch()) as name:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": name}
        done = subprocess.run([*command, "--keep", f"{name}/kept"], cwd=REPOSITORY, env=environment, capture_output=True, timeout=100)
    assert done.returncode == 1 and (re.search(rb"[12]0 failures", done.stdout) or b"a state killed the process" in done.stdout), done


def states(disk: Disk) -> list[Tree]:
    """The edge states of *disk*."""
    pending = disk.pending()
    return [disk.tree(edge.choice(len(disk.changes), pending), pending) for edge in edges(len(disk.changes), pending)]


def path(text: str) -> PurePosixPath:
    return PurePosixPath(text)


def test_a_write_may_be_lost_whole_or_torn_until_its_file_is_synced() -> None:
    disk = Disk()
    disk.create(path("a"), 1)
    disk.sync_directory(path("."))
    data = bytes([1]) * SECTOR + bytes([2]) * SECTOR
    disk.write(1, 0, data)
    assert {tree["a"] for tree in states(disk)} == {b"", data, bytes(2 * SECTOR), data[:SECTOR], bytes(SECTOR) + data[SECTOR:]}
    disk.sync(1)
    assert states(disk) == [{"a": data}]
    write = disk.write(1, 2 * SECTOR, b"meta")  # synchronous
    assert {tree["a"] for tree in states(disk)} == {data, data + b"meta", data + bytes(4)}
    disk.complete(write)
    assert states(disk) == [{"a": data + b"meta"}]


def test_a_synchronous_write_stays_over_what_was_pending_at_its_place() -> None:
    disk = Disk()
    disk.create(path("a"), 1)
    disk.sync_directory(path("."))
    disk.write(1, 0, b"0123456789")
    disk.complete(disk.write(1, 2, b"ab"))
    assert {tree["a"] for tree in states(disk)} == {b"\0\0ab", b"01ab456789", b"\0\0ab" + bytes(6)}


def test_later_writes_may_be_there_without_earlier_ones() -> None:
    disk = Disk()
    disk.create(path("a"), 1)
    disk.sync_directory(path("."))
    disk.write(1, 0, b"one")
    disk.write(1, 3, b"two")
    assert {tree["a"] for tree in states(disk)} == {b"", b"onetwo", b"one", b"\0\0\0two", bytes(6)}


def test_names_come_and_go_one_by_one_until_their_directory_is_synced() -> None:
    disk = Disk()
    disk.make_directory(path("d"))
    disk.create(path("d/a"), 1)
    disk.sync(1)
    disk.sync_directory(path("d"))
    assert states(disk) == [{"d": None, "d/a": b""}, {}, {"d": None, "d/a": b""}, {"d": None, "d/a": b""}, {}, {}, {"d": None, "d/a": b""}]
    disk.sync_directory(path("."))
    disk.create(path("d/b"), 2)
    disk.remove(path("d/a"))
    assert {frozenset(tree) for tree in states(disk)} == {frozenset({"d", *names}) for names in ((), ("d/a",), ("d/b",), ("d/a", "d/b"))}
    disk.sync_directory(path("d"))
    assert {frozenset(tree) for tree in states(disk)} == {frozenset({"d", "d/b"})}


def test_a_rename_gives_the_old_file_or_the_new_one() -> None:
    disk = Disk()
    for number, name in enumerate(("a", "b")):
        disk.create(path(name), number)
        disk.write(number, 0, name.encode())
        disk.sync(number)
    disk.sync_directory(path("."))
    disk.rename(path("a"), path("b"))
    found = [disk.tree(choice, []) for choice in (Choice(frozenset(), {}), Choice(frozenset({0}), {}))]
    assert found == [{"a": b"a", "b": b"b"}, {"b": b"a"}]
    assert disk.tree_now() == {"b": b"a"}


def test_the_same_seed_chooses_the_same() -> None:
    disk = Disk()
    disk.create(path("a"), 1)
    disk.write(1, 100, bytes(9_000))
    pending = disk.pending()
    assert at_random(1, pending, random.Random("x")) == at_random(1, pending, random.Random("x"))
