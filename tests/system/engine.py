"""Tests with real processes: `with Engine(tmp_path, conf_text) as engine:` runs `python -m engine start` and ends it, whatever happens.

`engine.port` takes mail, `engine.pids()` are its processes by role, `engine.kill9_all()` is a power cut, `engine.start()` starts it again over
the same directory, `engine.records("d")` are its accounting records, `engine.log()` its log.  EngineProcess tells the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.engine_process import EngineDown, EngineProcess

__all__ = ["Engine", "EngineDown", "eventually"]


class Engine(EngineProcess):
    """An EngineProcess that never outlives its test: leaving kills what SIGTERM did not end in 30 s."""

    def __exit__(self, *_: object) -> None:
        if self.alive():
            self.stop(timeout_s=30)


def eventually(true: Callable[[], object], what: str, timeout_s: float = 20) -> None:
    """Return once *true* says so; AssertionError naming *what* at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.01)
