"""What the engine is compared with: a `Peer` may be missing here; otherwise it starts a `Daemon` that relays everything to one port on loopback."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.processes import Measured, Process

PEERS = Path(__file__).parent / "peers"
"""Configurations as committed; {...} in them are filled in for each run."""
FETCHED = Path(__file__).resolve().parent.parent / "var" / "peers"
"""Where `python -m bench.fetch` puts what must not be installed beside a running MTA."""
CONCURRENCY = 50
"""Connections out, the same for all."""


class PeerError(Exception):
    """A peer did not start; the text quotes what it said."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One program to compare with."""

    name: str
    missing: Callable[[], str | None]  # why it cannot run here
    version: Callable[[], str]
    start: Callable[[Path, int], Daemon]  # (a directory that does not exist yet, port of the sink) -> not started yet: use it with `with`


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_greeting(host: str, port: int, timeout_s: float, alive: Measured | None = None) -> bool:
    """Whether a 220 came from there within *timeout_s*; gives up at once when *alive* has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and (alive is None or alive.alive()):
        try:
            with socket.create_connection((host, port), timeout=2) as peer:
                greeting = peer.recv(512)
                if greeting.startswith(b"220"):
                    peer.sendall(b"QUIT\r\n")
                    peer.recv(512)
                    return True
        except OSError:
            pass  # not listening yet, or a listener that is being replaced: asked again until the deadline
        time.sleep(0.02)
    return False


def library_path(directory: Path) -> str:
    """LD_LIBRARY_PATH for a Debian package that was unpacked at *directory*."""
    return ":".join(str(path) for path in sorted(directory.glob("usr/lib/*-linux-*")))


def fill(source: Path, target: Path, values: Mapping[str, object]) -> None:
    """Write *source* to *target*, with each `{key}` of *values* replaced; other braces stay."""
    text = source.read_text()
    for key, value in values.items():
        text = text.replace("{" + key + "}", str(value))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def open_to_others(directory: Path) -> None:
    """Let other users through to *directory*, as far as its parents are ours: peers drop root and have to get there."""
    for path in (directory, *directory.parents):
        if path != Path("/") and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)


class Daemon:
    """One peer running: `with Daemon(...) as daemon: daemon.port`.  Subclasses say how it is configured, started and asked to stop."""

    start_timeout_s = 30.0

    def __init__(self, directory: Path, relay_port: int = 0) -> None:
        self.directory = directory.resolve()
        self.relay_port = relay_port
        self.port = free_port()
        self.measured: Measured

    def configure(self) -> Sequence[str]:
        """Write its files below `directory`, which exists; the command that stays in the foreground."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Of its command."""
        return dict(os.environ)

    def ask_to_stop(self) -> None:
        """Before SIGTERM is sent to the command."""

    def said(self) -> str:
        """The ends of what it wrote, for an error message."""
        logs = [self.directory / "start.log", *sorted(self.directory.glob("log*")), *sorted(self.directory.glob("log/*"))]
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in logs if path.is_file())

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        open_to_others(self.directory)
        command = self.configure()
        self.measured = Measured(
            command, report=self.directory / "usage.json", log=self.directory / "start.log", environment=self.environment(), cgroup=True
        )
        if not wait_for_greeting("127.0.0.1", self.port, self.start_timeout_s, self.measured):
            self.stop()
            raise PeerError(f"{type(self).__name__} did not greet within {self.start_timeout_s:.0f} s:\n{self.said()}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def processes(self) -> list[Process]:
        """All of its living processes."""
        return self.measured.processes()

    def used_us(self) -> int:
        """CPU time of all its processes so far."""
        return self.measured.used_us()

    def cpu_by_role(self) -> dict[str, int]:
        """The same split, in ticks."""
        return self.measured.cpu_by_role()

    def stop(self) -> int:
        """End it; CPU time of all of it, start and stop included."""
        if self.measured.alive():
            self.ask_to_stop()
        return self.measured.close(20)["cpu_us"]
