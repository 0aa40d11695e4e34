"""How a spool beside the first one is told from all others: by its name in the first one's marks, and by the ids that it gives."""

from __future__ import annotations

import os

import lmdb

from engine.spool import format
from engine.spool.changes import Ledger
from engine.spool.index import Tables

NAME_BYTES = 8


def ensure(env: lmdb.Environment, tables: Tables, ledger: Ledger) -> None:
    """Give the spool its name, and one that has never given an id a shard of its own, durably, before the first worker is welcomed.

    Its shard is a random one: message ids of two spools are to differ, for whoever looks for them, and nothing breaks where they do not.
    """
    with env.begin(write=True, db=tables.meta) as txn:
        if txn.get(format.NAME) is None:
            txn.put(format.NAME, os.urandom(NAME_BYTES))
        if ledger.next_epoch == 1 and not ledger.shard:
            ledger.shard = 1 + int.from_bytes(os.urandom(2), "big") % 0xFFFF
            txn.put(format.SHARD, ledger.shard.to_bytes(2, "big"))


def forget(env: lmdb.Environment, tables: Tables) -> None:
    """The spool is a first one from now on, durably: what was moved out of it before says nothing of the rows that it writes from here.

    A wall clock that steps back makes retries whose keys lie below the mark of those that were moved; under its old name they would count as moved.
    """
    with env.begin(write=True, db=tables.meta) as txn:
        txn.delete(format.NAME)
