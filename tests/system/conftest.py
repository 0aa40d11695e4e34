"""Everything here starts real processes: each test gets `make_engine`, a factory that ends what it made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.engine import Engine

MakeEngine = Callable[..., Engine]


@pytest.fixture
def engine_dir() -> Iterator[Path]:
    """A directory that the engine's unprivileged children can reach, unlike pytest's own, when the tests run as root."""
    with tempfile.TemporaryDirectory(prefix="engine-test-") as name:
        if os.geteuid() == 0:
            Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def make_engine(engine_dir: Path) -> Iterator[MakeEngine]:
    """`make_engine(conf_text)` -> a running Engine; ended when the test ends."""
    with ExitStack() as running:

        def make(conf_text: str = "", name: str = "engine", **options: float) -> Engine:
            return running.enter_context(Engine(engine_dir / name, conf_text, **options))  # type: ignore[arg-type]

        yield make
