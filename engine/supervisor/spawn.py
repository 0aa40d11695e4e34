"""Starts a child: fork and exec of a fresh interpreter, since neither a loop nor LMDB may cross a bare fork."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from engine.process import Birth


def memory_file(name: str, content: bytes) -> int:
    """A descriptor of a memory file with *content*, closed on exec."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, len(content))
    os.pwrite(fd, content, 0)
    return fd


def spawn(birth: Birth) -> int:
    """The process id of a new child that was given *birth* and its descriptors, and no others.  OSError if there can be none now."""
    birth_fd = memory_file("birth", birth.encode())
    inherited = [birth_fd, birth.config_fd, birth.lifeline_fd, birth.lock_fd, birth.counters_fd, birth.heartbeat_fd, birth.tls_fd]
    inherited += [birth.door_fd, birth.spool_listener_fd, birth.source_lock_fd]
    inherited = [fd for fd in inherited + [listening.fd for listening in birth.sockets] if fd >= 0]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))  # exactly what we ourselves run from
    try:
        return start_program([sys.executable, "-P", "-m", "engine.supervisor.child", str(birth_fd), birth.name], environment, inherited)
    finally:
        os.close(birth_fd)


def start_program(arguments: list[str], environment: Mapping[str, str], inherited: Sequence[int], output: int = -1) -> int:
    """The process id of *arguments* with the descriptors *inherited*; what it says goes to *output*, or where ours does.  OSError."""
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    if output >= 0:
        actions += [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    try:
        for fd in inherited:
            os.set_inheritable(fd, True)
        return os.posix_spawn(
            arguments[0],
            arguments,
            environment,
            file_actions=actions,
            setpgroup=0,  # a terminal's interrupt is for the supervisor alone
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE],
        )
    finally:
        for fd in inherited:
            os.set_inheritable(fd, False)
