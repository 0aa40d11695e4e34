"""What the other processes tell the spool process, and what it stores: the structs on its sockets and in its tables.

All are MessagePack arrays: append fields with defaults only, never reorder.  Rows that the spool process itself never needs to look into
(`Message`, `Due`) travel as encoded bytes and are stored as they came.
"""

from __future__ import annotations

import struct

import msgspec

# --- rows -------------------------------------------------------------------------------------------------------------------------


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a body lies: `size_bytes` bytes in wire form (dot-stuffed, every line ended by CRLF, no final dot) at `offset` of a segment."""

    epoch: int
    segment: int  # file bodies/EPOCH-SEGMENT.seg
    offset: int  # of the first body byte, past the record's header
    size_bytes: int
    checksum: int  # zlib.crc32 of those bytes


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A row of `message`: everything about a message that its recipients share."""

    body: Body
    return_path: str  # "" is the null sender
    prefix: bytes  # header lines of ours in front of the body, wire form
    queued_ms: int
    eight_bit: bool  # body or prefix has bytes over 127
    notify_sender: bool  # may we send a DSN about it? (no: null sender, or only relay-domain admitted it)
    ret: str  # RET of RFC 3461: "FULL", "HDRS" or ""
    env_id: str
    src_type: str  # "smtp", or "local" for our own DSNs
    src_mta: str  # "helo (ip)"
    job_id: str


class Due(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A value of `due`: one recipient that waits; all that is known about it survives a restart."""

    address: str
    queued_ms: int
    orcpt: str = ""
    notify: int = 0  # bits of RFC 3461: 1 NEVER, 2 SUCCESS, 4 FAILURE, 8 DELAY; 0 not given
    pool: str = ""  # the pool its virtual MTA was chosen from
    attempts: int = 0
    first_attempt_ms: int = 0
    last_reply: str = ""


# key of `due`: queue number, priority (255 - priority: higher first), due time in ms, message id, recipient number
DUE_KEY = struct.Struct(">IBQ12sI")


def due_key(queue: int, priority: int, due_ms: int, message: bytes, recipient: int) -> bytes:
    """The 29-byte key of a `due` row."""
    return DUE_KEY.pack(queue, 255 - priority, due_ms, message, recipient)


DEFAULT_PRIORITY = 50

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


Operation = Accept | Settle | Seal | Exported
