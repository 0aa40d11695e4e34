"""Counters in a map that processes share."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import fastpath

ADDERS = 4
ROUNDS = 20_000
ADDER = """
import mmap, sys
from engine import _fastpath
with open(sys.argv[1], "r+b") as file:
    counters = mmap.mmap(file.fileno(), 64)
for _ in range(int(sys.argv[2])):
    _fastpath.shared_add(counters, 3, 1)
    _fastpath.shared_add(counters, 5, 2)
    _fastpath.shared_add(counters, 5, -1)
"""


def test_adds_and_sums(loops: Any) -> None:
    with mmap.mmap(-1, 64) as counters:
        assert loops.shared_add(counters, 0, 5) == 5
        assert loops.shared_add(counters, 15, 2) == 7
        assert loops.shared_add(counters, 0, -6) == 1
        assert loops.shared_add(counters, 1, 0) == 1
        assert memoryview(counters).cast("i").tolist() == [-1, *[0] * 14, 2]


def test_refuses_what_is_no_counter(loops: Any) -> None:
    with pytest.raises(IndexError):
        loops.shared_add(bytearray(8), 2, 1)
    with pytest.raises(IndexError):
        loops.shared_add(bytearray(8), -1, 1)
    with pytest.raises(BufferError):
        loops.shared_add(memoryview(b"12345678"), 0, 1)
    odd = bytearray(6)
    assert loops.shared_add(odd, 0, 1) == 1


def test_no_addition_is_lost_between_processes(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    path.write_bytes(bytes(64))
    root = Path(fastpath.__file__).parent.parent
    adders = [subprocess.Popen([sys.executable, "-c", ADDER, str(path), str(ROUNDS)], cwd=root) for _ in range(ADDERS)]
    assert [adder.wait(timeout=60) for adder in adders] == [0] * ADDERS
    counters = memoryview(path.read_bytes()).cast("i")
    assert (counters[3], counters[5]) == (ADDERS * ROUNDS, ADDERS * ROUNDS)
