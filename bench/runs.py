"""One load through one system, measured: the C floor, a peer, the engine.  Each run gives `Figures`; end_to_end.py and table.py compare them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bench.engine_process import EngineProcess
from bench.load import Balance, Load, LoadError, Sent, Sink, Source, balance
from bench.peer import CONCURRENCY, Peer
from bench.processes import Process

Progress = Callable[[str, int, int, int], None]  # name, accepted, delivered, of how many (0: nobody knows)
GRACE_S = 60.0  # how long nothing may arrive before a run that lacks mail is given up
SAMPLE_S = 0.5
DEAD_HOST = "127.0.0.66"  # an address of its own: that a host is down is remembered by address
REST_S = 30.0  # how long an engine may go on working after an injection
RESTING_US = 25_000  # of CPU in half a second is rest


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run has shown."""

    name: str
    load: Load
    accepted: int
    failed: int
    seconds: float  # from the first connection to the last arrival
    accepted_per_s: float
    delivered_per_s: float  # recipients
    cpu_us_per_message: float  # from the start of the load to the last record
    cpu_us_by_role: dict[str, float]  # split, in ticks
    whole_cpu_us_per_message: float  # start and stop included, exact
    accept_us: dict[str, int]
    latency_us: dict[str, int]  # from 250 to arrival
    peak_anonymous_bytes: int
    peak_resident_bytes: int  # shared pages once for each process
    balance: Balance
    connections: int  # at the sink
    source_ips: int  # seen by the sink
    d_records: int | None = None
    kills: tuple[str, ...] = ()
    errors: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


class Server(Protocol):
    """What runs between source and sink."""

    def processes(self) -> Sequence[Process]:
        """Its living processes."""

    def used_us(self) -> int:
        """CPU time of all of them so far, and of those that have ended."""

    def cpu_by_role(self) -> dict[str, int]:
        """The same, split."""


class _Meter:
    """CPU time of a server from now on."""

    def __init__(self, server: Server) -> None:
        self._server, self._before_us, self._before = server, server.used_us(), server.cpu_by_role()

    def read(self) -> tuple[int, dict[str, int]]:
        """(microseconds, the same by role)."""
        used_us = self._server.used_us() - self._before_us
        return used_us, {role: used - self._before.get(role, 0) for role, used in self._server.cpu_by_role().items()}


