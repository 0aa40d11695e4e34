"""A day's churn in small: every hour's shape, restarts, nothing lost; and what the bounds would say of a spool that breaks them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.churn import main
from bench.churn_day import Day
from bench.churn_measure import Bounds, Sample


def sample(**changed: int) -> Sample:
    usual = dict.fromkeys(Sample._fields, 0) | {"sealed": 1_300, "sealed_live": 1_000, "open_files": 5, "epochs": 5, "index_used": 40 << 20}
    return Sample(**usual | changed)


def test_bounds_say_what_is_broken_once_an_hour() -> None:
    bounds = Bounds(10)
    bounds.see(sample(sealed=1_340, index_file=60 << 20), "hour 1")
    assert not bounds.broken
    assert bounds.segments.ratio == 1.34
    bounds.see(sample(sealed=1_341), "hour 2")
    bounds.see(sample(sealed=1_400), "hour 2")
    bounds.see(sample(open_files=11), "hour 3")
    bounds.see(sample(index_file=(60 << 20) + 1), "hour 4")
    assert [text.partition(":")[0] for text in bounds.broken] == ["hour 3", "hour 4"]
    assert [text.partition(":")[0] for text in bounds.passing] == ["hour 2"]


def test_the_index_is_compared_with_its_own_high_water_mark() -> None:
    bounds = Bounds(10)
    bounds.see(sample(index_used=80 << 20, index_file=90 << 20), "hour 1")
    bounds.see(sample(index_used=1 << 20, index_file=120 << 20), "hour 2")
    assert not bounds.broken
    assert bounds.index.ratio == 1.5


def test_a_day_has_the_mail_that_was_asked_for_and_the_same_every_time() -> None:
    hours = list(Day(messages=137_000, seed=3).hours())
    assert hours == list(Day(messages=137_000, seed=3).hours())
    assert sum(hour.messages for hour in hours) == pytest.approx(137_000, rel=0.01)
    assert all(0.01 <= hour.deferred <= 0.10 for hour in hours)
    assert {hour.spool_ends for hour in hours} == {"", "term", "kill"}
    assert max(hour.messages for hour in hours) >= 15 * min(hour.messages for hour in hours)


def test_a_small_day_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--messages", "8000", "--segment-mb", "4", "--lull", "0", "--spool-dir", str(tmp_path)])
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert status == 0, captured.err
    assert result["messages"] > 7_000
    assert result["deferrals"] > 300
    assert result["bounces"] > 100
    assert result["verified"] > 100
    assert result["after"]["sealed"] <= 1.3 * result["after"]["sealed_live"] + (4 * 4 << 20)
    assert result["starts"] == {"spool": 6, "workers": 29}
    assert not list(tmp_path.iterdir())
