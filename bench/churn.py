"""`python -m bench.churn`: a day of mail in fast motion through a real spool process, and whether its files stay within their bounds.

Two listeners accept, two delivery slots settle (deliver, defer for hours, bounce with a DSN), accounting exports: five epochs, restarted
now and then as the spool process is, by SIGTERM and by SIGKILL.  Several times a second the segments are compared with what lives in them, and
the index with the most that its pages in use ever took.  One line of JSON on standard output; exit status 1 if a bound was
broken or anything was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.churn_day import Day, Hour, mail
from bench.churn_measure import Bounds, Gauge, Sample
from bench.churn_workers import LISTENERS, SLOTS, Accounting, Faulty, Job, Listener, Slot, SpoolProcess, World
from bench.end_to_end import file_system
from bench.engine_process import ROOT
from engine.spool import SpoolReader, check

SAMPLE_S = 0.25
AFTER_S = 30.0  # that compaction has after the day
VERIFIED = 50  # bodies read back every hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large, and on what."""

    messages: int = 2_000_000
    segment_bytes: int = 8 << 20
    lull_s: float = 2.0  # stillness after each hour of the night, half of it in the next morning
    seed: int = 1
    restarts: bool = True


@dataclass(slots=True)
class Result:
    """What has been measured."""

    seconds: float = 0.0
    hours: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    verified: int = 0
    after: dict[str, Any] = field(default_factory=dict)  # the day: how long compaction still took, and what it left


