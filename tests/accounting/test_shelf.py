"""Closed files: handed over or deleted when it is time, whatever crashes in between, and nothing of anybody else's is touched."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.accounting import export
from engine.accounting.export import Exporter, Target
from engine.accounting.journal import Journal, Position
from engine.accounting.layout import Layout
from engine.accounting.shelf import Shelf
from engine.accounting.worker import day
from tests.accounting.test_export import Crash, Events, FaultyDisk, Inline, Spool, recipients, row

HOUR_S = 3600.0


def closed(path: Path, at_s: float = 0.0) -> Position:
    """A file at *path*, as a journal leaves it."""
    path.write_text(path.name)
    return Position(str(path), 1, path.stat().st_ino, at_s)


def test_files_are_deleted_when_they_have_lain_long_enough(tmp_path: Path) -> None:
    shelf = Shelf(delete_after_s=100)
    shelf.add(closed(tmp_path / "a"), 1000)
    shelf.add(closed(tmp_path / "b"), 1050)
    assert shelf.tend(1099) == (False, [])
    assert shelf.tend(1100) == (True, [f"deleted {tmp_path}/a after 100 s"])
    assert os.listdir(tmp_path) == ["b"]


def test_never_is_never(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.add(closed(tmp_path / "a"), 0)
    assert shelf.tend(1e12) == (False, [])


def test_files_are_handed_over_at_once_and_not_deleted_there(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    shelf = Shelf(move_to=str(tmp_path / "done"), delete_after_s=1)
    shelf.add(closed(tmp_path / "a.csv"), 0)
    assert shelf.tend(0)[0] and not shelf.tend(1e12)[0]
    assert (tmp_path / "done" / "a.csv").read_text() == "a.csv"


def test_what_lies_there_already_is_not_replaced(tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    (done / "a.csv").write_text("theirs")
    (done / "a.1.csv").symlink_to("/nowhere")
    shelf = Shelf(move_to=str(done))
    shelf.add(closed(tmp_path / "a.csv"), 0)
    assert shelf.tend(0) == (True, [f"moved {tmp_path}/a.csv to {done}/a.2.csv"])
    assert (done / "a.csv").read_text() == "theirs" and (done / "a.2.csv").read_text() == "a.csv"


def test_a_file_of_another_hand_is_left_alone(tmp_path: Path) -> None:
    shelf = Shelf(delete_after_s=1)
    shelf.add(closed(tmp_path / "a"), 0)
    shelf.add(closed(tmp_path / "b"), 0)
    (tmp_path / "a").rename(tmp_path / "kept")
    closed(tmp_path / "a")
    (tmp_path / "b").unlink()
    assert shelf.tend(10) == (True, [])
    assert sorted(os.listdir(tmp_path)) == ["a", "kept"]


def test_what_cannot_be_moved_stays_and_is_tried_again(tmp_path: Path) -> None:
    shelf = Shelf(move_to=str(tmp_path / "done"))
    shelf.add(closed(tmp_path / "a"), 0)
    changed, said = shelf.tend(0)
    assert not changed and said == [f"cannot move {tmp_path}/a: No such file or directory"]
    (tmp_path / "done").mkdir()
    assert shelf.tend(0)[0] and (tmp_path / "done" / "a").exists()


def test_a_shelf_survives_the_spool(tmp_path: Path) -> None:
    shelf, other = Shelf(delete_after_s=1), Shelf(delete_after_s=1)
    shelf.add(closed(tmp_path / "a"), 7)
    other.restore(shelf.encode())
    assert other.last == str(tmp_path / "a") and other.tend(8) == (True, [f"deleted {tmp_path}/a after 1 s"])


class Clock:
    """Days that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def read(self) -> float:
        return self.now_s

    def today(self) -> str:
        return day(self.now_s)


