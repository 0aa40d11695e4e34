"""Message ids: (shard, epoch, counter), never from a clock, so that no two are ever alike.

An epoch is given by the spool process to one worker for one connected life and is never given again; the counter is that worker's own.
Packed form: 12 bytes, big-endian, so that ids of one worker sort in the order it made them.  Text form: 20 characters of base32hex.
"""

from __future__ import annotations

import struct
from base64 import b32hexdecode

PACKED_SIZE = 12
TEXT_SIZE = 20
_PACKED = struct.Struct(">HIHI")  # shard, epoch, counter (48 bits as 16 + 32)
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]  # two digits for every ten bits: base64.b32hexencode costs several times as much


def pack(shard: int, epoch: int, counter: int) -> bytes:
    """The 12-byte id."""
    return _PACKED.pack(shard, epoch, counter >> 32, counter & 0xFFFFFFFF)


def unpack(packed: bytes) -> tuple[int, int, int]:
    """(shard, epoch, counter) of a 12-byte id."""
    shard, epoch, high, low = _PACKED.unpack(packed)
    return shard, epoch, high << 32 | low


def text(packed: bytes) -> str:
    """The id as operators see it, in replies, logs and accounting: 20 lower-case letters and digits."""
    shard, epoch, counter_high, counter_low = _PACKED.unpack(packed)
    low = counter_high << 36 | counter_low << 4  # 100 bits in two halves; the last four are zeros
    high = shard << 34 | epoch << 2 | low >> 50
    low &= 0x3FFFFFFFFFFFF
    p = _PAIRS
    return (
        f"{p[high >> 40]}{p[high >> 30 & 1023]}{p[high >> 20 & 1023]}{p[high >> 10 & 1023]}{p[high & 1023]}"
        f"{p[low >> 40]}{p[low >> 30 & 1023]}{p[low >> 20 & 1023]}{p[low >> 10 & 1023]}{p[low & 1023]}"
    )


def parse(shown: str) -> bytes | None:
    """The packed id that *shown* stands for, or None if it is not an id."""
    try:
        packed = b32hexdecode(shown.upper() + "====")
    except ValueError:
        return None
    return packed if text(packed) == shown.lower() else None
