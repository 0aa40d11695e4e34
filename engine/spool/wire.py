"""Frames on the spool process's sockets: a length of four bytes, then MessagePack.

A worker opens with Hello and hears Welcome or Rejected; then it sends Batch frames and hears Ack, Announce and Abandoned.  A connection of role
"control" sends questions (maps with a key "q") and hears one map for each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from engine.errors import RemoteProtocolError
from engine.process import SPOOL_PROTOCOL
from engine.spool.ops import Operation

PROTOCOL = SPOOL_PROTOCOL
LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 64 << 20
BATCH_OPERATIONS = 256  # a link cuts its stream into frames of about this size, so that a group can end between two
BATCH_BYTES = 1 << 20

# --- worker -> spool process -------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Who connects; `resume_epoch` (0: none) is the epoch it had before the spool process restarted."""

    role: str
    index: int
    virtual_mtas: list[str]
    fallback: bool
    resume_epoch: int = 0
    protocol: int = PROTOCOL


class Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Operations in stream order; the worker has heard the answers up to number `answered`."""

    answered: int
    operations: list[Operation]


class RawBatch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The same with its operations not looked into: for finding the one that is malformed."""

    answered: int
    operations: list[msgspec.Raw]


# --- spool process -> worker -------------------------------------------------------------------------------------------------------


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The epoch is the worker's; operations up to `last` are applied, save those `refused`; new mail is stamped up to `stamp_ms`."""

    epoch: int
    shard: int
    last: int
    refused: list[tuple[int, str]]
    stamp_ms: int


class Rejected(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """No epoch for this connection; the spool process closes it."""

    reason: str


class Ack(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Operations up to `upto` are durable, save those refused; a refusal past `upto` is final too: its operation becomes Nothing."""

    upto: int
    refused: list[tuple[int, str]] = []


class Announce(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Queues that got new mail, due up to `stamp_ms`; no numbers: look again at everything."""

    numbers: list[int]
    stamp_ms: int


class Abandoned(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """A sync of this segment failed: nothing more may be written to it."""

    epoch: int
    segment: int


Answer = Welcome | Rejected | Ack | Announce | Abandoned

_encoder = msgspec.msgpack.Encoder()
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_batch = msgspec.msgpack.Decoder(Batch).decode
decode_raw_batch = msgspec.msgpack.Decoder(RawBatch).decode
decode_operation = msgspec.msgpack.Decoder(Operation).decode
encode_refusals = _encoder.encode
decode_refusals = msgspec.msgpack.Decoder(list[tuple[int, str]]).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def frame(message: object) -> bytes:
    """*message* as one frame."""
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data


def batch_frame(answered: int, operations: Sequence[bytes]) -> bytes:
    """A Batch of operations that are encoded already."""
    body = b"".join(operations)
    head = b"\x92\xcf" + answered.to_bytes(8, "big") + b"\xdd" + len(operations).to_bytes(4, "big")
    return LENGTH.pack(len(head) + len(body)) + head + body


def take_frames(buffer: bytearray) -> Iterator[bytes]:
    """The whole frames at the head of *buffer*, which keeps the rest; RemoteProtocolError for one that is too long."""
    start = 0
    try:
        while len(buffer) - start >= 4:
            (length,) = LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                raise RemoteProtocolError(f"frame of {length} bytes")
            end = start + 4 + length
            if len(buffer) < end:
                return
            data = bytes(memoryview(buffer)[start + 4 : end])
            start = end
            yield data
    finally:
        del buffer[:start]
