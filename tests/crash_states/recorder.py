"""Runs a program under the shim and reads back what it did to its files, call by call."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tests.crash_states.disk import Disk, Tree, Write

HEAD = struct.Struct("=BBHHHQQQ")
MARK = "M"
# What no promise rests on: the log, the socket, LMDB's table of readers (it is made anew), space that is only reserved.
IGNORED = {"log", "socket", "lock.mdb", "ballast"}
RUN_WITHIN_S = 300.0
REPOSITORY = Path(__file__).resolve().parents[2]


class Event(NamedTuple):
    """One call that succeeded, or a mark that the program made itself."""

    kind: str  # as in shim.c; "M": a mark
    path: str  # below the root
    other: str
    synced: bool
    inode: int
    offset: int
    data: bytes


def run(directory: Path, module: str, arguments: Sequence[str], *, die_at: int = 0) -> Path:
    """Run *module* with directory/root and *arguments* under the shim; the record that it left, or went on with.

    *die_at*: kill it when it has made so many calls more.  Raises if it fails.
    """
    root, record, library = directory / "root", directory / "record", directory / "shim.so"
    root.mkdir(parents=True, exist_ok=True)
    if not library.exists():
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("shim.c"), "-ldl"], check=True)
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "CRASH_ROOT": str(root),
        "CRASH_RECORD": str(record),
        "CRASH_DIE_AT": str(die_at),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run([sys.executable, "-m", module, str(root), *arguments], env=environment, timeout=RUN_WITHIN_S, cwd=REPOSITORY)
    if done.returncode != (-signal.SIGKILL if die_at else 0):
        raise RuntimeError(f"{module} ended with {done.returncode}")
    return record


def mark(text: bytes) -> None:
    """Put *text* into the record, from within the program that is recorded."""
    descriptor = os.open(os.environ["CRASH_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        data = HEAD.pack(ord(MARK), 0, 0, 0, 0, 0, 0, len(text)) + text
        assert os.write(descriptor, data) == len(data)
    finally:
        os.close(descriptor)


def read(record: Path, root: Path) -> Iterator[Event]:
    """What the record says, in order; AssertionError for a call that the model has no meaning for."""
    data = record.read_bytes()
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        assert at <= len(data), "the record ends inside a call"
        return data[at - size : at]

    while at < len(data):
        kind, synced, path_bytes, other_bytes, _, inode, offset, data_bytes = HEAD.unpack(take(HEAD.size))
        path, other, contents = take(path_bytes).decode(), take(other_bytes).decode(), take(data_bytes)
        if kind == ord(MARK):
            yield Event(MARK, "", "", False, 0, 0, contents)
            continue
        path = path.removesuffix(" (deleted)")
        if PurePosixPath(path).name in IGNORED:
            continue
        assert chr(kind) != "?", f"{other} of {path} is not in the model"
        below = os.path.relpath(path, root)
        yield Event(chr(kind), below, os.path.relpath(other, root) if other else "", bool(synced), inode, offset, contents)


def apply(disk: Disk, event: Event) -> Write | None:
    """Let *event* happen on *disk*; a synchronous write is pending until `Disk.complete`, and is returned."""
    path = PurePosixPath(event.path)
    if event.kind in "WTS" and not disk.is_directory(path):
        disk.know(event.inode, path)
    if event.kind == "W":
        write = disk.write(event.inode, event.offset, event.data)
        return write if event.synced else None
    if event.kind == "T":
        disk.write(event.inode, event.offset, None)
    elif event.kind == "S":
        if disk.is_directory(path):
            disk.sync_directory(path)
        else:
            disk.sync(event.inode)
    elif event.kind == "C":
        disk.create(path, event.inode)
    elif event.kind == "D":
        disk.make_directory(path)
    elif event.kind in "U-":
        disk.remove(path)
    elif event.kind == "R":
        disk.rename(path, PurePosixPath(event.other))
    else:
        assert event.kind == MARK, event.kind
    return None


def tree_of(root: Path) -> Tree:
    """What lies in *root*, without what is ignored."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*")) if path.name not in IGNORED
    }