def exporter(directory: Path, spool: Spool, clock: Clock, max_size_bytes: int, log: Events) -> Exporter:
    """One file that is handed over every six hours, one that is deleted after two days."""
    targets = []
    moved, old = Shelf(move_to=str(directory / "done")), Shelf(delete_after_s=48 * HOUR_S)
    for name, shelf, age_s in (("moved.csv", moved, 6 * HOUR_S), ("old.csv", old, None)):
        layout = Layout(("d", "b"), {"d": ("rcpt",), "b": ("rcpt",)})
        journal = Journal(str(directory / name), layout.header, max_size_bytes=max_size_bytes, max_age_s=age_s)
        targets.append(Target(name, layout, journal, shelf))
    return Exporter(targets, spool, spool, log, Inline(), clock.today, asyncio.Event(), clock.read)


def run(exporter: Exporter) -> None:
    exporter.drain()
    asyncio.run(asyncio.wait_for(exporter.run(), 10))


class FaultyDirectory(FaultyDisk):
    """Fails renames and unlinks, too, before or after they are done."""

    def patch(self, patched: pytest.MonkeyPatch) -> None:
        super().patch(patched)
        for name in ("rename", "unlink"):
            patched.setattr(os, name, self._doubtful(getattr(os, name), name))

    def _doubtful(self, real: Any, name: str) -> Any:
        before = self._faulty(real, name)

        def call(*arguments: Any) -> Any:
            before(*arguments)
            if next(self.faults, "ok") == "crash":
                raise Crash

        return call


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["ack", "ack", "ack", "lost", "unheard", "refuse"]), max_size=20),
    st.lists(st.sampled_from(["ok", "ok", "ok", "ok", "short", "error", "crash"]), max_size=60),
    st.sampled_from([60, 1 << 20]),
    st.lists(st.sampled_from([0.0, 1.0, 7.0, 25.0]), min_size=8, max_size=8),
)
def test_days_pass_and_every_record_is_somewhere_once(fates: list[str], faults: list[str], max_size_bytes: int, hours: list[float]) -> None:
    directory = Path(tempfile.mkdtemp())
    (directory / "done").mkdir()
    spool, fault, clock, log = Spool({}, iter(fates)), iter(faults), Clock(), Events()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(export, "RETRY_FIRST_S", 0.0)
            FaultyDirectory(fault).patch(patched)
            for step, pause in enumerate(hours):
                for number in range(step * 3 + 1, step * 3 + 4):
                    spool.rows[number] = row(number)
                clock.now_s += pause * HOUR_S
                restart_until_exported(directory, spool, clock, max_size_bytes, step * 3 + 3, log)
            total = len(hours) * 3
        clock.now_s += 24 * HOUR_S  # another day: all that is open is closed and handed over
        run(exporter(directory, spool, clock, max_size_bytes, log))
        assert recipients(directory, "moved") == []
        assert sorted(recipients(directory / "done", "moved")) == list(range(1, total + 1))
        left = recipients(directory, "old")
        assert left == list(range(total - len(left) + 1, total + 1)), "the oldest go first, whole files of them"
        if sum(hours) + 24 < 48:
            assert len(left) == total
        names = [path.name for path in (directory / "done").iterdir()]
        assert not [name for name in names if name.count(".") > 1], "a number is never given twice"
    finally:
        shutil.rmtree(directory)


def restart_until_exported(directory: Path, spool: Spool, clock: Clock, max_size_bytes: int, upto: int, log: Events) -> None:
    for _ in range(200):
        if spool.exported >= upto:
            return
        try:
            run(exporter(directory, spool, clock, max_size_bytes, log))
        except Crash:
            continue
    raise AssertionError(f"row {upto} was never exported")


