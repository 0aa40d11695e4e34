"""The exporter against a spool that crashes and a disk that fails: in the end every record is in its file once, in order."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.accounting import export
from engine.accounting.export import Exporter, Target
from engine.accounting.journal import Journal
from engine.accounting.layout import Layout
from engine.mail.record import QueueRecord, RecipientRecord, encode
from engine.spool.ops import Exported

QUEUE_ROW = encode(QueueRecord(1, "example.org/v", "v", "4.4.1", "smtp;timed out", "", "smtp", "", ""))


def row(number: int) -> bytes:
    """A d record that names *number*; every fifth is a b record."""
    kind = "b" if number % 5 == 0 else "d"
    blanks = {name: "" for name in RecipientRecord.__struct_fields__ if name != "first_attempt_ms"}
    return encode(RecipientRecord(**{**blanks, "type": kind, "logged_ms": 1, "queued_ms": 1, "dlv_size": 1, "rcpt": f"{number}@example.org"}))


class Crash(Exception):
    """The process is gone."""


class Spool:
    """Rows and positions, as the spool keeps them over every crash."""

    def __init__(self, rows: dict[int, bytes], fates: Iterator[str] = iter(())) -> None:
        self.rows = rows
        self.stored: dict[str, bytes] = {}
        self.exported = 0
        self.fates = fates
        self.operations: list[Exported] = []

    def outbox(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        return [(number, data) for number, data in sorted(self.rows.items()) if number > max(after, self.exported)][:limit]

    def positions(self) -> dict[str, bytes]:
        return dict(self.stored)

    def submit(self, operation: Exported, done: Callable[[str | None], None]) -> None:
        fate = next(self.fates, "ack")
        self.operations.append(operation)
        if fate == "lost":
            raise Crash
        if fate == "refuse":
            done("disk low")
            return
        self.stored |= operation.positions
        self.exported = max(self.exported, operation.upto)
        if fate == "unheard":
            raise Crash
        asyncio.get_running_loop().call_soon(done, None)


class Inline(Executor):
    """Does it here and now."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except OSError as error:
            future.set_exception(error)
        return future


class Events:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def event(self, kind: str, text: str) -> None:
        self.lines.append(f"{kind} {text}")

    def flush(self) -> None:
        pass


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(export, "GATHER_S", 0.0)


def exporter(directory: Path, spool: Spool, log: Events, max_size_bytes: int = 1 << 20, news: asyncio.Event | None = None) -> Exporter:
    targets = []
    for name, types in (("d.csv", ("d",)), ("all.csv", ("d", "b", "tq"))):
        layout = Layout(types, {kind: ("queue",) if kind == "tq" else ("rcpt",) for kind in types})
        targets.append(Target(name, layout, Journal(str(directory / name), layout.header, max_size_bytes=max_size_bytes)))
    return Exporter(targets, spool, spool, log, Inline(), lambda: "2026-11-24", news or asyncio.Event())


def run(exporter: Exporter) -> None:
    exporter.drain()
    asyncio.run(asyncio.wait_for(exporter.run(), 10))


def recipients(directory: Path, stem: str) -> list[int]:
    """The numbers in all files of *stem*, in order; every file is a header and whole lines."""
    found: list[int] = []
    for file in sorted(directory.glob(f"{stem}-*.csv")):
        data = file.read_bytes()
        if b"\n" not in data:  # a crash while it was being made
            assert b"type,rcpt,queue\r".startswith(data) or data == b"type,rcpt\r"
            continue
        header, *lines, last = data.split(b"\r\n")
        assert header in (b"type,rcpt,queue", b"type,rcpt") and last == b""
        found += [int(line.split(b",")[1].split(b"@")[0]) for line in lines if not line.startswith(b"tq,")]
    return found


def test_every_type_goes_to_the_files_that_want_it(tmp_path: Path) -> None:
    spool, log = Spool({n: row(n) for n in range(1, 12)} | {12: QUEUE_ROW}), Events()
    run(exporter(tmp_path, spool, log))
    assert recipients(tmp_path, "all") == list(range(1, 12)) and recipients(tmp_path, "d") == [n for n in range(1, 12) if n % 5]
    assert (tmp_path / "all-2026-11-24-0000.csv").read_bytes().endswith(b"tq,,example.org/v\r\n")
    assert spool.exported == 12


def test_a_new_file_is_known_to_the_spool_before_its_first_line(tmp_path: Path) -> None:
    spool = Spool({1: row(1)}, iter(["ack", "lost"]))
    with pytest.raises(Crash):
        run(exporter(tmp_path, spool, Events()))
    assert spool.operations[0].upto == 0 and set(spool.operations[0].positions) == {"d.csv"}
    assert recipients(tmp_path, "d") == [1] and spool.exported == 0


def test_without_files_rows_are_let_go() -> None:
    spool = Spool({n: row(n) for n in range(1, 4)})
    run(Exporter([], spool, spool, Events(), Inline(), lambda: "", asyncio.Event()))
    assert spool.exported == 3


