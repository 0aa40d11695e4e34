"""Answers to whoever asks the spool process about what lies in it; every answer is bounded work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.mail.envelope import DUE_KEY, Due
from engine.spool import format

if TYPE_CHECKING:
    from engine.spool.service import SpoolService

MAX_ROWS = 50_000  # keys that one question may walk
MAX_QUEUES = 1_000
_due = msgspec.msgpack.Decoder(Due)


def answer(service: SpoolService, data: bytes) -> dict[str, Any]:
    """The answer to one question: {"ok": true, ...} or {"ok": false, "error": text}."""
    try:
        question = msgspec.msgpack.decode(data, type=dict[str, Any])
        asked = question.get("q")
        if asked == "show":
            return _show(service, bytes(question["id"]))
        if asked == "counts":
            return _counts(service, min(int(question.get("top", 100)), MAX_QUEUES))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        return {"ok": False, "error": f"malformed question: {error}"}
    return {"ok": False, "error": f"unknown question {asked!r}"}


def _show(service: SpoolService, identity: bytes) -> dict[str, Any]:
    """The encoded Message and its waiting recipients: rows of
    queue name, due ms, priority, recipient number and encoded Due; not `whole` if the walk was cut short.
    """
    tables = service.tables
    rows: list[tuple[str, int, int, int, bytes]] = []
    with service.env.begin() as txn:
        value = txn.get(identity, db=tables.message) if len(identity) == 12 else None
        if value is None:
            return {"ok": False, "error": "no such message"}
        opened, _, _, _, count = format.MESSAGE_HEAD.unpack_from(value)
        start = format.MESSAGE_HEAD.size
        steps = MAX_ROWS
        cursor = txn.cursor(tables.due)
        for index in range(count):
            number = format.U32.unpack_from(value, start + 4 * index)[0]
            name = (txn.get(format.U32.pack(number), db=tables.queue_name) or b"?").decode()
            found = cursor.set_range(format.U32.pack(number))
            while found and steps and len(rows) < opened:
                key = cursor.key()
                queue, priority, due_ms, message, recipient = DUE_KEY.unpack(key)
                if queue != number:
                    break
                steps -= 1
                if message == identity:
                    rows.append((name, due_ms, 255 - priority, recipient, cursor.value()))
                found = cursor.next()
    return {"ok": True, "message": value[start + 4 * count :], "open": opened, "rows": rows, "whole": len(rows) == opened}


def _counts(service: SpoolService, top: int) -> dict[str, Any]:
    """Totals, exact; and the *top* fullest queues among those that a bounded walk met: [name, rows, whether that is all of its rows]."""
    tables = service.tables
    with service.env.begin() as txn:
        totals = {
            "messages": txn.stat(tables.message)["entries"],
            "recipients": txn.stat(tables.due)["entries"],
            "segments": txn.stat(tables.segment)["entries"],
            "queues_known": txn.stat(tables.queue)["entries"],
        }
        live = sum(format.SEGMENT_ROW.unpack(value)[1] for _, value in txn.cursor(tables.segment))
        queues: list[tuple[str, int, bool]] = []
        steps = MAX_ROWS
        cursor = txn.cursor(tables.due)
        found = cursor.first()
        each = max(MAX_ROWS // 50, 1)
        while found and steps:
            prefix = cursor.key()[:4]
            rows = 0
            while found and steps and rows < each and cursor.key()[:4] == prefix:
                rows += 1
                steps -= 1
                found = cursor.next()
            whole = not found or cursor.key()[:4] != prefix
            name = (txn.get(prefix, db=tables.queue_name) or b"?").decode()
            queues.append((name, rows, whole))
            if not whole:
                found = cursor.set_range(format.U32.pack(format.U32.unpack(prefix)[0] + 1))
    queues.sort(key=lambda entry: -entry[1])
    return {
        "ok": True,
        **totals,
        "live_bytes": live,
        "outbox": service.ledger.outbox_rows,
        "refusing": service.space.refusal or "",
        "groups": service.groups,
        "operations": service.operations,
        "queues": queues[:top],
        "whole": not found,
    }
