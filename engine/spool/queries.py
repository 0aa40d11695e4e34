"""Answers to whoever asks the spool process about what lies in it, or tells it of a new configuration; every answer is bounded work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.mail import message_id
from engine.mail.envelope import DUE_KEY, Due
from engine.spool import format
from engine.spool.space import DEFAULT_MIN_FREE_BYTES

if TYPE_CHECKING:
    from engine.spool.service import SpoolService

MAX_ROWS = 50_000  # keys that one question may walk
MAX_QUEUES = 1_000
PAGE_STEPS = 2_000  # keys that one page walks: a millisecond or two, and whoever wants more asks again from where it ended
PAGE_MATCHES = 500
_LAST = b"\xff" * (DUE_KEY.size - 4)
_due = msgspec.msgpack.Decoder(Due)


def answer(service: SpoolService, data: bytes) -> dict[str, Any]:
    """The answer to one question: {"ok": true, ...} or {"ok": false, "error": text}."""
    try:
        question = msgspec.msgpack.decode(data, type=dict[str, Any])
        asked = question.get("q")
        if asked == "show":
            return _show(service, bytes(question["id"]))
        if asked == "message":
            return _message(service, bytes(question["id"]))
        if asked == "names":
            return _names(service, str(question["prefix"]), str(question.get("after", "")))
        if asked == "rows":
            return _rows(service, int(question["queue"]), question.get("after"), question.get("message"), question.get("address"))
        if asked == "queues":
            return _queues(service, question.get("after"), bool(question.get("sizes")), bool(question.get("heads")))
        if asked == "counts":
            return _counts(service, min(int(question.get("top", 100)), MAX_QUEUES))
        if asked == "shut":
            service.shut = bool(question["shut"])
            return {"ok": True, "left": _left(service)}
        if asked == "room":
            service.space.min_free_bytes = int(question["min_free_bytes"]) or DEFAULT_MIN_FREE_BYTES
            return {"ok": True}
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
        steps = MAX_ROWS if top else 0
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
        "outbox_bound": service.outbox_bound,
        "refusing": service.space.refusal or "",
        "full": service.space.full,
        "groups": service.groups,
        "operations": service.operations,
        "queues": queues[:top],
        "whole": not found,
    }


def _left(service: SpoolService) -> str:
    """What is not settled and exported; "" when there is nothing."""
    with service.env.begin() as txn:
        messages = txn.stat(service.tables.message)["entries"] + service.on_its_way()
    records = service.ledger.outbox_rows
    return f"{messages} messages and {records} records wait in it" if messages or records else ""


def _message(service: SpoolService, identity: bytes) -> dict[str, Any]:
    """The encoded Message and its queues, [number, name]; or whether its id was ever given to anybody (`issued`)."""
    tables = service.tables
    with service.env.begin() as txn:
        value = txn.get(identity, db=tables.message) if len(identity) == message_id.PACKED_SIZE else None
        if value is None:
            known = len(identity) == message_id.PACKED_SIZE
            shard, epoch, _ = message_id.unpack(identity) if known else (-1, 0, 0)
            return {"ok": False, "error": "no such message", "issued": shard == service.ledger.shard and 0 < epoch < service.ledger.next_epoch}
        opened, _, _, _, count = format.MESSAGE_HEAD.unpack_from(value)
        start = format.MESSAGE_HEAD.size
        numbers = [format.U32.unpack_from(value, start + 4 * index)[0] for index in range(count)]
        queues = [(number, (txn.get(format.U32.pack(number), db=tables.queue_name) or b"?").decode()) for number in numbers]
    return {"ok": True, "message": value[start + 4 * count :], "open": opened, "queues": queues}


def _names(service: SpoolService, prefix: str, after: str) -> dict[str, Any]:
    """[name, number] of queues whose names begin with *prefix*, with rows or not, behind *after*; `next`: "" or where to go on."""
    found: list[tuple[str, int]] = []
    wanted = prefix.encode()
    with service.env.begin() as txn:
        cursor = txn.cursor(service.tables.queue)
        there = cursor.set_range(max(wanted, after.encode() + b"\0" if after else b""))
        while there and len(found) < PAGE_MATCHES and cursor.key().startswith(wanted):
            found.append((cursor.key().decode(), format.U32.unpack(cursor.value())[0]))
            there = cursor.next()
        more = there and cursor.key().startswith(wanted)
    return {"ok": True, "names": found, "next": found[-1][0] if more and found else ""}


def _rows(service: SpoolService, number: int, after: bytes | None, identity: bytes | None, address: str | None) -> dict[str, Any]:
    """One page of a queue in the order in which it is sent: [key, encoded Due, rows of this page before it] of those that are of a message and of
    an address, where these are given; how many rows the page has; and the key to go on behind, b"" at the end.
    """
    found: list[tuple[bytes, bytes, int]] = []
    prefix, walked, last = format.U32.pack(number), 0, b""
    needle = address.encode() if address is not None else b""
    with service.env.begin() as txn:
        cursor = txn.cursor(service.tables.due)
        there = cursor.set_range(after + b"\0" if after else prefix)
        while there and cursor.key()[:4] == prefix and walked < PAGE_STEPS and len(found) < PAGE_MATCHES:
            last = cursor.key()
            if (identity is None or last[13:25] == identity) and (address is None or _is_to(cursor.value(), needle, address)):
                found.append((last, cursor.value(), walked))
            walked += 1
            there = cursor.next()
        more = there and cursor.key()[:4] == prefix
    return {"ok": True, "rows": found, "walked": walked, "next": last if more else b""}


def _is_to(value: bytes, needle: bytes, address: str) -> bool:
    return needle.lower() in value.lower() and _due.decode(value).address.lower() == address.lower()


def _queues(service: SpoolService, after: bytes | None, sizes: bool, heads: bool) -> dict[str, Any]:
    """One page over all queues that have rows: [number, name, rows of this page, their bytes if *sizes*, first due ms]; a queue may go on in the
    next page, behind the key `next` (b"" at the end).  *heads*: only the first row of each is looked at.
    """
    tables = service.tables
    found: list[list[Any]] = []
    walked, last = 0, b""
    cost = 3 if sizes else 1
    with service.env.begin() as txn:
        cursor = txn.cursor(tables.due)
        there = cursor.set_range(after + b"\0") if after else cursor.first()
        while there and walked < PAGE_STEPS:
            last = cursor.key()
            number, _, due_ms, message, _ = DUE_KEY.unpack(last)
            if not found or found[-1][0] != number:
                name = (txn.get(last[:4], db=tables.queue_name) or b"?").decode()
                found.append([number, name, 0, 0, due_ms])
            entry = found[-1]
            entry[2] += 1
            entry[4] = min(entry[4], due_ms)
            if sizes and (head := txn.get(message, db=tables.message)) is not None:
                entry[3] += format.MESSAGE_HEAD.unpack_from(head)[3]
            walked += cost
            if heads:
                last = last[:4] + _LAST
                there = cursor.set_range(last)
            else:
                there = cursor.next()
    return {"ok": True, "queues": found, "next": last if there else b""}
