"""One load through one system, measured: the C floor, Postfix, the engine.  Each run gives `Figures`; end_to_end.py compares them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.engine_process import EngineProcess
from bench.load import Balance, Load, LoadError, Sent, Sink, Source, balance
from bench.postfix import Postfix
from bench.processes import Process

Progress = Callable[[str, int, int, int], None]  # name, accepted, delivered, of how many
GRACE_S = 60.0  # how long nothing may arrive before a run that lacks mail is given up
SAMPLE_S = 0.5
CONCURRENCY = 50  # connections out, the same for all


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run has shown."""

    name: str
    load: Load
    accepted: int
    seconds: float  # from the first connection to the last arrival
    accepted_per_s: float
    delivered_per_s: float  # recipients
    cpu_us_per_message: float  # from the start of the load to the last record
    cpu_us_by_role: dict[str, float]  # the same, split
    whole_cpu_us_per_message: float  # start and stop included, exact
    accept_us: dict[str, int]
    latency_us: dict[str, int]  # from 250 to arrival
    peak_anonymous_bytes: int
    balance: Balance
    connections: int  # at the sink
    d_records: int | None = None
    kills: tuple[str, ...] = ()
    errors: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


@dataclass(slots=True)
class _Watched:
    """What is looked at while a load runs."""

    name: str
    processes: Callable[[], Sequence[Process]]
    progress: Progress
    at_accepted: Callable[[int], None] = lambda _accepted: None
    peak_anonymous_bytes: int = 0
    _next_sample_s: float = 0.0

    def look(self, source: Source, sink: Sink) -> int:
        """Sample memory if due, show progress; the distinct recipients that have arrived."""
        accepted, arrived = source.accepted(), sink.received()[2]
        if time.monotonic() >= self._next_sample_s:
            self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, sum(process.anonymous_bytes for process in self.processes()))
            self._next_sample_s = time.monotonic() + SAMPLE_S
        self.progress(self.name, accepted, arrived // source.load.recipients, source.load.messages)
        self.at_accepted(accepted)
        return arrived


def _drive(load: Load, port: int, sink: Sink, directory: Path, watched: _Watched) -> tuple[Sent, Balance, float]:
    """Run the load until all has arrived, or nothing more does: what was sent, the balance, seconds to the last arrival."""
    began = time.monotonic()
    source = Source(load, port, directory)
    try:
        while source.running():
            watched.look(source, sink)
            if time.monotonic() - began > load.deadline_s + 10:
                raise LoadError(f"{watched.name}: the source did not end within {load.deadline_s + 10} s")
            time.sleep(0.02)
        sent = source.finish(10)
    finally:
        source.stop()
    arrived, last_s = -1, time.monotonic()
    while True:
        now = watched.look(source, sink)
        if now != arrived:
            arrived, last_s = now, time.monotonic()
        if arrived >= sent.accepted * load.recipients or time.monotonic() - last_s > GRACE_S:
            summary = sink.summary()
            found = balance(load, sent, sink.counts(), sink.times_us())
            if not found.lost or time.monotonic() - last_s > GRACE_S:
                return sent, found, max(summary["last_us"] / 1e6 - began, 1e-6)
        time.sleep(0.02)


def _figures(
    load: Load, watched: _Watched, driven: tuple[Sent, Balance, float], sink: Sink, by_role: dict[str, int], whole_us: int, **more: Any
) -> Figures:
    sent, found, seconds = driven
    messages = max(sent.accepted, 1)
    return Figures(
        name=watched.name, load=load, accepted=sent.accepted, seconds=seconds, accepted_per_s=sent.accepted / max(sent.seconds, 1e-6),
        delivered_per_s=sink.received()[2] / seconds, cpu_us_per_message=sum(by_role.values()) / messages,
        cpu_us_by_role={role: used / messages for role, used in sorted(by_role.items(), key=lambda item: -item[1]) if used},
        whole_cpu_us_per_message=whole_us / messages, accept_us=sent.accept_us or {}, latency_us=found.latency_us,
        peak_anonymous_bytes=watched.peak_anonymous_bytes, balance=found, connections=sink.summary()["connections"], errors=sent.errors, **more,
    )  # fmt: skip


def _spent(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {role: used - before.get(role, 0) for role, used in after.items()}


def floor(load: Load, directory: Path, progress: Progress) -> Figures:
    """Source straight to sink: what sending and receiving cost with nothing between."""
    load = replace(load, retry=False)
    with Sink(directory, name="floor-sink") as sink:
        watched = _Watched("smtp-source floor" if load.smtp_source else "floor", list, progress)
        driven = _drive(load, sink.port, sink, directory, watched)
        by_role = {"source": driven[0].cpu_us, "sink": sink.summary()["cpu_us"]}
        return _figures(load, watched, driven, sink, by_role, sum(by_role.values()))


def postfix(load: Load, directory: Path, progress: Progress) -> Figures:
    """The same through a tuned Postfix of its own (bench/peers/postfix)."""
    load = replace(load, retry=False)
    root = directory / "postfix"
    with Sink(directory, name="postfix-sink") as sink, Postfix(root, relayhost=f"[127.0.0.1]:{sink.port}", concurrency=CONCURRENCY) as server:
        watched = _Watched("postfix", server.measured.processes, progress)
        before = server.measured.cpu_by_role()
        driven = _drive(load, server.port, sink, directory, watched)
        after = server.measured.cpu_by_role()
        whole = server.stop()["cpu_us"]
        return _figures(load, watched, driven, sink, _spent(before, after), whole)


def engine_conf(sink_port: int, slots: int, listener_workers: int) -> str:
    """The engine's configuration for a run: one route, and with *slots* > 0 so many virtual MTAs on 127.0.0.11 and up, taken in turn."""
    lines = ["total-max-smtp-in 4000", "total-max-smtp-out 4000"]
    if listener_workers:
        lines.append(f"listener-workers {listener_workers}")
    lines += ["<source 127.0.0.0/8>", "    always-allow-relaying yes", "    log-connections no"]
    lines += ["    default-virtual-mta bench"] if slots else []
    lines.append("</source>")
    for number in range(1, slots + 1):
        lines += [f"<virtual-mta mta{number}>", f"    smtp-source-host 127.0.0.{10 + number} mta{number}.example", "</virtual-mta>"]
    if slots:
        lines += [
            f"delivery-workers {slots}",
            "<virtual-mta-pool bench>",
            *(f"    virtual-mta mta{number}" for number in range(1, slots + 1)),
            "</virtual-mta-pool>",
        ]
    lines += [
        "<domain *>",
        f"    smtp-hosts [127.0.0.1]:{sink_port}",
        f"    max-smtp-out {CONCURRENCY}",
        "    retry-after 5s",
        "    retry-recipients-after 5s",
        "    bounce-after 1h",
        "</domain>",
    ]
    return "\n".join(lines) + "\n"


class _Killer:
    """Kills what a plan says, evenly over the load, and starts the engine again where nothing else does."""

    def __init__(self, engine: EngineProcess, plan: Sequence[str], messages: int) -> None:
        self._engine, self._todo = engine, [(messages * (number + 1) // (len(plan) + 1), what) for number, what in enumerate(plan)]

    def __call__(self, accepted: int) -> None:
        if not self._todo or accepted < self._todo[0][0]:
            return
        _, what = self._todo.pop(0)
        if what == "all":
            self._engine.kill9_all()
            self._engine.start(wait=False)
        elif what == "supervisor":
            self._engine.kill9_supervisor()
            self._engine.start(wait=False)
        else:
            self._engine.kill9(what)


class LineCount:
    """Lines of one type, and with *part* in them, in the accounting files, counted as they grow."""

    def __init__(self, directory: Path, kind: str, part: bytes = b"") -> None:
        self._directory, self._start, self._part, self._offsets, self.count = directory, f"{kind},".encode(), part, dict[Path, int](), 0

    def look(self) -> int:
        """How many there are by now."""
        for path in self._directory.glob("acct*.csv"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offsets[path] = self._offsets.get(path, 0) + len(whole) + len(newline)
            self.count += sum(line.startswith(self._start) and self._part in line for line in whole.split(b"\n"))
        return self.count

    def wait(self, count: int, timeout_s: float) -> int:
        """How many there are once there are *count*, or at the deadline."""
        deadline = time.monotonic() + timeout_s
        while self.look() < count and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.count


def engine(load: Load, directory: Path, progress: Progress, *, kills: Sequence[str] = (), slots: int = 0, listener_workers: int = 0) -> Figures:
    """The same through a real `engine start`; with *kills*, SIGKILL for `all` or one role at a time while it runs."""
    load = replace(load, retry=bool(kills))
    with Sink(directory, name="engine-sink") as sink:
        server = EngineProcess(directory / "engine", engine_conf(sink.port, slots, listener_workers))
        with server:
            watched = _Watched("engine", server.processes, progress, _Killer(server, kills, load.messages) if kills else lambda _accepted: None)
            before = server.cpu_by_role()
            driven = _drive(load, server.port, sink, server.directory.parent, watched)
            lines = LineCount(server.directory, "d")
            lines.wait(driven[0].accepted * load.recipients, 15)
            after = server.cpu_by_role()
            server.stop()
        by_role = {"all": server.cpu_us} if kills else _spent(before, after)
        sink.summary()
        return _figures(load, watched, driven, sink, by_role, server.cpu_us, d_records=lines.look(), kills=tuple(kills))
