"""The log at midnight: numbered, bounded, and never without a file to write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.accounting.rotation import LogRotation
from engine.log import EventLog


def log_of(path: Path, day: str) -> None:
    path.write_text(f"{day} 00:00:01.000+0000 spool/0 says {day}\n")


def shown(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text()[:10] for path in sorted(directory.iterdir())}


def test_a_log_of_today_stays(tmp_path: Path) -> None:
    log_of(tmp_path / "log", "2026-11-24")
    assert LogRotation(str(tmp_path / "log"), 8).tend("2026-11-24") == ""
    assert list(shown(tmp_path)) == ["log"]


def test_days_move_up_and_the_oldest_goes(tmp_path: Path) -> None:
    rotation = LogRotation(str(tmp_path / "log"), 3)
    for number in range(24, 28):
        log_of(tmp_path / "log", f"2026-11-{number}")
        assert rotation.tend(f"2026-11-{number + 1}") == f"the log of 2026-11-{number} is {tmp_path}/log.1"
        assert rotation.tend(f"2026-11-{number + 1}") == ""
    assert shown(tmp_path) == {"log": "", "log.1": "2026-11-27", "log.2": "2026-11-26"}
    assert os.stat(tmp_path / "log").st_mode & 0o777 == 0o640


def test_a_gap_that_a_crash_left_is_closed_first(tmp_path: Path) -> None:
    log_of(tmp_path / "log", "2026-11-24")
    log_of(tmp_path / "log.2", "2026-11-23")
    LogRotation(str(tmp_path / "log"), 8).tend("2026-11-25")
    assert shown(tmp_path) == {"log": "", "log.1": "2026-11-24", "log.2": "2026-11-23"}


@pytest.mark.parametrize(("keep", "left"), [(0, {"log": "2026-11-24"}), (1, {"log": ""})])
def test_none_kept(tmp_path: Path, keep: int, left: dict[str, str]) -> None:
    log_of(tmp_path / "log", "2026-11-24")
    LogRotation(str(tmp_path / "log"), keep).tend("2026-11-25")
    assert shown(tmp_path) == left


@pytest.mark.parametrize("text", ["", "Nov 24 00:00:01 host postfix", "not a log of ours\n"])
def test_what_is_not_our_log_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "log").write_text(text)
    assert LogRotation(str(tmp_path / "log"), 8).tend("2026-11-25") == ""
    assert (tmp_path / "log").read_text() == text and len(os.listdir(tmp_path)) == 1


def test_a_world_readable_log(tmp_path: Path) -> None:
    log_of(tmp_path / "log", "2026-11-24")
    LogRotation(str(tmp_path / "log"), 8, world_readable=True).tend("2026-11-25")
    assert os.stat(tmp_path / "log").st_mode & 0o777 == 0o644


def test_writers_follow_within_a_second_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first, second = EventLog(str(path), "a/0"), EventLog(str(path), "b/0")
    for log in (first, second):
        log.event("before", "1")
        log.flush()
    path.rename(tmp_path / "log.1")
    first.event("buffered", "2")  # perhaps in the same second: it goes to either file
    first.flush()
    for log in (first, second):
        log._second = -1  # the next second
        log.event("after", "3")
        log.flush()
        log.close()
    old, new = (tmp_path / "log.1").read_text(), path.read_text()
    assert old.count("before") == 2 and new.count("after") == 2 and (old + new).count("buffered") == 1


def test_a_log_that_was_removed_is_made_again(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"), "a/0")
    log.event("one", "1")
    log.flush()
    (tmp_path / "log").unlink()
    log._second = -1
    log.event("two", "2")
    log.close()
    assert "two 2" in (tmp_path / "log").read_text()
