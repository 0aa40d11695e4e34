"""The DSN that a bounce causes: built from what lies in the spool, written as new mail of our own, accepted in the transaction of the bounce."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.bounce.dsn import Failure, report
from engine.bounce.notify import NEVER, wants_report
from engine.bounce.template import Templates
from engine.config.settings import ServerSettings
from engine.delivery.outcome import DISCARDED, Peer, Result
from engine.errors import SpoolError
from engine.fastpath import find_fields, has_8bit, stuff
from engine.mail.address import split
from engine.mail.envelope import NEEDS_BINARYMIME, NEEDS_SMTPUTF8, Due, Message
from engine.mail.message_id import text
from engine.scheduler.queue import Queue
from engine.scheduler.retry import expiry_ms
from engine.smtp.newlines import normalized
from engine.spool import SegmentWriter, SpoolLink, SpoolReader
from engine.spool.ops import Accept, NewRecipient
from engine.units import format_seconds

FULL_MOST_BYTES = 1 << 20  # a larger original is returned by its headers only, RET=FULL or not
HEADERS_MOST_BYTES = 64 << 10
COPIED_WHOLE_BYTES = 256 << 10  # a larger body goes in chunks into a file of its own

_encode = msgspec.msgpack.Encoder().encode


class Reporter:
    """Writes DSNs for one delivery slot."""

    def __init__(self, server: ServerSettings, link: SpoolLink, reader: SpoolReader, writer: SegmentWriter) -> None:
        self._host = server.host_name[0]
        self._templates = Templates(
            from_header=server.custom_dsn_from_header,
            failed_from=server.dsn_failed_from_template,
            failed_subject=server.dsn_failed_subject_template,
            failed_body=server.dsn_failed_body_template_from[1],
        )
        self._link = link
        self._reader = reader
        self._writer = writer

    def accept_for(
        self, queue: Queue, message: Message, message_id: bytes, results: Sequence[Result], peer: Peer, now_ms: int, delayed: bool = False
    ) -> Accept | None:
        """The DSN about the bounces among *results*, or with *delayed* the deferrals; through the virtual MTA of their *queue*.

        None if nobody wants one, or it is forbidden.  SpoolError: it cannot be written now, so a bounce must wait too.
        """
        kind, action = ("t", "delayed") if delayed else ("b", "failed")
        return self._report(queue, message, message_id, results, peer, now_ms, kind, action)

    def relayed_for(self, queue: Queue, message: Message, message_id: bytes, results: Sequence[Result], peer: Peer, now_ms: int) -> Accept | None:
        """The DSN about those *results* that were handed to a host without DSN (RFC 3461 §5.2.2); None if nobody wants one, or it is forbidden."""
        return self._report(queue, message, message_id, results, peer, now_ms, "d", "relayed")

    def _report(
        self, queue: Queue, message: Message, message_id: bytes, results: Sequence[Result], peer: Peer, now_ms: int, kind: str, action: str
    ) -> Accept | None:
        settings = queue.settings
        if not settings.deliver_local_dsn:
            return None
        until_ms = expiry_ms(message.queued_ms, settings.bounce_after_s) if action == "delayed" else 0
        failures = [
            Failure(r.row.due.address, r.row.due.orcpt, r.status, r.diag, peer.mta, action, now_ms if peer.host else 0, until_ms)
            for r in results
            if r.type == kind
            and r.diag != DISCARDED
            and wants_report(action, r.row.due.notify, return_path=message.return_path, notify_sender=message.notify_sender)
        ]
        if not failures:
            return None
        dsn_id = self._link.new_id()
        ret = message.ret if action == "failed" else ""  # RFC 3461 §4.3: only what failed comes back whole
        headers, whole = self._original(message, message_id, ret)
        content = report(
            host=self._host,
            vmta=queue.vmta,
            return_path=settings.bounce_address or message.return_path,
            failures=failures,
            original_headers=headers,
            original=whole,
            ret=ret,
            env_id=message.env_id,
            arrival_ms=message.queued_ms,
            now_ms=now_ms,
            id_text=text(dsn_id),
            templates=self._templates,
            waits=(_in_words(settings.retry_after[0]), _in_words(settings.bounce_after_s)),
            plain=settings.dsn_format == "plain-text",
            utf8=message.needs & NEEDS_SMTPUTF8 != 0,
        )
        body = self._writer.write(dsn_id, (content,))
        row = Message(body, "", b"", now_ms, has_8bit(content), False, "", "", "local", "", message.job_id)
        return self._accept(dsn_id, row, settings.bounce_address or message.return_path, queue.vmta)

    def copy_for(self, queue: Queue, message: Message, message_id: bytes, now_ms: int) -> Accept | None:
        """The copy of a delivered message to bcc-upon-delivery; None of what is itself a copy or a DSN.  SpoolError: it cannot be written."""
        if message.src_type == "local":
            return None
        copy_id = self._link.new_id()
        if message.body.size_bytes > COPIED_WHOLE_BYTES:
            large = self._writer.begin_large(copy_id)
            try:
                for chunk in self._reader.body_chunks(message.body, message_id):
                    large.write(chunk)
                body = large.finish()
            except SpoolError:
                large.abort()
                raise
        else:
            body = self._writer.write(copy_id, (self._reader.body(message.body, message_id),))
        row = msgspec.structs.replace(message, body=body, queued_ms=now_ms, notify_sender=False, ret="", env_id="", src_type="local", src_mta="")
        return self._accept(copy_id, row, queue.settings.bcc_upon_delivery, queue.vmta, NEVER)

    def _accept(self, new_id: bytes, message: Message, recipient: str, vmta: str, notify: int = 0) -> Accept:
        address = recipient if "@" in recipient else f"{recipient}@{self._host}"
        _, domain = split(address)
        if not address.isascii():
            message = msgspec.structs.replace(message, needs=message.needs | NEEDS_SMTPUTF8)
        due = Due(address, message.queued_ms, notify=notify)
        body = message.body
        return Accept(new_id, _encode(message), body.epoch, body.segment, body.size_bytes, [NewRecipient(f"{domain}/{vmta}", _encode(due))])

    def _original(self, message: Message, message_id: bytes, ret: str) -> tuple[bytes, tuple[bytes, ...] | None]:
        """(header section, whole message if it is to be returned); what cannot be read any more is left out."""
        size = message.body.size_bytes
        binary = message.needs & NEEDS_BINARYMIME  # a DSN is text: of such a message it returns the header section
        try:
            if ret == "FULL" and not binary and size <= FULL_MOST_BYTES:
                content = self._reader.body(message.body, message_id)
                return b"", (message.prefix, content)
            start = next(self._reader.body_chunks(message.body, message_id), b"")[:HEADERS_MOST_BYTES]
        except SpoolError:
            return message.prefix, None
        end, _ = find_fields(start, ())
        headers = start[:end]
        return message.prefix + (stuff(normalized(headers)) if binary else headers), None


def _in_words(seconds: float) -> str:
    return format_seconds(int(seconds))
