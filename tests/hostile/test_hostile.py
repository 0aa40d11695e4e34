"""The short pass: some attacks of either side, each with few connections, one after the other at one engine.  `make hostile` is the whole table.

Attackers, engine and the rest of the test run share two cores here, so that the bound on p99 is four times the promised one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.hostile import clients, hosts
from tests.hostile.measuring import CASES, P99_MS, RATE, room, running
from tests.system.conftest import engine_dir

__all__ = ["engine_dir"]

SECONDS = 1.5
FEW = 20  # connections of an attack
IDLE = 500
CONNECTIONS = 1000
ATTACKS = (clients.idle, clients.endless_content, clients.floods, clients.resets, hosts.endless_replies, hosts.single_bytes, hosts.unasked)


@pytest.mark.system
def test_another_client_is_served_and_memory_stays_bounded(engine_dir: Path) -> None:
    assert room(CONNECTIONS) == CONNECTIONS
    cases = [replace(case, count=IDLE if case.attack is clients.idle else FEW) for case in CASES if case.attack in ATTACKS]
    assert len(cases) == len(ATTACKS)
    with running(engine_dir, CONNECTIONS, FEW) as ground:
        for case in cases:
            row = ground.measure([case], SECONDS)
            assert not row.broken(4 * P99_MS), str(row)
            assert row.accepted == RATE * SECONDS
        assert " fault " not in ground.engine.log(), "no exception of ours"
