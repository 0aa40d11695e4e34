"""All that is decided before the first child starts, or by the program whose place this one takes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.clock import monotonic_s
from engine.supervisor.certificates import Certificates
from engine.supervisor.configuration import Options
from engine.supervisor.generation import Generation
from engine.supervisor.others import Others
from engine.supervisor.slots import Slot, Timing


def lifeline() -> tuple[int, int]:
    """(read end, write end) of a new pipe: children have the one, and end when nobody has the other any more."""
    return os.pipe2(os.O_CLOEXEC)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a Supervisor runs; a reload changes slots and generation."""

    slots: list[Slot]  # in start order
    generation: Generation  # the configuration in force
    options: Options
    modules: dict[str, str]  # whose run() is a role
    workers: Callable[[int, int], tuple[int, int]]
    rows: int  # of counters and heartbeats
    lock_fd: int
    counters_fd: int
    door_fd: int
    heartbeat_fd: int
    certificates: Certificates
    spool_path: str  # the first spool: with the sockets that answer questions, and all that delivers
    others: Others
    spool_listener: socket.socket
    control_listener: socket.socket
    log_path: str
    log_mode: int = 0o640
    uid: int = -1
    gid: int = -1
    timing: Timing = field(default_factory=Timing)
    lifeline: tuple[int, int] = field(default_factory=lifeline)
    born_s: float = field(default_factory=monotonic_s)  # when the engine began, whichever program has become its supervisor since

    @property
    def shutdown_timeout_s(self) -> float:
        """How long a stop waits, and every process that a reload replaces."""
        return self.generation.config.server.shutdown_timeout_s

    @property
    def listening(self) -> list[str]:
        """Where the engine listens: `127.0.0.1:25`."""
        return [f"{address}:{port}" for address, port in self.generation.listening]
