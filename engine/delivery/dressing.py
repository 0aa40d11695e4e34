"""What a message is given at the moment it is sent: a Date of that moment (date-header-time), header fields of its virtual MTA."""

from __future__ import annotations

import msgspec

from engine.config import Config
from engine.mail.envelope import Message
from engine.mail.received import date


def fields_of(config: Config) -> dict[str, bytes]:
    """By virtual MTA: the fields that include-headers-from of it and of its pools adds, in wire form; only those that have some."""
    return {name: vmta.included_headers for name, vmta in config.virtual_mtas.items() if vmta.included_headers}


def dressed(message: Message, fields: bytes, now_ms: int) -> Message:
    """*message* as it is sent now, with *fields* behind ours.  A copy of one that was sent (bcc-upon-delivery) has had them, and keeps its date."""
    prefix = message.prefix
    if message.late_date:
        prefix = prefix[: prefix.rindex(b"Date: ")] + f"Date: {date(now_ms // 1000)}\r\n".encode("ascii")
    if not prefix.endswith(fields):
        prefix += fields
    return msgspec.structs.replace(message, prefix=prefix, late_date=False)
