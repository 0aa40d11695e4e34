"""A message and its recipients as the spool keeps them: the rows that reception makes and delivery reads.

All are MessagePack arrays: append fields with defaults only, never reorder.
"""

from __future__ import annotations

import struct

import msgspec

# Bits of Message.needs: what a host must offer for the message to go there as it is.
NEEDS_SMTPUTF8 = 1  # it came with SMTPUTF8 (RFC 6531), or an address of its envelope is not ASCII
NEEDS_BINARYMIME = 2  # its body is what came, octet by octet (RFC 3030): not in wire form, and never to be sent by DATA
NEEDS_DSN = 4  # a recipient is to be heard of when it is delivered (NOTIFY=SUCCESS): by the host, or where it has no DSN by us


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a body lies: `size_bytes` bytes at `offset` of a segment.

    They are in wire form (dot-stuffed, every line ended by CRLF, no final dot) unless the message NEEDS_BINARYMIME.
    """

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
    needs: int = 0  # bits NEEDS_*
    smtp_user: str = ""  # as whom the client authenticated
    late_date: bool = False  # the last line of prefix is a Date field, to be made anew whenever the message is sent


NOTIFY_SUCCESS = 2  # a bit of Due.notify
NOTIFY_DELAY = 8  # another


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
    notified_ms: int = 0  # when its sender heard last that it waits (NOTIFY=DELAY)
    verp: bool = False  # it travels alone, from a sender address of its own (engine.mail.verp)


# key of `due`: queue number, priority (255 - priority: higher first), due time in ms, message id, recipient number
DUE_KEY = struct.Struct(">IBQ12sI")


def due_key(queue: int, priority: int, due_ms: int, message: bytes, recipient: int) -> bytes:
    """The 29-byte key of a `due` row."""
    return DUE_KEY.pack(queue, 255 - priority, due_ms, message, recipient)


DEFAULT_PRIORITY = 50
