"""A spool that no engine runs on: opened by who holds its lock, tidied, and its files made as small as what lives in them.

Whoever calls this holds the lock of the spool directory, so no worker lives: every epoch is closed, and nobody will name a new body.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from engine.errors import SpoolError, StartError
from engine.spool import format, index, recovery
from engine.spool.changes import Changes, Ledger
from engine.spool.compaction import Compactor
from engine.spool.files import SegmentFiles
from engine.spool.index import Tables

TRIM_ROWS = 10_000  # outbox rows deleted in one transaction
MARGIN_BYTES = 2 * format.SEGMENT_BYTES  # free space that a rewritten segment may take before the old one goes

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


class Compacted(NamedTuple):
    """What `compact` did."""

    index_before_bytes: int
    index_after_bytes: int
    bodies_before_bytes: int
    bodies_after_bytes: int
    orphans_removed: int
    segments_emptied: int
    segments_damaged: int  # left as they are: `check` names the messages in them


class Offline:
    """The open spool in *root*."""

    def __init__(self, root: Path, env: lmdb.Environment, tables: Tables) -> None:
        self.root = root
        self.env = env
        self.tables = tables
        self.files = SegmentFiles(root / format.BODIES)
        with env.begin() as txn:
            self.ledger = Ledger(txn, tables)

    def close_epochs(self) -> int:
        """Nobody resumes an epoch of the life before: seal their segments; how many there were."""
        with self.env.begin() as txn:
            prefix, size = format.EPOCH_PREFIX, len(format.EPOCH_PREFIX)
            rows = [key for key, _ in txn.cursor(self.tables.state) if key.startswith(prefix) and len(key) == size + format.U32.size]
            epochs = [int.from_bytes(key[size:], "big") for key in rows]
        if epochs:
            with self.changes() as changes:
                for epoch in epochs:
                    changes.close_epoch(epoch)
        return len(epochs)

    def remove_orphans(self) -> int:
        """Unlink the files that no row names; how many there were."""
        return recovery.remove_orphans(self.env, self.tables, self.files, lambda epoch: epoch < self.ledger.next_epoch)

    def trim(self) -> None:
        """Delete the records that the sinks have."""
        while self.ledger.outbox_first <= self.ledger.exported:
            with self.changes() as changes:
                changes.trim(TRIM_ROWS)

    def bodies_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(size for _, size in self.files.names())

    @contextmanager
    def changes(self) -> Iterator[Changes]:
        """Apply operations to it: committed at the end; the files in its `unlink` are empty then."""
        with self.env.begin(write=True) as txn:
            changes = Changes(txn, self.tables, self.ledger, self.ledger.stamp_ms)
            yield changes
            changes.finish()
        changes.adopt()


@contextmanager
def opened(root: Path) -> Iterator[Offline]:
    """The spool in *root*, open; the caller holds its lock.  StartError: there is none, or its index cannot be opened."""
    present(root)
    try:
        env, tables = index.open_for_writing(root)
    except (lmdb.Error, SpoolError) as error:
        raise StartError(f"spool {root}: its index cannot be opened: {error}") from error
    try:
        spool = Offline(root, env, tables)
        try:
            yield spool
        finally:
            spool.files.close()
    finally:
        env.close()


def present(root: Path) -> None:
    """StartError unless there is a spool in *root*."""
    for name in (format.MARKER, f"{format.INDEX}/{format.DATA}", format.BODIES):
        if not (root / name).exists():
            raise StartError(f"there is no spool in {root} (no {name}): see <spool> in the configuration, and --state-dir")


def compact(root: Path, progress: Progress = lambda what, done, total: None) -> Compacted:
    """Make the spool in *root* as small as what lives in it.  Whenever this is killed, the spool is whole.

    StartError: too little free space, and nothing was changed.  SpoolError: it could not be done; what was done up to there is sound.
    """
    shutil.rmtree(root / format.DRAFT, ignore_errors=True)  # of one that was killed
    try:
        with opened(root) as spool:
            index_before, bodies_before = _index_bytes(root), spool.bodies_bytes()
            _must_have_room(root, index_before)
            spool.close_epochs()
            orphans = spool.remove_orphans()
            spool.trim()
            emptied, damaged = _empty_segments(spool, progress)
            spool.close_epochs()  # the one that copies were written in
            orphans += spool.remove_orphans()
            bodies_after = spool.bodies_bytes()
            progress("copying the index", 0, 1)
            _copy_index(spool)
        _put_in_place(root)
        progress("copying the index", 1, 1)
    except (lmdb.Error, OSError, msgspec.DecodeError) as error:
        raise SpoolError(f"spool {root} cannot be compacted: {error}; it is whole, and `engine spool check` says more") from error
    finally:
        shutil.rmtree(root / format.DRAFT, ignore_errors=True)
    return Compacted(index_before, _index_bytes(root), bodies_before, bodies_after, orphans, emptied, damaged)


def _empty_segments(spool: Offline, progress: Progress) -> tuple[int, int]:
    """Rewrite the bodies of sparse segments; how many files that emptied, and how many are damaged and stay."""
    compactor = Compactor(spool.env, spool.tables, spool.ledger, spool.files)
    emptied = 0
    try:
        total = compactor.plan(1.0, 0)
        while compactor.busy:
            left, damaged = compactor.left, len(compactor.damaged)
            try:
                compactor.step()
            except SpoolError:
                compactor.give_up()
                if len(compactor.damaged) == damaged:
                    raise
                compactor.plan(1.0, 0)
                continue
            emptied += left - compactor.left
            progress("rewriting segments", total - compactor.left, total)
    finally:
        compactor.close()
    return emptied, len(compactor.damaged)


def _must_have_room(root: Path, index_bytes: int) -> None:
    found = os.statvfs(root)
    free, need = found.f_bavail * found.f_frsize, index_bytes + MARGIN_BYTES
    if free < need:
        raise StartError(f"spool {root}: {free >> 20} MB are free, and compacting needs {need >> 20} MB for a while; nothing was changed")


def _index_bytes(root: Path) -> int:
    return (root / format.INDEX / format.DATA).stat().st_size


def _copy_index(spool: Offline) -> None:
    """A copy without free pages in DRAFT: synced, and compared row by row."""
    draft = spool.root / format.DRAFT
    draft.mkdir(mode=0o700)
    spool.env.copy(str(draft), compact=True)
    (draft / format.DATA).chmod(0o600)
    descriptor = os.open(draft / format.DATA, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    copy = index.open_copy(draft)
    try:
        for name in format.TABLES:
            if not _same_rows(spool.env, copy, name):
                raise SpoolError(f"spool {spool.root}: the copy of its index differs in table {name.decode()}; the index is as it was")
    finally:
        copy.close()


def _same_rows(env: lmdb.Environment, copy: lmdb.Environment, name: bytes) -> bool:
    with env.begin(db=env.open_db(name, create=False)) as ours, copy.begin(db=copy.open_db(name, create=False)) as theirs:
        return all(one == other for one, other in zip_longest(ours.cursor(), theirs.cursor()))


def _put_in_place(root: Path) -> None:
    """Let the copy be the index: from one moment to the next, whatever happens."""
    os.replace(root / format.DRAFT / format.DATA, root / format.INDEX / format.DATA)
    format.sync_directory(root / format.INDEX)
