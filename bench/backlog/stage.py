"""What every part of `python -m bench.backlog` runs on: an engine with its sinks, a report, a little other mail."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.engine_process import EngineProcess
from bench.load import Balance, Load, LoadError, Sent, Sink, Source, balance

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
    due: int = 1_000_000
    due_domains: tuple[int, ...] = (1, 1_000)
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
        self._closed = running.enter_context(_Closed())
        self.later = running.enter_context(Sink(directory, name="later", replies={"rcpt": "451 4.3.0 later"}))
        self.now = running.enter_context(Sink(directory, name="now"))
        self.reports = running.enter_context(Sink(directory, name="reports"))
        self.others = running.enter_context(Sink(directory, name="others"))
        others = f"{DEAD_HOST}]:{self._closed.port}" if down else f"127.0.0.1]:{self.others.port}"
        conf = CONF.format(
            later=self.later.port, now=self.now.port, reports=self.reports.port, others=others, retry=scale.retry_s, bounce=scale.bounce_s
        )
        self.engine = EngineProcess(directory / "engine", conf)
        running.callback(lambda: self.engine.stop(30) if self.engine.alive() else 0)
        self.engine.start()
        self._next_now = 0
        self._sources = 0

    def open_dead_host(self) -> str:
        """Let go of the address where nothing listened, and return it, so that somebody may: `IP:PORT`."""
        self._closed.close()
        return f"{DEAD_HOST}:{self._closed.port}"

    def close_dead_host(self) -> None:
        """Nothing listens there again."""
        self._closed.open()

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


class _Closed:
    """A port of DEAD_HOST that never listens: connections are refused, and nobody else gets it."""

    def __init__(self) -> None:
        self.port = 0
        self.open()

    def open(self) -> None:
        """Take it, the same one if it was open before."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((DEAD_HOST, self.port))
        self.port = self._socket.getsockname()[1]

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
