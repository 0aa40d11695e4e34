"""Message ids: (shard, epoch, counter), never from a clock, so that no two are ever alike.

An epoch is given by the spool process to one worker for one connected life and is never given again; the counter is that worker's own.
Packed form: 12 bytes, big-endian, so that ids of one worker sort in the order it made them.  Text form: 20 characters of base32hex.
"""

from __future__ import annotations

import struct
from base64 import b32hexdecode, b32hexencode

PACKED_SIZE = 12
TEXT_SIZE = 20
_PACKED = struct.Struct(">HIHI")  # shard, epoch, counter (48 bits as 16 + 32)


def pack(shard: int, epoch: int, counter: int) -> bytes:
    """The 12-byte id."""
    return _PACKED.pack(shard, epoch, counter >> 32, counter & 0xFFFFFFFF)


def unpack(packed: bytes) -> tuple[int, int, int]:
    """(shard, epoch, counter) of a 12-byte id."""
    shard, epoch, high, low = _PACKED.unpack(packed)
    return shard, epoch, high << 32 | low


def text(packed: bytes) -> str:
    """The id as operators see it, in replies, logs and accounting: 20 lower-case letters and digits."""
    return b32hexencode(packed)[:TEXT_SIZE].lower().decode("ascii")


def parse(shown: str) -> bytes | None:
    """The packed id that *shown* stands for, or None if it is not an id."""
    try:
        packed = b32hexdecode(shown.upper() + "====")
    except ValueError:
        return None
    return packed if text(packed) == shown.lower() else None
