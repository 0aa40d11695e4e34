"""The load pair as Python objects: start a Sink, run a Source at something, join what both know."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.build import binary


class LoadError(Exception):
    """The source or the sink did not do its part; the text quotes what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load: N messages of so many bytes over S sessions, R recipients each over D domains."""

    messages: int = 20_000
    size_bytes: int = 10_240
    sessions: int = 50
    threads: int = 2  # of the source, at most one a session: a single loop is a queue of its own, before whatever is measured
    recipients: int = 1
    domains: int = 1
    pipeline: bool = False
    per_connection: int = 1
    smtp_source: bool = False  # Debian's instead of ours
    retry: bool = False  # new numbers until so many are accepted: for runs with kills
    deadline_s: int = 600
    headers: tuple[str, ...] = ()
    rate: int = 0  # messages a second, 0: as fast as they go
    seconds: float = 0  # begin no more after so long; 0: all messages
    domain_suffix: str = ".example"


def _counters(path: Path, count: int) -> tuple[int, ...]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return (0,) * count
    return struct.unpack(f"={count}Q", data) if len(data) == 8 * count else (0,) * count


class Sink:
    """bench/bin/sink on loopback; `with Sink(directory) as sink: sink.ports`."""

    def __init__(
        self, directory: Path, *, listen: Sequence[str] = ("127.0.0.1:0",), replies: Mapping[str, str] | None = None,
        delays_ms: Mapping[str, int] | None = None, max_connections: int = 0, name: str = "sink",
    ) -> None:  # fmt: skip
        self._path = directory / name
        self._options = [f"--listen={address}" for address in listen]
        self._options += [f"--reply={stage}={text}" for stage, text in (replies or {}).items()]
        self._options += [f"--delay={stage}={milliseconds}" for stage, milliseconds in (delays_ms or {}).items()]
        if max_connections:
            self._options.append(f"--max-connections={max_connections}")
        self.ports: list[int] = []

    def _file(self, kind: str) -> Path:
        return self._path.with_suffix(f".{kind}")

    def __enter__(self) -> Self:
        files = [f"--{kind}={self._file(kind)}" for kind in ("counts", "times", "summary", "live", "control")]
        self._process = subprocess.Popen([str(binary("sink")), *self._options, *files], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("listening "):
                self.ports.append(int(line.rpartition(":")[2]))
            elif line == "ready\n":
                return self
        raise LoadError(f"the sink ended at start with status {self._process.wait(10)}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The first listener's."""
        return self.ports[0]

    @property
    def pid(self) -> int:
        """The sink's process."""
        return self._process.pid

    def received(self) -> tuple[int, int, int]:
        """(messages, recipients, distinct recipients) so far, without disturbing it."""
        messages, recipients, distinct = _counters(self._file("live"), 3)
        return messages, recipients, distinct

    def command(self, line: str) -> None:
        """One line to its control FIFO: accept, refuse, reply STAGE CODE TEXT, report."""
        with self._file("control").open("w") as fifo:
            fifo.write(line + "\n")

    def summary(self) -> dict[str, Any]:
        """Its report, fresh while it runs (10 s), the last one afterwards."""
        target = self._file("summary")
        if self._process.poll() is None:
            target.unlink(missing_ok=True)
            self._process.send_signal(signal.SIGUSR1)
            deadline = time.monotonic() + 10
            while not target.exists():
                if time.monotonic() > deadline:
                    raise LoadError("the sink did not report within 10 s")
                time.sleep(0.005)
        found: dict[str, Any] = json.loads(target.read_text())
        return found

    def counts(self) -> bytes:
        """How often each recipient number came (capped at 255); as of the last report."""
        return self._file("counts").read_bytes()

    def times_us(self) -> array[int]:
        """Monotonic microseconds of each recipient's first arrival, 0 where none came; as of the last report."""
        times = array("q")
        times.frombytes(self._file("times").read_bytes())
        return times

    def stop(self) -> None:
        """SIGTERM and wait; its reports stay readable."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)
        if self._process.stdout:
            self._process.stdout.close()


class Source:
    """One run of a load towards 127.0.0.1:*port*, started at once; `finish()` waits for its figures."""

    def __init__(
        self, load: Load, port: int, directory: Path, *, host: str = "127.0.0.1", name: str = "source", first: int = 0, bind: Sequence[str] = ()
    ) -> None:
        self.load, self._path, self._started = load, directory / name, time.monotonic()
        if load.smtp_source:
            command = [
                "smtp-source", "-c", "-s", str(load.sessions), "-l", str(load.size_bytes), "-m", str(load.messages), "-r", str(load.recipients), "-N",
                "-f", "bench@source.example", "-t", "u@d0.example", "-M", "source.example", f"{host}:{port}",
            ]  # fmt: skip
        else:
            self._path.with_suffix(".live").unlink(missing_ok=True)
            command = [str(binary("source")), f"--to={host}:{port}", f"--first={first}"]
            command += [f"--times={self._path.with_suffix('.times')}", f"--live={self._path.with_suffix('.live')}"]
            command += [f"--messages={load.messages}", f"--size={load.size_bytes}", f"--sessions={load.sessions}", f"--recipients={load.recipients}"]
            command += [f"--domains={load.domains}", f"--per-connection={load.per_connection}", f"--deadline={load.deadline_s}"]
            command += [f"--threads={load.threads}"]
            command += [f"--rate={load.rate}"] * bool(load.rate) + [f"--domain-suffix={load.domain_suffix}"]
            command += ["--pipeline"] * load.pipeline + ["--retry"] * load.retry
            command += [f"--header={header}" for header in load.headers] + [f"--bind={address}" for address in bind]
        self._output = self._path.with_suffix(".out")
        with self._output.open("wb") as out, self._path.with_suffix(".errors").open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=out, stderr=errors)

    def running(self) -> bool:
        """Whether it still sends; leaves it to `finish` to reap it, which reads its CPU time."""
        return self._process.returncode is None and os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def accepted(self) -> int:
        """Messages acknowledged so far (smtp-source: the counter that it prints)."""
        if not self.load.smtp_source:
            return _counters(self._path.with_suffix(".live"), 2)[0]
        shown = self._output.read_bytes()[-32:].decode("ascii", "replace").replace("\r", " ").split()
        return int(shown[-1]) if shown and shown[-1].isdigit() else 0

    def interrupt(self) -> None:
        """Begin nothing more; `finish` has the figures of what was."""
        if self.running():
            self._process.terminate()

    def stop(self) -> None:
        """End it early."""
        if self.running():
            self._process.terminate()
            self._process.wait(30)

    def finish(self, timeout_s: float) -> Sent:
        """Its figures, once it has ended; LoadError if it never does or cannot say."""
        try:
            _, status, used = self._wait(timeout_s)
        except TimeoutError:
            self.stop()
            raise LoadError(f"the source did not end within {timeout_s:.0f} s") from None
        seconds = time.monotonic() - self._started
        said = self._path.with_suffix(".errors").read_text(errors="replace").strip()
        if self.load.smtp_source:
            if status:
                raise LoadError(f"smtp-source: status {status}: {said[-500:]}")
            return Sent(self.load.messages, 0, seconds, used, None, {}, None)
        text = self._output.read_text().strip()
        if not text:
            raise LoadError(f"source: status {status}: {said[-500:]}")
        report = json.loads(text)
        times = array("q")
        times.frombytes(self._path.with_suffix(".times").read_bytes())
        return Sent(report["accepted"], report["failed"], report["seconds"], report["cpu_us"], report["accept_us"], report["errors"], times)

    def _wait(self, timeout_s: float) -> tuple[int, int, int]:
        """(pid, status, CPU microseconds); polls, because wait4 has no deadline."""
        deadline = time.monotonic() + timeout_s
        while True:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                return pid, self._process.returncode, round((usage.ru_utime + usage.ru_stime) * 1e6)
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a source knows when it has ended."""

    accepted: int
    failed: int
    seconds: float
    cpu_us: int
    accept_us: dict[str, int] | None  # count, p50, p99, max from the last body byte to the reply; smtp-source does not say
    errors: dict[str, int]
    accept_times_us: array[int] | None  # by message number: monotonic us of the 250, 0: never acknowledged


