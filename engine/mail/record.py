"""Accounting records as values, from the moment something is known until the accounting process writes it.

The array form is what lies in the spool's outbox: append fields with defaults only, never reorder.
"""

from __future__ import annotations

import msgspec


class RecipientRecord(msgspec.Struct, array_like=True, frozen=True, tag_field="kind", tag=1, gc=False):
    """One recipient's d, b or t record: the columns of PowerMTA's accounting file (reference §4.3), not yet formatted."""

    type: str  # "d", "b" or "t"
    logged_ms: int
    queued_ms: int
    orig: str  # return path, "" for the null sender
    rcpt: str
    orcpt: str
    dsn_action: str  # relayed, delivered, failed, delayed
    dsn_status: str  # "5.1.1": the phrase is added when it is written
    dsn_diag: str  # "smtp;550 5.1.1 user unknown"
    dsn_mta: str  # "host (ip)" or ""
    src_type: str  # "smtp"; "local" for mail of our own making
    src_mta: str  # "helo (ip)"
    dlv_type: str  # smtp, discard
    dlv_source_ip: str
    dlv_destination_ip: str
    dlv_esmtp: str  # "PIPELINING,8BITMIME,..."
    dlv_size: int  # bytes that were sent, header prefix included
    vmta: str
    job_id: str
    env_id: str
    queue: str
    vmta_pool: str
    id: str  # message id, text form
    first_attempt_ms: int = 0
    bounce_cat: str = ""  # of engine.bounce.classify
    smtp_user: str = ""  # as whom the client authenticated
    dlv_tls_protocol: str = ""  # TLSv1.3; "": in the clear, or not sent
    dlv_tls_cipher: str = ""


class QueueRecord(msgspec.Struct, array_like=True, frozen=True, tag_field="kind", tag=2, gc=False):
    """A whole-queue failure (tq): no MX could be looked up, connected to or greeted by."""

    logged_ms: int
    queue: str
    vmta: str
    dsn_status: str
    dsn_diag: str
    dsn_mta: str
    dlv_type: str
    dlv_source_ip: str
    dlv_destination_ip: str


Record = RecipientRecord | QueueRecord

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """The outbox form of *record*."""
    return _encoder.encode(record)


def decode(data: bytes | memoryview) -> Record:
    """The record that `encode` made *data* from; msgspec.DecodeError if it is none."""
    return _decoder.decode(data)