def test_an_idle_file_is_closed_when_its_time_is_over(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    spool, clock, log = Spool({1: row(1)}), Clock(), Events()
    run(exporter(tmp_path, spool, clock, 1 << 20, log))
    assert os.listdir(tmp_path / "done") == []
    clock.now_s += 6 * HOUR_S
    run(exporter(tmp_path, spool, clock, 1 << 20, log))
    assert recipients(tmp_path / "done", "moved") == [1]
    run(exporter(tmp_path, spool, clock, 1 << 20, log))
    assert recipients(tmp_path / "done", "moved") == [1]


def test_a_directory_that_is_gone_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TEND_S", 0.0)
    monkeypatch.setattr(export, "POLL_S", 0.001)
    spool, clock, log = Spool({1: row(1)}), Clock(), Events()
    worker = exporter(tmp_path, spool, clock, 1 << 20, log)

    async def scenario() -> None:
        task = asyncio.create_task(worker.run())
        while spool.exported < 1:
            await asyncio.sleep(0)
        clock.now_s += 6 * HOUR_S
        tended = log_count(worker)
        while next(tended) < 3:
            await asyncio.sleep(0.001)
        worker.drain()
        await task

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert len([line for line in log.lines if "cannot move" in line]) == 1


def log_count(worker: Exporter) -> Iterator[int]:
    """How often the shelves were looked at since."""
    count = 0
    target = worker._targets[0]
    real = target.shelf.tend

    def tend(now_s: float) -> tuple[bool, list[str]]:
        nonlocal count
        found = real(now_s)
        count += bool(found[1])
        return found

    target.shelf.tend = tend  # type: ignore[method-assign]
    while True:
        yield count


def test_two_files_of_which_one_is_called_like_the_others_shelf(tmp_path: Path) -> None:
    """What is stored of one is never read as the other's."""
    spool, clock = Spool({1: row(1)}), Clock()
    layout = Layout(("d", "b"), {"d": ("rcpt",), "b": ("rcpt",)})

    def start() -> Exporter:
        names = [str(tmp_path / name) for name in ("acct", "acct+", "acct'", "acct'+")]
        targets = [Target(name, layout, Journal(name, layout.header, max_size_bytes=1), Shelf(delete_after_s=1e9)) for name in names]
        return Exporter(targets, spool, spool, Events(), Inline(), clock.today, asyncio.Event(), clock.read)

    for number in (2, 3):
        run(start())
        spool.rows[number] = row(number)
    run(start())
    assert [recipients(tmp_path, stem) for stem in ("acct", "acct+")] == [[], []]  # no suffix
    assert sorted(sum(path.read_bytes().count(b"@example.org") for path in tmp_path.glob(f"{stem}-*")) for stem in ("acct", "acct+")) == [3, 3]


@pytest.mark.parametrize("change", ["columns", "shrunk"])
def test_a_file_that_nobody_goes_on_with_is_on_the_shelf_once(tmp_path: Path, change: str) -> None:
    """However often we are started before the next record comes."""
    spool, clock = Spool({1: row(1)}), Clock()

    def start(field: str) -> Exporter:
        layout = Layout(("d",), {"d": (field,)})
        target = Target("x", layout, Journal(str(tmp_path / "x.csv"), layout.header), Shelf())
        return Exporter([target], spool, spool, Events(), Inline(), clock.today, asyncio.Event(), clock.read)

    run(start("rcpt"))
    if change == "shrunk":
        (path,) = tmp_path.glob("x-*")
        path.write_bytes(b"")
    field = "orig" if change == "columns" else "rcpt"
    for _ in range(3):
        run(start(field))
    spool.rows[2] = row(2)
    run(start(field))
    shelf = Shelf()
    shelf.restore(spool.stored["+x"])
    assert [Path(closed.file).name for closed in shelf._files] == [f"x-{clock.today()}-0000.csv"]


def test_a_directory_that_cannot_be_looked_into_does_not_end_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TEND_S", 0.0)
    spool, clock, log = Spool({1: row(1)}), Clock(), Events()
    worker = exporter(tmp_path, spool, clock, 1 << 20, log)
    run(worker)
    real = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".csv"):
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert asyncio.run(worker._tend())
    monkeypatch.undo()
    assert worker._targets[0].journal.holds_records
