"""What a new owner of the spool finds: epochs whose workers may still resume, and files that no row names."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import lmdb

from engine.spool import format, wire
from engine.spool.files import SegmentFiles
from engine.spool.index import Tables


class Found(NamedTuple):
    """The state of the life before."""

    epochs: dict[int, tuple[int, list[tuple[int, str]]]]  # -> last operation applied, refusals that its worker may not have heard of


def examine(txn: lmdb.Transaction[bytes], tables: Tables) -> Found:
    """Read it."""
    epochs: dict[int, tuple[int, list[tuple[int, str]]]] = {}
    cursor = txn.cursor(tables.state)
    found = cursor.set_range(format.EPOCH_PREFIX)
    while found:
        key, value = cursor.item()
        if not key.startswith(format.EPOCH_PREFIX):
            break
        (last,) = format.EPOCH_ROW.unpack_from(value)
        refused = value[format.EPOCH_ROW.size :]
        epochs[format.U32.unpack(key[len(format.EPOCH_PREFIX) :])[0]] = (last, wire.decode_refusals(refused) if refused else [])
        found = cursor.next()
    return Found(epochs)


def remove_orphans(env: lmdb.Environment, tables: Tables, files: SegmentFiles, is_closed: Callable[[int], bool]) -> int:
    """Unlink the segments of closed epochs that no row names; how many there were.  What the tables say must be synced."""
    removed = 0
    with env.begin() as txn:
        for segment, _ in list(files.names()):
            if is_closed(segment[0]) and txn.get(format.SEGMENT_KEY.pack(*segment), db=tables.segment) is None:
                files.unlink(segment)
                removed += 1
    return removed
