"""Large backlogs in small: bench/backlog.py with a few thousand messages and short waits, every promise kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.backlog import run
from bench.backlog.stage import Report, Scale

SMALL = Scale(
    messages=3_000, expired=1_000, due=5_000, due_domains=(1, 20), domains=200, per_domain=5, retry_s=1, bounce_s=6, watch_s=3,
    deadline_s=60, patience=5.0,
)  # fmt: skip


@pytest.mark.parametrize("part", ["deferred", "due", "expired", "domains", "dead"])
def test_every_promise_is_kept(part: str, engine_dir: Path) -> None:
    said: list[str] = []
    report = Report(say=said.append)
    run(part, SMALL, engine_dir, report)
    assert not report.wrong, "\n".join(said)
