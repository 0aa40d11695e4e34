"""The spool directory's owner: one engine at a time, told by a lock that every process inherits.

The lock is flock's, so it belongs to the open file: it is free only when the supervisor and every child that it ever started are gone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from engine.errors import StartError

SUPERVISOR = "supervisor"  # its role in the record
LOCK = "lock"
RUN = "run"
PIDS = "pids"
CONTROL_SOCKET = "control.sock"
SPOOL_SOCKET = "spool.sock"
SOCKET_PATH_BYTES = 107  # sun_path
MARK = b"engine spool\n"
WAIT_FOR_SURVIVORS_S = 3.0
WAIT_FOR_KILLED_S = 10.0


def claim(path: str, wait_s: float = WAIT_FOR_SURVIVORS_S) -> int:
    """The descriptor that holds the lock on the spool directory *path*.

    Waits for what a killed supervisor left to end by itself, then ends it, if it is recorded and surely ours.  StartError: an engine is running
    here, survivors would not end, or the directory belongs to something else.
    """
    refuse_foreign(path)
    fd = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _lock(fd):
            _outlive(path, fd, wait_s)
        os.pwrite(fd, MARK, 0)
        os.fsync(fd)  # before anything else lies here: without its mark the directory would be foreign after a power cut
        sync_directory(path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def refuse_foreign(path: str) -> None:
    """StartError for a directory that is neither empty nor a spool of ours."""
    names = set(os.listdir(path)) - {"lost+found"}
    if not names:
        return
    try:
        mark = Path(path, LOCK).read_bytes()
    except OSError:
        mark = b"?"
    if mark != MARK and not (mark.strip(b"\0") == b"" and names <= {LOCK}):  # a power cut before it was synced may leave nothing or zeros
        raise StartError(f"spool {path}: the directory is not empty and not a spool of this engine; nothing in it was touched: give an empty one")


def sync_directory(path: str) -> None:
    """Make the names in *path* durable: what is promised inside a directory is worth no more than its name."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _outlive(path: str, fd: int, wait_s: float) -> None:
    """Get the lock that others hold, or raise StartError."""
    if _lock_within(fd, _survivors(path), wait_s):
        return
    survivors = _survivors(path)
    for pid in survivors:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if _lock_within(fd, survivors, WAIT_FOR_KILLED_S if survivors else wait_s):
        return
    raise StartError(f"another process holds the lock on the spool {path} and is not one that we may end: see `fuser {path}/{LOCK}`")


def _survivors(path: str) -> list[int]:
    """Recorded children that outlive their supervisor; StartError if it lives too."""
    others = recorded(path)
    for role, pid in others:
        if role == SUPERVISOR:
            raise StartError(f"an engine is already running on the spool {path} (supervisor pid {pid}): stop it first (engine stop)")
    return [pid for _, pid in others]


def _lock_within(fd: int, pids: Iterable[int], wait_s: float) -> bool:
    """Whether the lock could be had within *wait_s*; wakes up when one of *pids* ends."""
    deadline = time.monotonic() + wait_s
    watched = []
    for pid in pids:
        try:
            watched.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    try:
        while not _lock(fd):
            if time.monotonic() >= deadline:
                return False
            ended, _, _ = select.select(watched, [], [], 0.05)
            for gone in ended:
                watched.remove(gone)
                os.close(gone)
        return True
    finally:
        for watching in watched:
            os.close(watching)


def record(path: str, processes: Iterable[tuple[str, int]]) -> None:
    """Write down who we are, [(role, pid)], so that a later start can end what is left of us."""
    rows = [{"role": role, "pid": pid, "start": start_time(pid)} for role, pid in processes]
    run = os.open(os.path.join(path, RUN), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fd = os.open(PIDS + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=run)
        try:
            data = json.dumps(rows).encode()
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
        os.replace(PIDS + ".new", PIDS, src_dir_fd=run, dst_dir_fd=run)
    finally:
        os.close(run)


def recorded(path: str) -> list[tuple[str, int]]:
    """[(role, pid)] of the recorded processes that still live and are still the same ones."""
    try:
        rows = json.loads(Path(path, RUN, PIDS).read_text())
        claimed = [(str(row["role"]), int(row["pid"]), int(row["start"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):  # none, or torn by a power cut: then nothing of it lives
        return []
    return [(role, pid) for role, pid, start in claimed if pid > 1 and start and start_time(pid) == start and _is_ours(path, pid)]


def start_time(pid: int) -> int:
    """When process *pid* began, in clock ticks since boot; 0 if there is none, or only its zombie.  With the pid it names a process for good."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if after_name[0] in "ZX" else int(after_name[19])


def _is_ours(path: str, pid: int) -> bool:
    """Whether *pid* looks like an engine and has the lock open: the record alone is not enough to kill a process."""
    try:
        if b"engine" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        lock = os.stat(os.path.join(path, LOCK))
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            return any(_is_file(descriptor.path, lock) for descriptor in descriptors)
    except OSError:
        return False


def _is_file(descriptor: str, file: os.stat_result) -> bool:
    try:
        found = os.stat(descriptor)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)


def control_socket(path: str) -> str:
    """Where the supervisor of the spool *path* answers."""
    return os.path.join(path, RUN, CONTROL_SOCKET)
