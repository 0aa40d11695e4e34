"""The LMDB environment of a spool: opened the one right way, by its owner for writing and by everybody else for reading."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import lmdb._envid  # by itself it would come with the first environment: too late for a worker that has become a user who may not read it

from engine.errors import SpoolError, StartError
from engine.spool import format

DAMAGED = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
ADVICE = "stop the engine; engine spool check says what is left"
_OPEN_TRIES = 20  # "opening can fail if another process opens or closes at the same moment" (lmdb.h)
_OPEN_PAUSE_S = 0.05


class Tables:
    """Handles of the tables, by name."""

    __slots__ = ("due", "message", "meta", "outbox", "queue", "queue_name", "segment", "state")

    def __init__(self, handle: Callable[[bytes], Any]) -> None:
        self.message = handle(b"message")
        self.queue = handle(b"queue")
        self.queue_name = handle(b"queue_name")
        self.due = handle(b"due")
        self.segment = handle(b"segment")
        self.outbox = handle(b"outbox")
        self.state = handle(b"state")
        self.meta = handle(b"meta")


def open_for_writing(path: Path, map_size_bytes: int = format.MAP_SIZE_BYTES) -> tuple[lmdb.Environment, Tables]:
    """The environment in *path*/index and its tables, created if new, its version checked; StartError for one of another format
    or with damaged pages.

    What the last owner committed is synced before this returns: it may have been killed between writing and syncing.
    """
    shutil.rmtree(path / format.DRAFT, ignore_errors=True)  # of somebody who was killed
    if not (path / format.INDEX / format.DATA).exists():
        _make(path, map_size_bytes)
    env = _open(path / format.INDEX, map_size_bytes, readonly=False)
    try:
        with env.begin(write=True) as txn:
            tables = Tables(lambda name: env.open_db(name, txn=txn))
            _check_version(path, txn, tables)
        env.sync(True)
        format.sync_directory(path / format.INDEX)  # LMDB syncs its file, never the file's name
    except DAMAGED as error:
        env.close()
        raise StartError(f"spool {path}: its index is damaged: {error}; {ADVICE}") from error
    except BaseException:
        env.close()
        raise
    return env, tables


def open_for_reading(path: Path, map_size_bytes: int = format.MAP_SIZE_BYTES) -> tuple[lmdb.Environment, Tables]:
    """The same, read-only; SpoolError if the spool process has not made it yet or its format is another."""
    env = _open(path / format.INDEX, map_size_bytes, readonly=True)
    try:
        tables = Tables(lambda name: env.open_db(name, create=False))
        with env.begin() as txn:
            version = txn.get(format.VERSION, db=tables.meta)
        if version is None or format.U32.unpack(version)[0] != format.FORMAT_VERSION:
            raise SpoolError(f"spool {path}: its index has another format than {format.FORMAT_VERSION}")
    except lmdb.Error as error:
        env.close()
        raise SpoolError(f"spool {path} has no index yet: {error}") from error
    except BaseException:
        env.close()
        raise
    return env, tables


def reading(env: lmdb.Environment) -> list[tuple[int, int]]:
    """(process id, number of the transaction that it sees) of each reader of *env* that reads now."""
    rows = [line.split() for line in env.readers().splitlines()[1:]]  # pid, thread, transaction or "-"
    return [(int(row[0]), int(row[2])) for row in rows if len(row) == 3 and row[2].isdigit()]


def open_copy(directory: Path) -> lmdb.Environment:
    """An environment in *directory* that nobody else knows of, read-only and without a lock file."""
    return lmdb.open(
        str(directory), lib_version=0, map_size=format.MAP_SIZE_BYTES, max_dbs=len(format.TABLES), readonly=True, create=False, lock=False
    )


def _make(path: Path, map_size_bytes: int) -> None:
    """A new index, which appears whole: LMDB refuses for ever what a power cut leaves of its first two pages."""
    draft = path / format.DRAFT
    draft.mkdir(mode=0o700)
    env = _open(draft, map_size_bytes, readonly=False)
    with env, env.begin(write=True) as txn:  # synced with the commit
        _check_version(path, txn, Tables(lambda name: env.open_db(name, txn=txn)))
    os.replace(draft / format.DATA, path / format.INDEX / format.DATA)
    shutil.rmtree(draft)


def _open(directory: Path, map_size_bytes: int, *, readonly: bool) -> lmdb.Environment:
    for attempt in range(_OPEN_TRIES):
        try:
            env = lmdb.open(
                str(directory),
                lib_version=0,
                map_size=map_size_bytes,
                max_readers=format.MAX_READERS,
                max_dbs=len(format.TABLES),
                readonly=readonly,
                create=not readonly,
                mode=0o600,
                readahead=False,
                metasync=True,
                sync=True,
            )
        except lmdb.Error as error:
            if attempt == _OPEN_TRIES - 1:
                raise SpoolError(f"spool index {directory} cannot be opened: {error}") from error
            time.sleep(_OPEN_PAUSE_S)
            continue
        if env.lib_version()[:2] != (0, 9):
            version = env.lib_version()
            env.close()
            raise StartError(f"spool index {directory}: LMDB {version} opened it, 0.9 is needed")
        return env
    raise AssertionError("unreachable")


def _check_version(path: Path, txn: lmdb.Transaction[bytes], tables: Tables) -> None:
    version = txn.get(format.VERSION, db=tables.meta)
    if version is None:
        if txn.stat(tables.message)["entries"] or txn.stat(tables.state)["entries"]:
            raise StartError(f"spool {path}: its index has no format version")
        txn.put(format.VERSION, format.U32.pack(format.FORMAT_VERSION), db=tables.meta)
        txn.put(format.SHARD, format.U16.pack(0), db=tables.meta)
        return
    found = format.U32.unpack(version)[0]
    if found != format.FORMAT_VERSION:
        raise StartError(f"spool {path}: its index has format {found}, this engine reads and writes format {format.FORMAT_VERSION}")