class Churn:
    """One day in *base*, which is empty."""

    def __init__(self, scale: Scale, base: Path) -> None:
        self.scale = scale
        self.process = SpoolProcess(base, scale.segment_bytes)
        self.world = World(self.process, scale.segment_bytes, scale.seed)
        self.bounds = Bounds(scale.segment_bytes)
        self.result = Result()
        self.listeners = [Listener(self.world, index) for index in range(LISTENERS)]
        self.slots = [Slot(self.world, index) for index in range(SLOTS)]
        self.accounting = Accounting(self.world, 0)
        self._chance = random.Random(scale.seed + 1)
        self._spool_cpu_s = 0.0

    async def run(self, console: Console) -> None:
        """All 24 hours, and on until the last has left; Faulty."""
        began_s = time.monotonic()
        columns = (BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal) as bars:
            task = bars.add_task("starting", total=self.scale.messages)
            self.process.start()
            for worker in (*self.slots, *self.listeners, self.accounting):
                await worker.start()
            self.gauge = Gauge(self.process.root)
            self.world.reader = SpoolReader(self.process.root, (self.gauge.env, self.gauge.tables))
            helpers = [asyncio.ensure_future(each.run()) for each in (*self.slots, self.accounting)]
            helpers.append(asyncio.ensure_future(self._watch(bars, task)))
            day = asyncio.ensure_future(self._day())
            try:
                await asyncio.wait([day, *helpers], return_when=asyncio.FIRST_COMPLETED)
                for each in (day, *helpers):
                    if each.done():
                        each.result()
            finally:
                for each in (day, *helpers):
                    each.cancel()
                await asyncio.gather(day, *helpers, return_exceptions=True)
        self._end()
        self.result.seconds = time.monotonic() - began_s

    async def _day(self) -> None:
        scale = self.scale
        for hour in Day(messages=scale.messages, seed=scale.seed, restarts=scale.restarts).hours():
            await self._hour(hour)
        await self._after()
        world = self.world
        all_left = self._all_left
        while not all_left():
            for number in sorted(world.waiting):  # the hours of the next morning
                await self._release(number)
                await asyncio.sleep(scale.lull_s / 2)
            await world.until(lambda: world.waiting or all_left(), "the end of the day")
        for worker in (*self.listeners, *self.slots):
            await worker.link.drain()
        await asyncio.sleep(1.0)
        await self.accounting.link.drain()

    async def _after(self) -> None:
        """The day is over, and a part of it waits for tomorrow: its segments must come within their bound now, and without more traffic."""
        began_s = time.monotonic()
        while not self.bounds.segments_hold(sample := self.gauge.sample()):
            if time.monotonic() - began_s > AFTER_S:
                self.result.wrong.append(
                    f"{AFTER_S:.0f} s after the day segments take {sample.sealed >> 20} MB for {sample.sealed_live >> 20} MB that live"
                )
                break
            await asyncio.sleep(SAMPLE_S)
        self.result.after = {"seconds": round(time.monotonic() - began_s, 1), **sample._asdict()}

    def _all_left(self) -> bool:
        world = self.world
        return world.accepted <= world.seen == world.left and not any(slot.redo for slot in self.slots)

    async def _hour(self, hour: Hour) -> None:
        world, before_s, messages = self.world, time.monotonic(), self.world.messages
        world.hour = hour
        await self._release(hour.number)
        share = hour.messages // LISTENERS
        for half in range(2):
            mails = [[mail(self._chance) for _ in range(share // 2 or 1)] for _ in self.listeners]
            takes = [asyncio.ensure_future(each.take(batch)) for each, batch in zip(self.listeners, mails, strict=True)]
            if half:
                await asyncio.sleep(0.05)
                await self._disturb(hour)
            await asyncio.gather(*takes)
        if hour.number < 6 or hour.number > 20:
            await asyncio.sleep(self.scale.lull_s)
        self._verify()
        sample = self.gauge.sample()
        seconds = time.monotonic() - before_s
        self.result.hours.append({
            "hour": hour.number, "seconds": round(seconds, 1), "messages": world.messages - messages, **sample._asdict(),
            "high_water": self.bounds.high_water, "waiting": world.seen - world.left,
        })  # fmt: skip

    async def _release(self, number: int) -> None:
        """Those that were deferred to hour *number* get their second attempt; a fifth of them waits once more, until the day is over."""
        for slot, job in self.world.waiting.pop(number, []):
            while slot.link.pending > 2_000:
                await asyncio.sleep(0.002)
            again = self._chance.random() < 0.2 and len(self.result.hours) < 24
            slot.settle(Job(job.rows, "defer", int(time.time() * 1000) + 86_400_000) if again else job)

    async def _disturb(self, hour: Hour) -> None:
        if hour.spool_ends:
            self._spool_cpu_s += self.process.cpu_s()
            self.process.end(hour.spool_ends)
            self.process.start()
        if hour.workers_end:
            await self.slots[hour.number % SLOTS].restart()
            await self.accounting.restart()
            await self.listeners[hour.number % LISTENERS].restart()

    def _verify(self) -> None:
        """Bodies of those that wait are where their rows say, and whole."""
        waiting = [job.rows[0][0][13:25] for jobs in self.world.waiting.values() for _, job in jobs[:VERIFIED]]
        chosen = self._chance.sample(waiting, min(VERIFIED, len(waiting)))
        found = self.world.reader.messages(chosen)
        for identity in chosen:
            if identity not in found:
                raise Faulty(f"message {identity.hex()} is gone, and its recipients wait")
            for _ in self.world.reader.body_chunks(found[identity].body, identity):
                pass
            self.result.verified += 1

    async def _watch(self, bars: Progress, task: TaskID) -> None:
        """Sample until cancelled."""
        world = self.world
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.process.check_alive()
            sample = self.gauge.sample()
            self.bounds.see(sample, f"hour {world.hour.number}")
            bars.update(task, completed=world.messages, description=self._line(sample))

    def _line(self, sample: Sample) -> str:
        world, bounds = self.world, self.bounds
        return (
            f"hour {world.hour.number}: {world.messages:,} messages, {world.seen - world.left:,} wait; segments {sample.sealed >> 20} MB for "
            f"{sample.sealed_live >> 20} (worst {bounds.segments.ratio:.2f}), index {sample.index_file >> 20} MB (worst {bounds.index.ratio:.2f})"
        )

    def _end(self) -> None:
        """Stop, and look at what is left."""
        world, wrong = self.world, self.result.wrong
        for worker in (*self.listeners, *self.slots, self.accounting):
            worker.link.close()
            worker.writer.close()
        self._spool_cpu_s += self.process.cpu_s()
        self.process.end("term")
        wrong += self.bounds.broken
        if not world.accepted <= world.seen <= world.submitted:
            wrong.append(f"{world.accepted} recipients were acknowledged, {world.seen} were found, {world.submitted} were sent")
        with self.gauge.env.begin() as txn:
            for name in ("due", "message"):
                if left := txn.stat(getattr(self.gauge.tables, name))["entries"]:
                    wrong.append(f"{left} rows are left in {name}")
        world.reader.close()
        self.gauge.close()
        wrong += [str(problem) for problem in check.check(self.process.root) if problem.kind != "orphan"][:20]

    def report(self) -> dict[str, Any]:
        """As data."""
        world, bounds = self.world, self.bounds
        own = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "scale": asdict(self.scale),
            "file_system": file_system(self.process.root),
            "seconds": round(self.result.seconds, 1),
            "messages": world.messages,
            "recipients": world.accepted,
            "deferrals": world.deferrals,
            "bounces": world.bounces,
            "starts": {"spool": self.process.starts, "workers": sum(each.epochs for each in (*self.listeners, *self.slots, self.accounting))},
            "spool_cpu_us_per_message": round(self._spool_cpu_s * 1e6 / max(world.messages, 1), 1),
            "own_cpu_us_per_message": round((own.ru_utime + own.ru_stime) * 1e6 / max(world.messages, 1), 1),
            "samples": bounds.samples,
            "verified": self.result.verified,
            "segments": asdict(bounds.segments),
            "passing": bounds.passing,
            "after": self.result.after,
            "index": {**asdict(bounds.index), "high_water": bounds.high_water},
            "hours": self.result.hours,
            "wrong": self.result.wrong,
        }


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    scale = Scale()
    parser = argparse.ArgumentParser(prog="python -m bench.churn", description="A day's churn in fast motion; bench/README.md says how to read it.")
    parser.add_argument("--messages", type=int, default=scale.messages)
    parser.add_argument("--segment-mb", type=int, default=scale.segment_bytes >> 20, help="of a segment: fewer messages want smaller ones")
    parser.add_argument("--lull", type=float, default=scale.lull_s, help="seconds of stillness after each hour of the night")
    parser.add_argument("--seed", type=int, default=scale.seed)
    parser.add_argument("--no-restarts", action="store_true")
    parser.add_argument("--spool-dir", type=Path, default=ROOT / "var" / "bench", help="where the spool lies: a real file system")
    parser.add_argument("--keep", action="store_true", help="leave the spool behind")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    given = _arguments(words)
    scale = Scale(
        messages=given.messages, segment_bytes=given.segment_mb << 20, lull_s=given.lull, seed=given.seed, restarts=not given.no_restarts
    )  # fmt: skip
    given.spool_dir.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="churn-", dir=given.spool_dir))
    churn = Churn(scale, base)
    try:
        uvloop.run(churn.run(Console(stderr=True)))
    except Faulty as error:
        churn.result.wrong.append(str(error))
    finally:
        churn.process.close()
        result = churn.report()
        if not given.keep:
            shutil.rmtree(base, ignore_errors=True)
    print(json.dumps(result))
    for text in result["wrong"]:
        print(f"WRONG: {text}", file=sys.stderr)
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
