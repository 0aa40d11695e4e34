"""The corpus again: no invariant breaks, no input takes long, and what is compiled says what the sources say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.corpus import ROOT, load, observe
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

MAX_CORPUS_BYTES = 200_000
SECONDS = 60.0


@pytest.fixture(scope="module")
def said_by_sources() -> Any:
    """What every target says to its corpus where nothing is compiled."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--observe"],
        env={**os.environ, "ENGINE_FASTPATH": "off"}, cwd=Path(__file__).parents[2], capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize("target", TARGETS)
def test_compiled_and_sources_say_the_same(target: str, said_by_sources: Any) -> None:
    assert load(target), "a corpus"
    assert observe(target) == said_by_sources[target]


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_takes_long(target: str) -> None:
    for name, data in load(target).items():
        started = time.process_time()
        TARGETS[target](data)
        assert time.process_time() - started < 1.0, name


@pytest.mark.parametrize("target", TARGETS)
def test_seeds(target: str) -> None:
    for data in seeds(target):
        TARGETS[target](data)


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < MAX_CORPUS_BYTES
