"""What the other processes tell the spool process, and what it stores: the structs on its sockets and in its tables.

All are MessagePack arrays: append fields with defaults only, never reorder.  Rows that the spool process itself never needs to look into
(`Message`, `Due`) travel as encoded bytes and are stored as they came.
"""

from __future__ import annotations

import msgspec

from engine.mail.envelope import DEFAULT_PRIORITY, DUE_KEY, Body, Due, Message, due_key

__all__ = [
    "DEFAULT_PRIORITY", "DUE_KEY", "Accept", "Body", "Due", "Exported", "Message", "Move", "NewRecipient", "Nothing", "Operation", "Seal",
    "Settle", "Settlement", "Stamp", "due_key",
]  # fmt: skip

# --- operations (worker -> spool process), one stream per worker, numbered 1, 2, 3 ... within its epoch -----------------------------


class NewRecipient(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One recipient of an Accept."""

    queue: str  # "domain/vmta"
    due: bytes  # encoded Due
    priority: int = DEFAULT_PRIORITY


class Accept(msgspec.Struct, array_like=True, frozen=True, tag=1, gc=False):
    """Store a message; the spool process stamps the due time, so that keys of new mail ascend in commit order."""

    id: bytes
    message: bytes  # encoded Message
    epoch: int  # body location, for segment accounting
    segment: int
    size_bytes: int
    recipients: list[NewRecipient]
    records: list[bytes] = []  # r records, once configured


class Settlement(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What became of one due row.  Applies only if `key` is still there: then its record is appended, and the row removed or moved."""

    key: bytes
    record: bytes = b""  # encoded Record, or b"" for none
    again_ms: int = 0  # 0: the recipient leaves the spool; else due again then
    due: bytes = b""  # encoded Due to store with again_ms


class Settle(msgspec.Struct, array_like=True, frozen=True, tag=2, gc=False):
    """Outcomes, with the DSN that they caused: it is accepted only if one of the rows was still there."""

    rows: list[Settlement]
    accept: Accept | None = None
    records: list[bytes] = []  # queue records (tq), appended whatever the rows say


class Seal(msgspec.Struct, array_like=True, frozen=True, tag=3, gc=False):
    """The worker writes no more to this segment of its epoch; it may go when its last message has."""

    segment: int


class Exported(msgspec.Struct, array_like=True, frozen=True, tag=4, gc=False):
    """Accounting: everything up to outbox number `upto` lies synced in the sinks, whose positions are `positions` (name -> opaque)."""

    upto: int
    positions: dict[str, bytes]


class Move(msgspec.Struct, array_like=True, frozen=True, tag=6, gc=False):
    """Something out of another spool, which is read in order: applied once, whoever sends it how often, because its mark is stored with it.

    Refused unless the mark stored under `name` is `after`, so that nothing is skipped; taken as done where it is `mark` or later.
    """

    name: str
    after: bytes  # b"": nothing was moved yet
    mark: bytes  # ascending
    accept: Accept | None = None
    records: list[bytes] = []


class Nothing(msgspec.Struct, array_like=True, frozen=True, tag=5, gc=False):
    """Keeps the place of an operation that was refused before its turn, so that the stream's numbers stay whole."""


class Stamp(msgspec.Struct, array_like=True, frozen=True, tag=7, gc=False):
    """All mail that comes later is stamped later than this commit, whatever the clock does; for a mover, to whom what lies there is a closed set."""


Operation = Accept | Settle | Seal | Exported | Nothing | Move | Stamp
