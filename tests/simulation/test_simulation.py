"""A short pass over seeds, and what makes the others worth anything: the same seed lives the same life, and a broken promise is seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.batch import outcomes
from tests.simulation.plan import KINDS
from tests.simulation.world import live

ROOT = Path(__file__).resolve().parents[2]
PASS_S = 10.0
SEEDS = 240


def test_nobody_is_lost_hurried_or_forgotten() -> None:
    lived = list(outcomes(range(SEEDS), time.monotonic() + PASS_S))
    assert len(lived) >= len(KINDS)
    failed = [f"{outcome.seed} ({outcome.kind}): {outcome.failure}" for outcome in lived if outcome.failure]
    assert not failed, "python -m tests.simulation --seed NUMBER shows each:\n" + "\n".join(failed)


@pytest.mark.parametrize("seed", range(8))
def test_a_seed_replays_exactly(seed: int) -> None:
    assert live(seed).digest == live(seed).digest


def test_a_seed_replays_in_another_process() -> None:
    script = "from tests.simulation.world import live; print(*(live(seed).digest for seed in range(8)))"
    run = [sys.executable, "-c", script]
    told = [
        subprocess.run(run, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": number}, capture_output=True, text=True, timeout=60, check=True).stdout
        for number in ("1", "2")
    ]
    assert told[0] == told[1]
