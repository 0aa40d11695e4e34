"""From what happened to a recipient to what is stored of it: the settlement with its record, and the line in the log."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from engine.bounce.classify import classify
from engine.config.settings import DomainSettings
from engine.log import escape
from engine.mail.envelope import Due, Message
from engine.mail.record import QueueRecord, RecipientRecord, encode
from engine.mail.reply import Reply
from engine.scheduler.queue import Queue, Row, due_ms
from engine.scheduler.retry import again_ms
from engine.scheduler.scheduler import EXPIRED
from engine.spool.ops import Settlement

LAST_REPLY_CHARS = 400
DISCARDED = "x-engine;discarded"
SERVICE_UNAVAILABLE = "421 service unavailable"

_encode_due = msgspec.msgpack.Encoder().encode


class Peer(NamedTuple):
    """Where a transaction went: empty strings where it went nowhere."""

    source_ip: str = ""
    host: str = ""
    address: str = ""
    esmtp: str = ""  # extension names, comma separated
    size_bytes: int = 0
    tls_protocol: str = ""  # TLSv1.3; "": in the clear
    tls_cipher: str = ""

    @property
    def mta(self) -> str:
        """`host (ip)`, as in dsnMta."""
        return f"{self.host} ({self.address})" if self.host else ""


NOWHERE = Peer()


class Result(NamedTuple):
    """What became of one recipient, before it is stored: type d, b or t; `again_ms` with t."""

    row: Row
    type: str
    status: str
    diag: str
    again_ms: int = 0


_ACTIONS = {"d": "relayed", "b": "failed", "t": "delayed"}
_WORDS = {"d": "delivered", "b": "bounced", "t": "deferred"}


def told(settings: DomainSettings, reply: Reply) -> str:
    """*reply* on one line, as records and logs have it: replace-smtp-421-service-response keeps what a 421 says out of them."""
    return SERVICE_UNAVAILABLE if reply.code == 421 and settings.replace_smtp_421_service_response else reply.text


def refusal(settings: DomainSettings, row: Row, reply: Reply, at_rcpt: bool) -> Result:
    """*row* bounces, because of a 5xx *reply*; a bare 553 to RCPT says "no such mailbox" under smtp-553-means-invalid-mailbox."""
    status = reply.status
    if at_rcpt and reply.code == 553 and status == "5.0.0" and settings.smtp_553_means_invalid_mailbox:
        status = "5.1.1"
    return Result(row, "b", status, f"smtp;{reply.text}")


def deferral(queue: Queue, row: Row, status: str, diag: str, now_ms: int, may_expire: bool) -> Result:
    """*row* is tried again after retry-recipients-after; or it bounces, if its time is over and the clock can be believed."""
    settings, due = queue.settings, row.due
    wait_s = settings.retry_recipients_after_s
    when_ms = again_ms(now_ms, wait_s, row.message, queue.number, due.queued_ms, settings.bounce_after_s)
    if when_ms > now_ms:
        return Result(row, "t", status, diag, when_ms)
    if may_expire:
        return Result(row, "b", EXPIRED, diag)
    return Result(row, "t", status, diag, now_ms + int(wait_s * 1000))


def settlement(queue: Queue, message: Message, id_text: str, result: Result, peer: Peer, now_ms: int) -> Settlement:
    """What the spool process is told about *result*."""
    row, due = result.row, result.row.due
    if queue.settings.disable_acct_records and result.type in queue.settings.disable_acct_records:
        return _without_record(result, now_ms)
    record = RecipientRecord(
        result.type, now_ms, due.queued_ms, message.return_path, due.address, due.orcpt, _ACTIONS[result.type], result.status, result.diag,
        peer.mta, message.src_type, message.src_mta, queue.settings.type, peer.source_ip, peer.address, peer.esmtp,
        peer.size_bytes, queue.vmta, message.job_id, message.env_id, queue.name, due.pool, id_text, due.first_attempt_ms or now_ms,
        "" if result.type == "d" else classify(result.status, result.diag), message.smtp_user, peer.tls_protocol, peer.tls_cipher,
    )  # fmt: skip
    if result.type != "t":
        return Settlement(row.key, encode(record))
    return Settlement(row.key, encode(record), result.again_ms, _encode_due(_later(result, now_ms)))


def _later(result: Result, now_ms: int) -> Due:
    """What is known of a recipient after an attempt that failed for now."""
    due = result.row.due
    return msgspec.structs.replace(
        due,
        attempts=due.attempts + 1,
        first_attempt_ms=due.first_attempt_ms or now_ms,
        last_reply=result.diag.removeprefix("smtp;")[:LAST_REPLY_CHARS],
    )


def _without_record(result: Result, now_ms: int) -> Settlement:
    if result.type != "t":
        return Settlement(result.row.key, b"")
    return Settlement(result.row.key, b"", result.again_ms, _encode_due(_later(result, now_ms)))


def told_of_delay(result: Result, now_ms: int) -> Result:
    """*result*, a deferral, with what is remembered once its sender has been told."""
    row = result.row
    return result._replace(row=Row(row.key, msgspec.structs.replace(row.due, notified_ms=now_ms)))


def standing(queue: Queue, row: Row) -> Result:
    """Why *row*, which stands in *queue*, has not been tried: for a DSN about its delay."""
    if queue.held_by:
        return Result(row, "t", "4.4.1", f"x-engine;{queue.held_by}", due_ms(row.key))
    last = row.due.last_reply
    return Result(row, "t", "4.4.0", f"smtp;{last}" if last else "x-engine;it waits for its turn", due_ms(row.key))


def stays(result: Result) -> Settlement:
    """The row of a `standing` result stays due when it is; no record, since nothing was tried."""
    return Settlement(result.row.key, b"", result.again_ms, _encode_due(result.row.due))


def put_aside(row: Row, why: str, again_ms: int) -> Settlement:
    """*row* waits until *again_ms*, and *why* is remembered; no record, since nothing of it was tried."""
    return Settlement(row.key, b"", again_ms, _encode_due(msgspec.structs.replace(row.due, last_reply=why[:LAST_REPLY_CHARS])))


def queue_record(queue: Queue, status: str, diag: str, peer: Peer, now_ms: int) -> bytes:
    """The encoded tq record of a failure of the whole *queue*."""
    return encode(QueueRecord(now_ms, queue.name, queue.vmta, status, diag, peer.mta, queue.settings.type, peer.source_ip, peer.address))


def line(queue: Queue, id_text: str, result: Result, peer: Peer, now_ms: int) -> tuple[str, str]:
    """(kind, text) of the log line about *result*."""
    due = result.row.due
    text = (
        f"id={id_text} queue={queue.name} rcpt=<{escape(due.address)}> source={peer.source_ip or '-'} mx={peer.host or '-'}[{peer.address}]"
        f' status={result.status} reply="{escape(result.diag)}" attempts={due.attempts + 1} delay={(now_ms - due.queued_ms) / 1000:.2f}s'
    )
    if peer.tls_protocol:
        text += f" tls={peer.tls_protocol}"
    if result.again_ms:
        text += f" again_in={(result.again_ms - now_ms) / 1000:.0f}s"
    return _WORDS[result.type], text
