"""One state of the disk: opened, compared with what it may be, put to work, and looked at again."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import msgspec

from engine.errors import EngineError
from engine.spool import format, index
from engine.spool.check import check
from engine.spool.space import Space
from engine.supervisor import ground, spooldir
from tests.crash_states.disk import Tree
from tests.crash_states.history import Tables
from tests.spool.stepping import Spool, Worker, accept, settle

MAP_SIZE_BYTES = 1 << 30
DATA = "spool/index/data.mdb"
NEW: Tables = {name: {} for name in index.Tables.__slots__} | {  # of a spool that was just made
    "meta": {format.SHARD: format.U16.pack(0), format.VERSION: format.U32.pack(format.FORMAT_VERSION)}
}


def write_tree(root: Path, tree: Tree) -> None:
    """Make *tree* real in *root*."""
    root.mkdir(parents=True, exist_ok=True)
    for path, contents in tree.items():
        if contents is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(contents)


def read_tables(env: lmdb.Environment, tables: index.Tables) -> Tables:
    """All rows."""
    with env.begin() as txn:
        return {name: dict(txn.cursor(getattr(tables, name))) for name in tables.__slots__}


def tables_of(data: bytes) -> Tables:
    """All rows of an index that is whole."""
    with tempfile.TemporaryDirectory(prefix="crash-state-", dir=scratch()) as name:
        (Path(name) / "data.mdb").write_bytes(data)
        with index.open_copy(Path(name)) as env:
            return read_tables(env, index.Tables(lambda table: env.open_db(table, create=False)))


def digest(tables: Tables) -> bytes:
    """Equal for equal rows."""
    return hashlib.blake2b(repr([sorted(rows.items()) for rows in tables.values()]).encode(), digest_size=16).digest()


def scratch() -> str | None:
    """Where lives are recorded and states are built: $TMPDIR, or in memory if there is such a place, since the disk is the model's."""
    return None if os.environ.get("TMPDIR") or not os.access("/dev/shm", os.W_OK) else "/dev/shm"


def problems(root: Path, allowed: set[bytes], *, fresh: bool) -> Iterator[str]:
    """What is wrong with the spool in *root* after a power cut; nothing, as it should be.

    *allowed*: digests of the tables that may be found; *fresh*: there need not be any spool yet.
    """
    if not fresh:
        for problem in check(root / "spool"):
            if problem.kind != "orphan":
                yield f"as found: {problem}"
    try:
        with started(root) as spool:
            if digest(read_tables(spool.service.env, spool.service.tables)) not in allowed:
                yield "the tables are of no moment before the power cut"
            yield from at_work(spool)
            spool.service.close()
    except (EngineError, lmdb.Error, msgspec.MsgspecError, struct.error, OSError, ValueError, LookupError, AssertionError) as error:
        yield f"it does not open or work: {type(error).__name__}: {error}"
        return
    for problem in check(root / "spool"):
        yield f"after work: {problem}"
    yield from foreign_files(root / "spool")


def foreign_files(spool: Path) -> Iterator[str]:
    """Files that no recovery left and none will remove."""
    names = {path.name for path in spool.iterdir()} - {"lock", format.MARKER, format.INDEX, format.BODIES, format.BALLAST}
    names |= {path.name for path in (spool / format.BODIES).iterdir() if format.parse_segment_name(path.name) is None}
    if names:
        yield f"there are files of other names: {sorted(names)}"


@contextmanager
def started(root: Path) -> Iterator[Spool]:
    """The engine's spool, as at a start."""
    ground.directory(str(root / "spool"), 0o700, -1, -1, "spool")
    lock = spooldir.claim(str(root / "spool"))
    try:
        format.claim(root / "spool", lock)
        spool = Spool(root, space=Space(root / "spool", 1, 4096), map_size_bytes=MAP_SIZE_BYTES)
        try:
            yield spool
        finally:
            spool.listener.close()
            spool.log.close()
    finally:
        os.close(lock)


def at_work(spool: Spool) -> Iterator[str]:
    """Nobody resumes; then a new worker's message is taken and settled, and one stays."""
    spool.service._resume_until_s = 0.0
    spool.step(3)
    rows = {format.segment_name(*format.SEGMENT_KEY.unpack(key)) for key in spool.table("segment")}
    if set(spool.files()) != rows:
        yield f"files that nobody needs are left: {sorted(set(spool.files()) - rows)}; missing: {sorted(rows - set(spool.files()))}"
    waiting = len(spool.rows())
    worker = Worker(spool)
    worker.writer_ = worker.writer()
    identities = [worker.new_id(), worker.new_id()]
    accepts = [accept(identity, worker.writer_.write(identity, [b"after the power cut\r\n"]), "new.example/v") for identity in identities]
    if worker.do(*accepts) != [None, None]:
        yield f"new mail is refused: {worker.refused}"
        return
    keys = [key for key, _ in spool.rows() if key[13:25] in identities]
    if worker.do(settle(keys[0])) != [None] or len(spool.rows()) != waiting + 1:
        yield "a new message's outcome is not taken"
    worker.writer_.close()
    worker.close()
