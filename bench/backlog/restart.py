"""From a start command to the first attempt, and from there until everything has left."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from bench.backlog.stage import Report, Stage, until
from bench.engine_process import EngineProcess
from bench.load import Sink
from bench.runs import LineCount


def restart(stage: Stage, report: Report, sink: Sink, how: str, end: Callable[[], object], within_s: float) -> None:
    """From the start command to the first RCPT of the backlog at *sink*, which refuses it."""
    end()
    ended_s = time.monotonic()
    until(lambda: time.monotonic() > ended_s + stage.scale.retry_s * 1.2, 600)  # every one of them is due
    refused = sink.summary()["refused_commands"]
    log_bytes = (stage.engine.directory / "log").stat().st_size
    wall_s, began_s = time.time(), time.monotonic()
    stage.engine.start(wait=False)
    attempted = until(lambda: sink.summary()["refused_commands"] > refused, 30)
    took_s = time.monotonic() - began_s
    stage.engine.wait_until_up()
    name = f"first attempt after {how}"
    report.add(name, took_s, f"{took_s:.2f} s after the start command ({_milestones(stage.engine.directory / 'log', log_bytes, wall_s)})")
    report.expect(attempted and took_s < within_s * stage.scale.patience, f"{name}: {took_s:.2f} s")


MILESTONES_CHARS = 4_000_000
_MILESTONE = re.compile(r"^(\S+ \S+) (\S+) (starts|works|started|deferred) (\S*)", re.MULTILINE)


def _milestones(log: Path, offset: int, start_s: float) -> str:
    """When each process said that it is at work, in seconds after *start_s*."""
    said: dict[str, float] = {}
    with log.open() as file:
        file.seek(offset)
        text = file.read(MILESTONES_CHARS)
    for when, role, kind, word in _MILESTONE.findall(text):
        at_s = datetime.strptime(when, "%Y-%m-%d %H:%M:%S.%f%z").timestamp() - start_s
        if at_s >= -0.001:
            said.setdefault(f"{word} works" if kind == "works" else "first outcome" if kind == "deferred" else f"{role} {kind}", at_s)
    said.pop("supervisor/0 started", None)
    return ", ".join(f"{name} {at_s:.2f}" for name, at_s in sorted(said.items(), key=lambda item: item[1]))


def release(stage: Stage, report: Report, sink: Sink, total: int, name: str, domain: bytes) -> None:
    """*sink* accepts: everything leaves, once, and is recorded.  *domain*: what the addresses of its mail end in."""
    scale, engine = stage.scale, stage.engine
    left_before = sink.received()[2]
    sink.command("accept")
    began_s = time.monotonic()
    until(lambda: sink.received()[2] >= total, scale.deadline_s)
    took_s = time.monotonic() - began_s
    sink.summary()
    counts = sink.counts()[:total]
    lost, doubled = counts.count(0) + total - len(counts), sum(number > 1 for number in counts)
    lines = LineCount(engine.directory, "d", domain)
    records = lines.wait(total, 30)
    empty = until(lambda: stage.disk_bytes()["bodies"] < 70 << 20, 30)
    time.sleep(1.5)  # descriptors of unlinked files are swept once a second
    disk, held = stage.disk_bytes(), _unlinked_bytes(engine)
    report.add(name, {"seconds": took_s, "lost": lost, "doubled": doubled, "d": records, "disk": disk, "held": held}, (
        f"{total - left_before:,} in {took_s:.0f} s ({(total - left_before) / took_s:,.0f}/s), lost {lost}, twice {doubled}, "
        f"d records {records:,} of {total:,}; "
        f"bodies/ {disk['bodies'] / 1e6:.1f} MB, unlinked but open {held / 1e6:.1f} MB, index {disk['index'] / 1e6:.1f} MB"
    ))  # fmt: skip
    report.expect(lost == 0 and doubled == 0 and records == total, f"{name}: lost {lost}, twice {doubled}, {records} d records of {total}")
    report.expect(empty and held < 70 << 20, f"{name}: bodies/ keeps {disk['bodies'] / 1e6:.0f} MB, {held / 1e6:.0f} MB unlinked but open")


def _unlinked_bytes(engine: EngineProcess) -> int:
    """Disk space of body segments that are unlinked but still open somewhere."""
    held: dict[int, int] = {}
    for process in engine.processes():
        directory = Path(f"/proc/{process.pid}/fd")
        try:
            for link in directory.iterdir():
                if os.readlink(link).endswith(".seg (deleted)"):
                    found = link.stat()
                    held[found.st_ino] = found.st_blocks * 512
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sum(held.values())
