"""Everything here starts real processes: each test gets `engine`, a factory that ends what it made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.engine import Engine

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[MakeEngine]:
    """`make_engine(conf_text)` -> a running Engine under tmp_path; ended when the test ends."""
    with ExitStack() as running:

        def make(conf_text: str = "", name: str = "engine", **options: float) -> Engine:
            return running.enter_context(Engine(tmp_path / name, conf_text, **options))  # type: ignore[arg-type]

        yield make
