"""The DSN that a bounce causes: built from what lies in the spool, written as new mail of our own, accepted in the transaction of the bounce."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.bounce.dsn import Failure, report
from engine.bounce.notify import wants_report
from engine.delivery.outcome import Peer, Result
from engine.errors import SpoolError
from engine.fastpath import find_fields, has_8bit
from engine.mail.address import split
from engine.mail.envelope import Due, Message
from engine.mail.message_id import text
from engine.spool import SegmentWriter, SpoolLink, SpoolReader
from engine.spool.ops import Accept, NewRecipient

FULL_MOST_BYTES = 1 << 20  # a larger original is returned by its headers only, RET=FULL or not
HEADERS_MOST_BYTES = 64 << 10

_encode = msgspec.msgpack.Encoder().encode


class Reporter:
    """Writes DSNs for one delivery slot."""

    def __init__(self, host: str, link: SpoolLink, reader: SpoolReader, writer: SegmentWriter) -> None:
        self._host = host
        self._link = link
        self._reader = reader
        self._writer = writer

    def accept_for(self, vmta: str, message: Message, message_id: bytes, results: Sequence[Result], peer: Peer, now_ms: int) -> Accept | None:
        """The DSN about the bounces among *results*, through the same virtual MTA; None if nobody wants one.

        SpoolError: it cannot be written now, so the bounce must wait too.
        """
        failures = [
            Failure(r.row.due.address, r.row.due.orcpt, r.status, r.diag, peer.mta, "failed", now_ms if peer.host else 0)
            for r in results
            if r.type == "b" and wants_report("failed", r.row.due.notify, return_path=message.return_path, notify_sender=message.notify_sender)
        ]
        if not failures:
            return None
        dsn_id = self._link.new_id()
        headers, whole = self._original(message, message_id)
        content = report(
            host=self._host,
            vmta=vmta,
            return_path=message.return_path,
            failures=failures,
            original_headers=headers,
            original=whole,
            ret=message.ret,
            env_id=message.env_id,
            arrival_ms=message.queued_ms,
            now_ms=now_ms,
            id_text=text(dsn_id),
        )
        body = self._writer.write(dsn_id, (content,))
        row = Message(body, "", b"", now_ms, has_8bit(content), False, "", "", "local", "", message.job_id)
        _, domain = split(message.return_path)
        recipient = NewRecipient(f"{domain}/{vmta}", _encode(Due(message.return_path, now_ms)))
        return Accept(dsn_id, _encode(row), body.epoch, body.segment, body.size_bytes, [recipient])

    def _original(self, message: Message, message_id: bytes) -> tuple[bytes, tuple[bytes, ...] | None]:
        """(header section, whole message if it is to be returned); what cannot be read any more is left out."""
        size = message.body.size_bytes
        try:
            if message.ret == "FULL" and size <= FULL_MOST_BYTES:
                content = self._reader.body(message.body, message_id)
                return b"", (message.prefix, content)
            start = next(self._reader.body_chunks(message.body, message_id), b"")[:HEADERS_MOST_BYTES]
        except SpoolError:
            return message.prefix, None
        end, _ = find_fields(start, ())
        return message.prefix + start[:end], None
