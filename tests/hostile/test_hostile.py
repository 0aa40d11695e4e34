"""The short pass: all attacks of a side at once, each with few connections, against one engine.  `make hostile` is the long one, one by one.

Attackers, engine and the rest of the test run share two cores here, so that the bound on p99 is four times the promised one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.hostile import clients, hosts
from tests.hostile.measuring import CASES, P99_MS, Range, room, running
from tests.system.conftest import engine_dir

__all__ = ["engine_dir"]

SECONDS = 4.0
FEW = 12  # connections of an attack
IDLE = 500
CONNECTIONS = 1000

pytestmark = pytest.mark.system


@pytest.fixture
def ground(engine_dir: Path) -> Iterator[Range]:
    """A range with room for this pass."""
    assert room(CONNECTIONS) == CONNECTIONS
    with running(engine_dir, CONNECTIONS, FEW) as made:
        yield made


@pytest.mark.parametrize("side", [clients, hosts], ids=["clients", "hosts"])
def test_another_client_is_served_and_memory_stays_bounded(ground: Range, side: ModuleType) -> None:
    cases = [replace(case, count=IDLE if case.attack is clients.idle else FEW) for case in CASES if case.attack.__module__ == side.__name__]
    assert len(cases) >= 8
    row = ground.measure(cases, SECONDS, name="all at once")
    assert not row.broken(4 * P99_MS), str(row)
    assert row.accepted == SECONDS * 100
    assert "fault" not in ground.engine.log(), "no exception of ours"