@dataclass(frozen=True, slots=True)
class Balance:
    """Source and sink joined: what was acknowledged against what arrived, by recipient."""

    lost: int  # acknowledged, never arrived
    duplicate: int  # arrivals beyond the first
    unacknowledged: int  # arrived, though the source never saw a 250 (its connection broke first)
    latency_us: dict[str, int] = field(default_factory=dict)  # p50, p99, max from 250 to the first arrival; empty for smtp-source


def balance(load: Load, sent: Sent, counts: bytes, arrived_us: Sequence[int], first: int = 0) -> Balance:
    """Compare by recipient number; *first* is the number that the source began with."""
    duplicate = sum(counts) - (len(counts) - counts.count(0))
    if sent.accept_times_us is None:
        return Balance(max(0, sent.accepted * load.recipients - (len(counts) - counts.count(0))), duplicate, 0)
    lost = unacknowledged = 0
    latencies = []
    for offset, accepted_us in enumerate(sent.accept_times_us):
        start = (first + offset) * load.recipients
        for number in range(start, start + load.recipients):
            arrived = arrived_us[number] if number < len(arrived_us) else 0
            if accepted_us and arrived:
                latencies.append(max(0, arrived - accepted_us))
            elif accepted_us:
                lost += 1
            elif arrived:
                unacknowledged += 1
    latencies.sort()
    return Balance(lost, duplicate, unacknowledged, percentiles(latencies))


def percentiles(ordered: Sequence[int]) -> dict[str, int]:
    """{"p50", "p99", "max"} of an ascending sequence; {} of an empty one."""
    if not ordered:
        return {}
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) - 1 - len(ordered) // 100], "max": ordered[-1]}
