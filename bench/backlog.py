"""`python -m bench.backlog`: what a large backlog costs, and whether other mail feels it.

Four parts, each with an engine of its own: *deferred* (every recipient is told 451 and retried: memory, CPU, restart, release, disk), *expired*
(a host that is down until bounce-after passes), *domains* (mail to many destinations, against as much to one) and *dead* (many destinations that
are down).
One line for each figure on standard output, all as JSON in bench/results/.  Exit status 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.end_to_end import RESULTS, file_system
from bench.engine_process import ROOT, EngineProcess
from bench.load import Balance, Load, LoadError, Sent, Sink, Source, balance, percentiles
from bench.runs import LineCount

PARTS = ("deferred", "expired", "domains", "dead")
ANONYMOUS_GROWTH_BYTES = 50_000_000
FIRST_ATTEMPT_S = 2.0
BOUNCED_WITHIN_S = 60.0
OTHERS_P99_S = 1.0  # accept to delivered of another queue's mail
TRICKLE_PER_S = 50
WARM_UP = 1_000  # messages
DEAD_HOST = "127.0.0.66"  # an address of its own: that a host is down is remembered by address
CONF = """
total-max-smtp-in 4000
total-max-smtp-out 4000
<source 127.0.0.0/8>
    always-allow-relaying yes
    log-connections no
