"""One row of the table: an attack stands, another client sends at a steady rate, and the engine's memory is watched."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.load import Load, Sent, Sink, Source
from tests.hostile import clients, hosts
from tests.hostile.field import Attackers, Field, Hosts
from tests.system.engine import Engine

P99_MS = 250
FIXED_MB = 24  # of any attack, beside what its connections may hold: arenas, caches, messages on their way
RATE = 100  # messages a second of the other client
SESSIONS = 4
SIZE_BYTES = 4096
SAMPLE_S = 0.2
DESCRIPTORS_BESIDE = 600  # of the harness: hosts, pipes, files
SUFFIX = ".good.example"
MAX_MESSAGE = "4M"

CONF = """
listener-workers 2
total-max-smtp-in {connections}
smtp-listener 127.0.0.1:@port@
<source 127.0.0.0/8>
    always-allow-relaying yes
    max-message-size {max_message}
</source>
<domain *>
    retry-after 2s
    max-msg-per-connection 1
</domain>
<domain [*.]good.example>
    smtp-hosts [127.0.0.1]:{sink}
    max-msg-per-connection 100
</domain>
{hosts}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One attack: with how many connections, and what each may cost."""

    attack: Callable[[Field], Awaitable[None]]
    count: int
    kb_each: int  # of anonymous memory, all processes together

    @property
    def name(self) -> str:
        """As in the table."""
        return self.attack.__name__.replace("_", " ")

    @property
    def bound_mb(self) -> float:
        """What the engine may take beyond what it had."""
        return FIXED_MB + self.count * self.kb_each / 1024


CASES = (
    Case(clients.idle, 10_000, 6),
    Case(clients.slow_commands, 1000, 8),
    Case(clients.slow_content, 1000, 16),
    Case(clients.endless_line, 50, 128),
    Case(clients.endless_content, 50, 512),
    Case(clients.many_recipients, 20, 2048),
    Case(clients.never_reads, 200, 256),
    Case(clients.floods, 50, 256),
    Case(clients.junk, 100, 32),
    Case(clients.resets, 100, 32),
    Case(clients.half_open, 2000, 8),
    Case(clients.half_closed, 500, 16),
    Case(clients.knocks, 100, 16),
    Case(hosts.endless_replies, 150, 256),
    Case(hosts.single_bytes, 150, 256),
    Case(hosts.slow_replies, 150, 64),
    Case(hosts.junk_first, 150, 128),
    Case(hosts.resetting, 150, 64),
    Case(hosts.never_reading, 100, 512),
    Case(hosts.unasked, 150, 128),
    Case(hosts.silent, 150, 64),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one attack did."""

    name: str
    connections: int
    accepted: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    grown_mb: float
    bound_mb: float
    notes: str

    def broken(self, p99_ms: float = P99_MS) -> list[str]:
        """What it broke; [] as a rule."""
        found = [f"p99 {self.p99_ms:.0f} ms, not under {p99_ms:.0f}"] * (self.p99_ms >= p99_ms)
        found += [f"memory grew by {self.grown_mb:.0f} MB, not within {self.bound_mb:.0f}"] * (self.grown_mb > self.bound_mb)
        return found + [f"{self.failed} messages of the other client failed"] * (self.failed > 0)

    HEAD: ClassVar[str] = "attack                 connections accepted failed  p50 ms  p99 ms  max ms  grew MB bound MB  seen"

    def __str__(self) -> str:
        times = f"{self.p50_ms:7.1f} {self.p99_ms:7.1f} {self.max_ms:7.1f}"
        memory = f"{self.grown_mb:8.1f} {self.bound_mb:8.0f}"
        return f"{self.name:22} {self.connections:11,} {self.accepted:8} {self.failed:6} {times} {memory}  {self.notes}"


def room(wanted: int) -> int:
    """How many connections of *wanted* this process may hold, its own limit on open files raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + DESCRIPTORS_BESIDE
    if hard != resource.RLIM_INFINITY and hard < need and os.geteuid() == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (need, need))
            soft = hard = need
        except (OSError, ValueError):
            pass
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - DESCRIPTORS_BESIDE)


class Range:
    """An engine, a well-behaved sink for the other client's mail, and hosts that are not; one attack after the other."""

    def __init__(self, engine: Engine, directory: Path, attackers: Attackers, hosts: Hosts) -> None:
        self.engine = engine
        self._directory = directory
        self._attackers = attackers
        self._hosts = hosts
        self._runs = 0

    def measure(self, cases: Sequence[Case], seconds: float, name: str = "") -> Row:
        """The row of *cases*, all at once."""
        base = self._anonymous()
        grounds = [Field(self.engine.port, case.count, self._hosts) for case in cases]
        peak, over = [base], threading.Event()
        sampler = threading.Thread(target=self._sample, args=(peak, over))
        sampler.start()
        ends: list[Callable[[], None]] = []
        try:
            for case, ground in zip(cases, grounds, strict=True):
                ends.append(self._attackers.begin(case.attack, ground))
            sent = self.other_client(seconds)
            assert self.engine.alive()
        finally:
            for end in ends:
                end()
            self._hosts.hang_up()
            over.set()
            sampler.join()
        notes = ", ".join(f"{what} {count:,}" for ground in grounds for what, count in sorted(ground.seen.items()))
        took = sent.accept_us or {"p50": 0, "p99": 0, "max": 0}
        bound = FIXED_MB + sum(case.bound_mb - FIXED_MB for case in cases)
        connections = sum(case.count for case in cases)
        milliseconds = [took.get(key, 0) / 1000 for key in ("p50", "p99", "max")]
        return Row(name or cases[0].name, connections, sent.accepted, sent.failed, *milliseconds, (max(peak) - base) / 1e6, bound, notes)

    def other_client(self, seconds: float) -> Sent:
        """What a well-behaved client that sends for so long meets."""
        self._runs += 1
        load = Load(
            messages=round(RATE * seconds), size_bytes=SIZE_BYTES, sessions=SESSIONS, rate=RATE, domain_suffix=SUFFIX, deadline_s=round(seconds) + 30
        )  # fmt: skip
        source = Source(load, self.engine.port, self._directory, name=f"source{self._runs}", first=self._runs * 100_000)
        return source.finish(seconds + 60)

    def _anonymous(self) -> int:
        return sum(process.anonymous_bytes for process in self.engine.processes())

    def _sample(self, peak: list[int], over: threading.Event) -> None:
        while not over.wait(SAMPLE_S):
            peak.append(self._anonymous())
        peak.append(self._anonymous())


@contextmanager
def running(directory: Path, connections: int, host_count: int) -> Iterator[Range]:
    """A range whose engine takes *connections*, warmed up; everything is ended when the block ends."""
    with Attackers() as attackers, Sink(directory) as sink:
        hosts = Hosts(attackers, host_count)
        conf = CONF.format(connections=connections, max_message=MAX_MESSAGE, sink=sink.port, hosts=hosts.conf())
        try:
            with Engine(directory / "engine", conf) as engine:
                found = Range(engine, directory, attackers, hosts)
                found.other_client(1.0)
                yield found
        finally:
            hosts.close()