@dataclass(slots=True)
class _Watched:
    """What is looked at while a load runs."""

    name: str
    processes: Callable[[], Sequence[Process]]
    progress: Progress
    at_accepted: Callable[[int], None] = lambda _accepted: None
    before: int = 0  # recipients that had arrived at the sink before this load
    peak_anonymous_bytes: int = 0
    peak_resident_bytes: int = 0
    _next_sample_s: float = 0.0

    def look(self, source: Source, sink: Sink) -> int:
        """Sample memory if due, show progress; the distinct recipients of this load that have arrived."""
        load, accepted, arrived = source.load, source.accepted(), sink.received()[2] - self.before
        if time.monotonic() >= self._next_sample_s:
            living = self.processes()
            self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, sum(process.anonymous_bytes for process in living))
            self.peak_resident_bytes = max(self.peak_resident_bytes, sum(process.resident_bytes for process in living))
            self._next_sample_s = time.monotonic() + SAMPLE_S
        self.progress(self.name, accepted, arrived // load.recipients, 0 if load.seconds else load.messages)
        self.at_accepted(accepted)
        return arrived


def _drive(load: Load, port: int, sink: Sink, directory: Path, watched: _Watched, first: int = 0) -> tuple[Sent, Balance, float]:
    """Run the load until all has arrived, or nothing more does: what was sent, the balance, seconds to the last arrival.

    *first* is the number of its first message, where another load has ended at this sink before.
    """
    began = time.monotonic()
    watched.before = sink.received()[2]
    source = Source(load, port, directory, first=first)
    try:
        while source.running():
            watched.look(source, sink)
            passed_s = time.monotonic() - began
            if load.seconds and passed_s > load.seconds:
                source.interrupt()
            if passed_s > load.deadline_s + 10:
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
            found = balance(load, sent, sink.counts(), sink.times_us(), first)
            if not found.lost or time.monotonic() - last_s > GRACE_S:
                return sent, found, max(summary["last_us"] / 1e6 - began, 1e-6)
        time.sleep(0.02)


def _figures(
    load: Load, watched: _Watched, driven: tuple[Sent, Balance, float], sink: Sink, used: tuple[int, dict[str, int]], whole_us: int, **more: Any
) -> Figures:
    sent, found, seconds = driven
    used_us, by_role = used
    messages = max(sent.accepted, 1)
    summary = sink.summary()
    return Figures(
        name=watched.name, load=load, accepted=sent.accepted, failed=sent.failed, seconds=seconds,
        accepted_per_s=sent.accepted / max(sent.seconds, 1e-6), delivered_per_s=(sink.received()[2] - watched.before) / seconds,
        cpu_us_per_message=used_us / messages,
        cpu_us_by_role={role: used / messages for role, used in sorted(by_role.items(), key=lambda item: -item[1]) if used},
        whole_cpu_us_per_message=whole_us / messages, accept_us=sent.accept_us or {}, latency_us=found.latency_us,
        peak_anonymous_bytes=watched.peak_anonymous_bytes, peak_resident_bytes=watched.peak_resident_bytes, balance=found,
        connections=summary["connections"], source_ips=len({each["ip"] for each in summary["peers"]}), errors=sent.errors, **more,
    )  # fmt: skip


def floor(load: Load, directory: Path, progress: Progress) -> Figures:
    """Source straight to sink: what sending and receiving cost with nothing between."""
    load = replace(load, retry=False)
    with Sink(directory, name="floor-sink") as sink:
        watched = _Watched("smtp-source floor" if load.smtp_source else "floor", list, progress)
        driven = _drive(load, sink.port, sink, directory, watched)
        by_role = {"source": driven[0].cpu_us, "sink": sink.summary()["cpu_us"]}
        return _figures(load, watched, driven, sink, (sum(by_role.values()), by_role), sum(by_role.values()))


def through(which: Peer, load: Load, directory: Path, progress: Progress) -> Figures:
    """The same through a peer of its own (bench/peers)."""
    load = replace(load, retry=False)
    with Sink(directory, name=f"{which.name}-sink") as sink, which.start(directory / which.name, sink.port) as server:
        watched = _Watched(which.name, server.processes, progress)
        meter = _Meter(server)
        driven = _drive(load, server.port, sink, directory, watched)
        used = meter.read()
        return _figures(load, watched, driven, sink, used, server.stop())


def endless(recipients: int) -> int:
    """Messages that no load of some seconds reaches, below the highest number that the load pair takes."""
    return 200_000_000 // recipients


def source_address(number: int) -> str:
    """Of virtual MTA *number*, from 1: 127.0.0.11, 127.0.0.12 ... 127.0.0.210, 127.0.1.11 ..."""
    return f"127.0.{(number - 1) // 200}.{(number - 1) % 200 + 11}"


def engine_conf(sink_port: int, *, virtual_mtas: int = 0, delivery_workers: int = 0, listener_workers: int = 0, dead: str = "") -> str:
    """The engine's configuration for a run: one route, and so many virtual MTAs with an address each, taken in turn.

    Mail for d0.queued.example goes to *dead*, where nobody listens.
    """
    lines = ["total-max-smtp-in 4000", "total-max-smtp-out 4000"]
    lines += [f"listener-workers {listener_workers}"] if listener_workers else []
    lines += [f"delivery-workers {delivery_workers}"] if delivery_workers else []
    lines += ["<source 127.0.0.0/8>", "    always-allow-relaying yes", "    log-connections no"]
    lines += ["    default-virtual-mta bench"] if virtual_mtas else []
    lines.append("</source>")
    names = [f"mta{number}" for number in range(1, virtual_mtas + 1)]
    for number, name in enumerate(names, 1):
        lines += [f"<virtual-mta {name}>", f"    smtp-source-host {source_address(number)} {name}.example", "</virtual-mta>"]
    if names:
        lines += ["<virtual-mta-pool bench>", *(f"    virtual-mta {name}" for name in names), "</virtual-mta-pool>"]
    if dead:
        lines += ["<domain d0.queued.example>", f"    smtp-hosts {dead}", "    retry-after 1h", "    bounce-after 4d", "</domain>"]
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


class _Loads:
    """Loads through one engine to one sink, one after the other: each with recipients of its own."""

    def __init__(self, server: EngineProcess, sink: Sink, directory: Path, progress: Progress) -> None:
        self._server, self._sink, self._directory, self._progress = server, sink, directory, progress
        self._lines = LineCount(server.directory, "d")
        self._recipients = 0  # numbers that have been used
        self._before = 0  # records of earlier loads

    def run(self, load: Load, at_accepted: Callable[[int], None] = lambda _accepted: None) -> Figures:
        """One load, until its records are written."""
        watched = _Watched("engine", self._server.processes, self._progress, at_accepted)
        meter, self._before = _Meter(self._server), self._lines.look()
        first = -(-self._recipients // load.recipients)
        driven = _drive(load, self._server.port, self._sink, self._directory, watched, first)
        sent = driven[0]
        self._recipients = (first + max(sent.accepted, len(sent.accept_times_us or ()))) * load.recipients
        self._lines.wait(self._before + sent.accepted * load.recipients, 15)
        return _figures(load, watched, driven, self._sink, meter.read(), 0, d_records=self.records())

    def records(self) -> int:
        """Delivery records of the last load by now."""
        return self._lines.look() - self._before


def engine(
    load: Load,
    directory: Path,
    progress: Progress,
    *,
    kills: Sequence[str] = (),
    virtual_mtas: int = 0,
    delivery_workers: int = 0,
    listener_workers: int = 0,
    known_domains: bool = False,
) -> Figures:
    """The same through a real `engine start`; with *kills*, SIGKILL for `all` or one role at a time while it runs.

    *known_domains*: each domain has had a message before.
    """
    load = replace(load, retry=bool(kills))
    with Sink(directory, name="engine-sink") as sink:
        conf = engine_conf(sink.port, virtual_mtas=virtual_mtas, delivery_workers=delivery_workers, listener_workers=listener_workers)
        server = EngineProcess(directory / "engine", conf, cgroup=not kills)
        with server:
            loads = _Loads(server, sink, directory, progress)
            if known_domains:
                each = min(load.domains, 100)
                messages = -(-load.domains // each)
                loads.run(
                    Load(messages=messages, size_bytes=1024, sessions=10, recipients=each, domains=load.domains, pipeline=True, per_connection=100)
                )
            figures = loads.run(load, _Killer(server, kills, load.messages) if kills else lambda _accepted: None)
            server.stop()
        whole_us = server.cpu_us / max(figures.accepted, 1)
        if kills:
            figures = replace(figures, cpu_us_per_message=whole_us, cpu_us_by_role={"all": whole_us})
        return replace(figures, whole_cpu_us_per_message=whole_us, d_records=loads.records(), kills=tuple(kills))


def engine_with_queued(load: Load, directory: Path, progress: Progress, counts: Sequence[int]) -> Iterator[tuple[int, Figures]]:
    """(recipients queued, the same load beside them), for one engine in which ever more recipients wait for a host that is down."""
    with ExitStack() as running:
        closed = running.enter_context(socket.socket())
        closed.bind((DEAD_HOST, 0))  # never listens: connections are refused, and nobody else gets the port
        sink = running.enter_context(Sink(directory, name="engine-sink"))
        conf = engine_conf(sink.port, dead=f"[{DEAD_HOST}]:{closed.getsockname()[1]}")
        server = running.enter_context(EngineProcess(directory / "engine", conf, cgroup=True))
        loads = _Loads(server, sink, directory, progress)
        queued = 0
        for count in counts:
            _queue(server, directory, progress, count - queued)
            queued = count
            yield count, loads.run(load)


def _queue(server: EngineProcess, directory: Path, progress: Progress, recipients: int) -> None:
    """Inject mail that nobody takes, and wait until the engine rests."""
    if recipients > 0:
        each = min(recipients, 1000)
        load = Load(
            messages=recipients // each,
            size_bytes=1024,
            sessions=10,
            recipients=each,
            pipeline=True,
            per_connection=1000,
            domain_suffix=".queued.example",
        )
        source = Source(load, server.port, directory, name="queued")
        try:
            while source.running():
                progress("engine, queueing", source.accepted() * each, 0, recipients)
                time.sleep(0.05)
            if (accepted := source.finish(10).accepted) < load.messages:
                raise LoadError(f"only {accepted} of {load.messages} messages for the queue that waits were accepted")
        finally:
            source.stop()
    deadline, used_us = time.monotonic() + REST_S, 0
    while server.used_us() - used_us > RESTING_US and time.monotonic() < deadline:
        used_us = server.used_us()
        time.sleep(0.5)