</source>
<domain *>
    smtp-hosts [{others}
    retry-after {retry}s
    retry-recipients-after {retry}s
    bounce-after {bounce}s
</domain>
<domain d0.later.example>
    smtp-hosts [127.0.0.1]:{later}
    max-smtp-out 50
    retry-after {retry}s
    retry-recipients-after {retry}s
    bounce-after 4d
</domain>
<domain d0.now.example>
    smtp-hosts [127.0.0.1]:{now}
</domain>
<domain source.example>
    smtp-hosts [127.0.0.1]:{reports}
</domain>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large, and how long the waits are."""

    messages: int = 300_000
    expired: int = 100_000
    domains: int = 10_000
    per_domain: int = 10
    size_bytes: int = 1024
    retry_s: int = 20
    bounce_s: int = 150
    burst: bool = False  # nobody runs while they expire: all of them are found too old at once
    watch_s: int = 45  # over how long CPU and the others' delay are measured
    deadline_s: int = 900  # for one injection or one release
    patience: float = 1.0  # what promised times are multiplied by, where others use the machine too


@dataclass(slots=True)
class Report:
    """What has been measured, said as it comes."""

    figures: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda line: print(line, flush=True)

    def add(self, name: str, value: Any, text: str) -> None:
        """One figure."""
        self.figures[name] = value
        self.say(f"{name}: {text}")

    def expect(self, true: bool, text: str) -> None:
        """A promise; *text* says how it was broken."""
        if not true:
            self.wrong.append(text)
            self.say(f"WRONG: {text}")


class Stage:
    """One engine, its sinks, and where it all lies."""

    def __init__(self, directory: Path, scale: Scale, running: ExitStack, *, down: bool = False) -> None:
        """*down*: nothing listens where all mail but that for d0.later, d0.now and source.example goes."""
        directory.mkdir()
        self.directory = directory
        self.scale = scale
        self._closed = running.enter_context(socket.socket())
        self._closed.bind((DEAD_HOST, 0))  # never listens: connections are refused, and nobody else gets the port
        self.later = running.enter_context(Sink(directory, name="later", replies={"rcpt": "451 4.3.0 later"}))
        self.now = running.enter_context(Sink(directory, name="now"))
        self.reports = running.enter_context(Sink(directory, name="reports"))
        self.others = running.enter_context(Sink(directory, name="others"))
        others = "{}]:{}".format(*self._closed.getsockname()) if down else f"127.0.0.1]:{self.others.port}"
        conf = CONF.format(
            later=self.later.port, now=self.now.port, reports=self.reports.port, others=others, retry=scale.retry_s, bounce=scale.bounce_s
        )
        self.engine = EngineProcess(directory / "engine", conf)
        running.callback(lambda: self.engine.stop(30) if self.engine.alive() else 0)
        self.engine.start()
        self._next_now = 0
        self._sources = 0

    def load(self, count: int, suffix: str, **more: Any) -> Load:
        """*count* messages to one domain, or to `domains` of them, injected fast."""
        return Load(
            messages=count, size_bytes=self.scale.size_bytes, sessions=20, per_connection=1000, domain_suffix=suffix,
            deadline_s=self.scale.deadline_s, **more,
        )  # fmt: skip

    def source(self, load: Load, first: int = 0) -> Source:
        """*load* towards the engine, begun."""
        self._sources += 1
        return Source(load, self.engine.port, self.directory, name=f"source{self._sources}", first=first)

    def inject(self, load: Load, first: int = 0) -> Sent:
        """*load*, accepted to the last message; LoadError."""
        sent = self.source(load, first).finish(self.scale.deadline_s + 10)
        if sent.accepted < load.messages:
            raise LoadError(f"{sent.accepted} of {load.messages} messages were accepted: {sent.errors}")
        return sent

    def warm_up(self) -> None:
        """A little mail of another queue, so that what grows once has grown."""
        self.inject(self.load(WARM_UP, ".now.example"), self._next_now)
        self._next_now += WARM_UP
        until(lambda: self.now.received()[2] >= self._next_now, 30)

    def anonymous_bytes(self) -> int:
        """RssAnon of all processes together."""
        return sum(process.anonymous_bytes for process in self.engine.processes())

    def anonymous_by_role(self) -> dict[str, float]:
        """The same, in MB by role."""
        return {process.role: round(process.anonymous_bytes / 1e6, 1) for process in self.engine.processes()}

    @contextmanager
    def trickle(self) -> Iterator[Trickle]:
        """New mail for another queue while the body runs."""
        load = self.load(self.scale.deadline_s * TRICKLE_PER_S, ".now.example", rate=TRICKLE_PER_S)
        found = Trickle(load, self.source(load, self._next_now), self.now, self._next_now)
        try:
            yield found
        finally:
            found.finish()
        self._next_now += len(found)

    def disk_bytes(self) -> dict[str, int]:
        """Blocks in use: bodies, index."""
        spool = self.engine.directory / "spool"
        return {name: sum(file.stat().st_blocks * 512 for file in (spool / name).iterdir()) for name in ("bodies", "index")}


class Trickle:
    """A little steady mail to another queue; its length is that of the number range that it took."""

    def __init__(self, load: Load, source: Source, sink: Sink, first: int) -> None:
        self._load, self._source, self._sink, self._first = load, source, sink, first
        self._before = sink.received()[2]
        self._length = 0
        self._accepted = 0
        self.balance = Balance(0, 0, 0)

    def __len__(self) -> int:
        return self._length

    def finish(self) -> None:
        """End it, wait for the last to arrive (20 s), and compare."""
        self._source.interrupt()
        sent = self._source.finish(60)
        assert sent.accept_times_us is not None
        self._accepted, self._length = sent.accepted, len(sent.accept_times_us)
        until(lambda: self._sink.received()[2] >= self._before + sent.accepted, 20)
        self._sink.summary()
        self.balance = balance(self._load, sent, self._sink.counts(), self._sink.times_us(), self._first)

    def report(self, report: Report, name: str, patience: float) -> None:
        """As figures, with what is promised."""
        delay = self.balance.latency_us
        shown = " ".join(f"{key} {value / 1000:.1f}" for key, value in delay.items())
        report.add(name, delay, f"{self._accepted} messages at {TRICKLE_PER_S}/s to another queue: accept to delivered {shown} ms")
        report.expect(self._accepted > 0 and not self.balance.lost, f"{name}: {self.balance.lost} messages of another queue did not arrive")
        report.expect(delay.get("p99", 1 << 60) < OTHERS_P99_S * patience * 1e6, f"{name}: another queue's p99 is over {OTHERS_P99_S:.0f} s")


def until(true: Callable[[], object], timeout_s: float) -> bool:
    """Whether *true* came to say so before the deadline."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# --- deferred --------------------------------------------------------------------------------------------------------------------------


def deferred(stage: Stage, report: Report) -> None:
    """A standing backlog that is retried, over a stop and a kill -9, until its sink takes it."""
    scale, count = stage.scale, stage.scale.messages
    cold = stage.anonymous_bytes()
    stage.warm_up()
    before = stage.anonymous_bytes()
    sent = stage.inject(stage.load(count, ".later.example"))
    report.add("injected", sent.seconds, f"{count:,} messages of {scale.size_bytes} bytes in {sent.seconds:.0f} s, told 451 meanwhile")
    _standing(stage, report, cold, before)
    _restart(stage, report, "stop", lambda: stage.engine.stop())
    _restart(stage, report, "kill -9", stage.engine.kill9_all)
    _release(stage, report, count, "released")
    first = stage.disk_bytes()
    stage.later.command("refuse")
    stage.inject(stage.load(count, ".later.example"), count)
    _release(stage, report, 2 * count, "released again")
    second = stage.disk_bytes()
    growth = second["index"] / max(first["index"], 1)
    report.add("index over two cycles", growth, f"{first['index'] / 1e6:.1f} MB after the first, x {growth:.2f} after the second")
    report.expect(growth < 1.5, "the index grows with every cycle")


def _standing(stage: Stage, report: Report, cold: int, before: int) -> None:
    cpu = stage.engine.cpu_by_role()
    began_s = time.monotonic()
    peak = 0
    with stage.trickle() as trickle:
        while time.monotonic() < began_s + stage.scale.watch_s:
            peak = max(peak, stage.anonymous_bytes())
            time.sleep(0.5)
    seconds = time.monotonic() - began_s
    used = {role: (spent - cpu.get(role, 0)) / 1e6 / seconds for role, spent in stage.engine.cpu_by_role().items()}
    grown = peak - before
    report.add("anonymous memory", {"cold": cold, "before": before, "peak": peak}, (
        f"cold {cold / 1e6:.1f}, before {before / 1e6:.1f}, highest with {stage.scale.messages:,} waiting {peak / 1e6:.1f} MB: "
        f"+{grown / 1e6:.1f} MB (+{(peak - cold) / 1e6:.1f} over cold); now {stage.anonymous_by_role()}"
    ))  # fmt: skip
    report.expect(peak - cold < ANONYMOUS_GROWTH_BYTES, "anonymous memory grows with the backlog")
    shown = ", ".join(f"{role} {share:.2f}" for role, share in used.items() if share >= 0.005)
    report.add("cores while it is retried", used, f"{sum(used.values()):.2f} ({shown}) over {seconds:.0f} s")
    trickle.report(report, "others while it is retried", stage.scale.patience)


def _restart(stage: Stage, report: Report, how: str, end: Callable[[], object]) -> None:
    """From the start command to the first RCPT of the backlog at the sink."""
    end()
    ended_s = time.monotonic()
    until(lambda: time.monotonic() > ended_s + stage.scale.retry_s * 1.2, 600)  # every one of them is due
    refused = stage.later.summary()["refused_commands"]
    log_bytes = (stage.engine.directory / "log").stat().st_size
    wall_s, began_s = time.time(), time.monotonic()
    stage.engine.start(wait=False)
    attempted = until(lambda: stage.later.summary()["refused_commands"] > refused, 30)
    took_s = time.monotonic() - began_s
    stage.engine.wait_until_up()
    name = f"first attempt after {how}"
    report.add(name, took_s, f"{took_s:.2f} s after the start command ({_milestones(stage.engine.directory / 'log', log_bytes, wall_s)})")
    report.expect(attempted and took_s < FIRST_ATTEMPT_S * stage.scale.patience, f"{name}: {took_s:.2f} s")


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


def _release(stage: Stage, report: Report, total: int, name: str) -> None:
    """The sink accepts: everything leaves, once, and is recorded."""
    scale, engine = stage.scale, stage.engine
    left_before = stage.later.received()[2]
    stage.later.command("accept")
    began_s = time.monotonic()
    until(lambda: stage.later.received()[2] >= total, scale.deadline_s)
    took_s = time.monotonic() - began_s
    stage.later.summary()
    counts = stage.later.counts()[:total]
    lost, doubled = counts.count(0) + total - len(counts), sum(number > 1 for number in counts)
    lines = LineCount(engine.directory, "d", b"@d0.later.example")
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


# --- expired ---------------------------------------------------------------------------------------------------------------------------


def expired(stage: Stage, report: Report) -> None:
    """A queue whose host is down: everybody in it bounces when bounce-after has passed, with a DSN, and nobody else notices."""
    scale, count, engine = stage.scale, stage.scale.expired, stage.engine
    stage.warm_up()
    before = stage.anonymous_bytes()
    sent = stage.inject(stage.load(count, ".dead.example"))
    report.add("injected", sent.seconds, f"{count:,} messages in {sent.seconds:.0f} s for a host that is down")
    report.expect(sent.seconds < scale.bounce_s, "bounce-after passed before all were in: no burst was measured")
    assert sent.accept_times_us is not None
    first_s, last_s = (each / 1e6 + scale.bounce_s for each in (min(sent.accept_times_us), max(sent.accept_times_us)))
    if scale.burst:
        engine.stop()
        until(lambda: time.monotonic() > last_s, scale.bounce_s + 10)
        engine.start()
        first_s = last_s = time.monotonic()
    until(lambda: time.monotonic() > first_s - 1, scale.bounce_s + 10)
    cpu, peak = engine.cpu_by_role(), 0
    lines = LineCount(engine.directory, "b", b"@d0.dead.example")
    done_s = last_s
    with stage.trickle() as trickle:
        deadline_s = last_s + 3 * BOUNCED_WITHIN_S
        while (lines.look() < count or stage.reports.received()[0] < count) and time.monotonic() < deadline_s:
            peak = max(peak, stage.anonymous_bytes())
            time.sleep(0.2)
        done_s = time.monotonic()
        used = sum(engine.cpu_by_role().values()) - sum(cpu.values())
    late_s = done_s - last_s
    reports = stage.reports.received()[0]
    report.add("bounced", {"late_s": late_s, "b": lines.count, "dsn": reports}, (
        f"b records {lines.count:,}, DSNs delivered {reports:,} of {count:,}, {late_s:.1f} s after bounce-after of the last had passed; "
        f"{used / count:.0f} us of CPU each; anonymous memory +{(peak - before) / 1e6:.1f} MB"
    ))  # fmt: skip
    report.expect(lines.count == count and reports == count, f"{lines.count} b records and {reports} DSNs of {count}")
    report.expect(late_s < BOUNCED_WITHIN_S * scale.patience, f"the last bounce came {late_s:.0f} s after its time")
    if not scale.burst:
        _lateness(stage, report)
    trickle.report(report, "others while it expires", scale.patience)


def _lateness(stage: Stage, report: Report) -> None:
    lateness = sorted(_lateness_s(stage.engine, stage.scale.bounce_s))
    shown = " ".join(f"{key} {value}" for key, value in percentiles(lateness).items())
    report.add("lateness of each bounce", percentiles(lateness), f"{shown} s after its own bounce-after")


def _lateness_s(engine: EngineProcess, bounce_s: int) -> list[int]:
    stamp = "%Y-%m-%d %H:%M:%S%z"
    cache: dict[str, float] = {}

    def at_s(text: str) -> float:
        if text not in cache:
            cache[text] = datetime.strptime(text, stamp).timestamp()
        return cache[text]

    return [round(at_s(record["timeLogged"]) - at_s(record["timeQueued"]) - bounce_s) for record in engine.iter_records("b")]


# --- many domains ----------------------------------------------------------------------------------------------------------------------


def domains(stage: Stage, report: Report) -> None:
    """Many destinations that share their hosts: what a message costs, against as many for one destination."""
    count = stage.scale.domains * stage.scale.per_domain
    one = _cost_us(stage, stage.load(count, ".one.example"), 0)
    many = _cost_us(stage, stage.load(count, ".many.example", domains=stage.scale.domains), count)
    ratio = sum(many.values()) / sum(one.values())
    for name, cost in (("one domain", one), (f"{stage.scale.domains:,} domains", many)):
        shown = ", ".join(f"{role} {used:.0f}" for role, used in cost.items() if used >= 0.5)
        report.add(name, cost, f"{count:,} messages: {sum(cost.values()):.0f} us of CPU a message ({shown})")
    report.add("domains over one", ratio, f"{ratio:.2f} times the CPU; anonymous memory {stage.anonymous_by_role()}")


def _cost_us(stage: Stage, load: Load, first: int) -> dict[str, float]:
    before = stage.engine.cpu_by_role()
    stage.inject(load, first)
    if not until(lambda: stage.others.received()[2] >= first + load.messages, stage.scale.deadline_s):
        raise LoadError(f"{stage.others.received()[2] - first} of {load.messages} arrived")
    LineCount(stage.engine.directory, "d").wait(first + load.messages, 30)
    return {role: (spent - before.get(role, 0)) / load.messages for role, spent in stage.engine.cpu_by_role().items()}


def dead(stage: Stage, report: Report) -> None:
    """Many destinations that are all down: memory by destination, CPU while they are retried, and other mail."""
    count = stage.scale.domains
    stage.warm_up()
    before = stage.anonymous_bytes()
    stage.inject(stage.load(count, ".gone.example", domains=count))
    lines = LineCount(stage.engine.directory, "tq")
    lines.wait(count, 60)
    cpu, began_s, peak = stage.engine.cpu_by_role(), time.monotonic(), 0
    with stage.trickle() as trickle:
        while time.monotonic() < began_s + stage.scale.watch_s:
            peak = max(peak, stage.anonymous_bytes())
            time.sleep(0.5)
    seconds = time.monotonic() - began_s
    used = {role: (spent - cpu.get(role, 0)) / 1e6 / seconds for role, spent in stage.engine.cpu_by_role().items()}
    report.add("anonymous memory", {"before": before, "peak": peak}, (
        f"{before / 1e6:.1f} MB before, {peak / 1e6:.1f} MB with {count:,} dead destinations: {(peak - before) / count:.0f} bytes each; "
        f"{stage.anonymous_by_role()}"
    ))  # fmt: skip
    shown = ", ".join(f"{role} {share:.2f}" for role, share in used.items() if share >= 0.005)
    report.add("cores while they are retried", used, f"{sum(used.values()):.2f} ({shown}), tq records {lines.look():,}")
    trickle.report(report, "others meanwhile", stage.scale.patience)


# --- command ---------------------------------------------------------------------------------------------------------------------------


def run(part: str, scale: Scale, directory: Path, report: Report) -> None:
    """One of PARTS in *directory*."""
    work = {"deferred": deferred, "expired": expired, "domains": domains, "dead": dead}[part]
    with ExitStack() as running:
        work(Stage(directory / part, scale, running, down=part in ("expired", "dead")), report)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description="Large backlogs; bench/README.md says how to read it.")
    scale = Scale()
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: " + ", ".join(PARTS))
    parser.add_argument("--messages", type=int, default=scale.messages, help="of part deferred")
    parser.add_argument("--expired", type=int, default=scale.expired, help="recipients of part expired")
    parser.add_argument("--domains", type=int, default=scale.domains, help="destinations of parts domains and dead")
    parser.add_argument("--per-domain", type=int, default=scale.per_domain, help="messages for each in part domains")
    parser.add_argument("--size", type=int, default=scale.size_bytes, help="bytes of each body")
    parser.add_argument("--retry", type=int, default=scale.retry_s, help="seconds, for hosts and recipients alike")
    parser.add_argument("--bounce", type=int, default=scale.bounce_s, help="seconds to bounce-after in part expired: longer than its injection takes")
    parser.add_argument("--burst", action="store_true", help="part expired: the engine is down while bounce-after passes, so that all expire at once")
    parser.add_argument("--watch", type=int, default=scale.watch_s, help="seconds over which CPU and delay are measured")
    parser.add_argument("--deadline", type=int, default=scale.deadline_s, help="seconds for one injection or release")
    parser.add_argument("--spool-dir", type=Path, default=ROOT / "var" / "bench", help="where spools lie: a real file system")
    parser.add_argument("--keep", action="store_true", help="leave the directory of the run behind")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    given = _arguments(words)
    parts = given.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"--parts: {', '.join(unknown)}: not among {', '.join(PARTS)}")
    scale = Scale(
        messages=given.messages, expired=given.expired, domains=given.domains, per_domain=given.per_domain, size_bytes=given.size,
        retry_s=given.retry, bounce_s=given.bounce, burst=given.burst, watch_s=given.watch, deadline_s=given.deadline,
    )  # fmt: skip
    given.spool_dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="backlog-", dir=given.spool_dir))
    directory.chmod(0o711)  # children of root become other users and have to get here
    reports: dict[str, Report] = {}
    try:
        for part in parts:
            print(f"--- {part}", flush=True)
            report = reports[part] = Report()
            began_s = time.monotonic()
            try:
                run(part, scale, directory, report)
            except LoadError as error:
                report.expect(False, str(error))
            report.add("part", time.monotonic() - began_s, f"{time.monotonic() - began_s:.0f} s in all")
    finally:
        if not given.keep:
            shutil.rmtree(directory, ignore_errors=True)
    _save(reports, given)
    return 1 if any(report.wrong for report in reports.values()) else 0


def _save(reports: dict[str, Report], given: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    setting = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "file_system": file_system(given.spool_dir),
        "load_average": os.getloadavg()[0],
        "arguments": {name: str(value) for name, value in vars(given).items()},
    }
    target = RESULTS / f"backlog-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    parts = {part: {"figures": report.figures, "wrong": report.wrong} for part, report in reports.items()}
    target.write_text(json.dumps({"setting": setting, "parts": parts}, indent=1))
    print(f"-> {target.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