def test_after_a_restart_the_same_file_goes_on(tmp_path: Path) -> None:
    spool = Spool({n: row(n) for n in range(1, 4)})
    run(exporter(tmp_path, spool, Events()))
    spool.rows[4] = row(4)
    run(exporter(tmp_path, spool, Events()))
    assert recipients(tmp_path, "all") == [1, 2, 3, 4] and len(list(tmp_path.iterdir())) == 2


def test_a_file_added_later_starts_with_what_is_new(tmp_path: Path) -> None:
    spool = Spool({1: row(1)})
    run(Exporter([], spool, spool, Events(), Inline(), lambda: "", asyncio.Event()))
    spool.rows[2] = row(2)
    run(exporter(tmp_path, spool, Events()))
    assert recipients(tmp_path, "all") == [2]


def test_what_is_no_record_is_said_and_passed(tmp_path: Path) -> None:
    spool, log = Spool({1: b"junk\n", 2: row(2)}), Events()
    run(exporter(tmp_path, spool, log))
    assert recipients(tmp_path, "all") == [2] and any("row 1 of the outbox is no record" in line and "\n" not in line for line in log.lines)


def test_an_unwritable_directory_is_retried_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, log = Spool({1: row(1)}), Events()
    real, tries = os.open, [0]

    def denied(path: Any, flags: int, *arguments: Any) -> int:
        if flags & os.O_CREAT and tries[0] < 3:
            tries[0] += 1
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *arguments)

    monkeypatch.setattr(os, "open", denied)

    async def until_exported() -> None:
        worker = exporter(tmp_path, spool, log)
        task = asyncio.create_task(worker.run())
        while spool.exported < 1:
            await asyncio.sleep(0)
        worker.drain()
        await task

    asyncio.run(asyncio.wait_for(until_exported(), 10))
    assert recipients(tmp_path, "all") == [1] and sum("cannot write" in line for line in log.lines) == 3


def test_draining_does_not_wait_for_a_disk_that_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool, log = Spool({1: row(1)}), Events()
    run(exporter(tmp_path / "file", spool, log))
    assert spool.exported == 0 and "cannot write" in log.lines[0]


def test_new_rows_are_seen_after_a_wake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "POLL_S", 3600.0)
    spool = Spool({})

    async def scenario() -> None:
        news = asyncio.Event()
        worker = exporter(tmp_path, spool, Events(), news=news)
        task = asyncio.create_task(worker.run())
        await asyncio.sleep(0)
        spool.rows[1] = row(1)
        news.set()
        while spool.exported < 1:
            await asyncio.sleep(0)
        assert worker.written == 1
        worker.drain()
        await task

    asyncio.run(asyncio.wait_for(scenario(), 10))


class FaultyDisk:
    """Lets calls through, or fails them, as *faults* says, one by one."""

    def __init__(self, faults: Iterator[str]) -> None:
        self.faults = faults

    def patch(self, patched: pytest.MonkeyPatch) -> None:
        for name in ("pwrite", "fdatasync", "fsync", "ftruncate"):
            patched.setattr(os, name, self._faulty(getattr(os, name), name))

    def _faulty(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            fault = next(self.faults, "ok")
            if fault == "error":
                raise OSError(errno.EIO, "Input/output error")
            if fault == "crash":
                raise Crash
            if fault == "short" and name == "pwrite":
                fd, data, offset = arguments
                return real(fd, data[: max(1, len(data) // 2)], offset)
            return real(*arguments)

        return call


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["ack", "ack", "ack", "lost", "unheard", "refuse"]), max_size=12),
    st.lists(st.sampled_from(["ok", "ok", "ok", "short", "error", "crash"]), max_size=30),
    st.sampled_from([40, 1 << 20]),
    st.integers(1, 7),
)
def test_every_record_is_in_its_file_exactly_once(fates: list[str], faults: list[str], max_size_bytes: int, batch: int) -> None:
    directory = Path(tempfile.mkdtemp())
    spool, fault, total = Spool({}, iter(fates)), iter(faults), 23
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(export, "RETRY_FIRST_S", 0.0)
            patched.setattr(export, "BATCH_ROWS", batch)
            FaultyDisk(fault).patch(patched)
            for number in range(1, total + 1):
                spool.rows[number] = row(number)
                if number % 4 == 0:
                    restart_until_exported(directory, spool, max_size_bytes, number)
            restart_until_exported(directory, spool, max_size_bytes, total)
        assert recipients(directory, "all") == list(range(1, total + 1))
        assert recipients(directory, "d") == [number for number in range(1, total + 1) if number % 5]
    finally:
        shutil.rmtree(directory)


def restart_until_exported(directory: Path, spool: Spool, max_size_bytes: int, upto: int) -> None:
    """Start the exporter again after every crash, until the spool has let go of row *upto*."""
    for _ in range(100):
        if spool.exported >= upto:
            return
        try:
            run(exporter(directory, spool, Events(), max_size_bytes))
        except Crash:
            continue
    raise AssertionError(f"row {upto} was never exported")
