"""The short pass of `python -m tests.reload`."""

from __future__ import annotations

from tests.reload.run import run

SEED = 20_261_118


def test_reloads_under_load_lose_double_and_refuse_nothing() -> None:
    report = run(SEED, reloads=10)
    assert not report.wrong, "\n".join(report.wrong)
    assert report.reloads >= 6
    assert report.refused >= 1
    assert report.accepted > 50
    assert report.delivered > 50
