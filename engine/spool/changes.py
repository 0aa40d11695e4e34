"""One group's operations as changes of the tables, inside one write transaction.

Reads happen where an operation needs them; writes are gathered and put sorted at the end, one call per table.  What the owner keeps in memory
(`Ledger`) is changed only by `Changes.adopt`, after the commit: a group that fails leaves no trace.
"""

from __future__ import annotations

from typing import Any

import lmdb

from engine.spool import format
from engine.spool.index import Tables
from engine.spool.ops import DUE_KEY, Accept, Exported, Move, Seal, Settle, Stamp
from engine.spool.wire import encode_refusals

_KEY_BYTES = DUE_KEY.size
_QUEUE_CACHE = 10_000  # a name that is not in it costs a look at the table, less than a microsecond
MAX_RECIPIENTS = 65_535  # of one message
_U32 = format.U32
_U64 = format.U64
_HEAD = format.MESSAGE_HEAD

Segment = tuple[int, int]  # epoch, number


class Ledger:
    """What the owner of the tables remembers between groups; all of it can be read back from them."""

    __slots__ = ("exported", "next_epoch", "next_outbox", "next_queue", "outbox_first", "queues", "shard", "stamp_ms")

    def __init__(self, txn: lmdb.Transaction[bytes], tables: Tables) -> None:
        def number(key: bytes, default: int) -> int:
            found = txn.get(key, db=tables.state)
            return default if found is None else int.from_bytes(found, "big")

        self.stamp_ms = number(format.STAMP, 0)
        self.next_epoch = number(format.NEXT_EPOCH, 1)
        self.next_queue = number(format.NEXT_QUEUE, 1)
        self.exported = number(format.EXPORTED, 0)
        self.shard = int.from_bytes(txn.get(format.SHARD, db=tables.meta) or b"\0\0", "big")
        self.queues: dict[str, int] = {}
        cursor = txn.cursor(tables.outbox)
        self.next_outbox = max(self.exported, int.from_bytes(cursor.key(), "big") if cursor.last() else 0) + 1
        self.outbox_first = int.from_bytes(cursor.key(), "big") if cursor.first() else self.next_outbox

    @property
    def outbox_rows(self) -> int:
        """Records that no sink has yet."""
        return self.next_outbox - max(self.outbox_first, self.exported + 1)


class Changes:
    """Operations applied to *txn*; call `finish`, commit, then `adopt`."""

    def __init__(self, txn: lmdb.Transaction[bytes], tables: Tables, ledger: Ledger, stamp_ms: int) -> None:
        self.stamp_ms = stamp_ms
        self.announced: dict[str, int] = {}  # queues with new mail, and their numbers
        self.unlink: list[Segment] = []  # files that hold nothing live once this is durable
        self.records: list[bytes] = []
        self.accepted = 0
        self.stamped = False  # the stamp is used up, though nothing was accepted
        self._txn = txn
        self._tables = tables
        self._ledger = ledger
        self._messages: dict[bytes, bytes] = {}
        self._due: dict[bytes, bytes] = {}
        self._closed: dict[bytes, int] = {}  # message -> recipients that left
        self._segments: dict[Segment, list[int]] = {}  # -> live messages, bytes, sealed
        self._queues: dict[str, int] = {}  # met in this group, new ones included
        self._new_queues: list[str] = []
        self._next_queue = ledger.next_queue
        self._next_epoch = ledger.next_epoch
        self._exported = ledger.exported
        self._outbox_first = ledger.outbox_first
        self._state: dict[bytes, bytes] = {}

    # --- operations of workers --------------------------------------------------------------------------------------------------

    def apply(self, operation: object, epoch: int, problems: dict[Segment, str]) -> str | None:
        """Apply what the worker that holds *epoch* sent, or say why it is refused; *problems*: why, for segments that could not be synced."""
        if type(operation) is Accept:
            reason = self._problem(operation, epoch, problems)
            if reason is None:
                self._accept(operation)
            return reason
        if type(operation) is Settle:
            return self._settle(operation, epoch, problems)
        if type(operation) is Seal:
            return self._seal(operation, epoch)
        if type(operation) is Exported:
            return self._export(operation)
        if type(operation) is Move:
            return self._move(operation, epoch, problems)
        if type(operation) is Stamp:
            self._state[format.STAMP] = _U64.pack(self.stamp_ms)
            self.stamped = True
        return None

    def _problem(self, accept: Accept, epoch: int, problems: dict[Segment, str]) -> str | None:
        """Why *accept* cannot be stored, or None."""
        identity = accept.id
        segment = accept.segment
        recipients = accept.recipients
        if len(identity) != 12 or int.from_bytes(identity[2:6], "big") != epoch or accept.epoch != epoch or not recipients:
            return "malformed accept"
        if not 0 <= segment < 1 << 32 or not 0 <= accept.size_bytes < 1 << 63:
            return "malformed body location"
        if len(recipients) > MAX_RECIPIENTS:
            return f"more than {MAX_RECIPIENTS} recipients"
        key = (epoch, segment)
        if problems and key in problems:
            return problems[key]
        if self._segment(key)[2] and not self._is_stored(identity):
            return "its segment is sealed"
        for recipient in recipients:
            if not 0 <= recipient.priority <= 255 or self._queue(recipient.queue) is None:
                return "unusable queue name or priority"
        return None

    def _accept(self, accept: Accept) -> None:
        """Store what has no `_problem`; a message that is there already stays as it is."""
        identity = accept.id
        if self._is_stored(identity):
            return
        epoch = accept.epoch
        segment = accept.segment
        size = accept.size_bytes
        recipients = accept.recipients
        pack = DUE_KEY.pack
        numbers: dict[int, bytes] = {}
        for index, recipient in enumerate(recipients):
            name = recipient.queue
            number = self._queues[name]
            key = pack(number, 255 - recipient.priority, self.stamp_ms, identity, index)
            self._due[key] = recipient.due
            if number not in numbers:
                numbers[number] = key[:4]
                self.announced[name] = number
        head = _HEAD.pack(len(recipients), epoch, segment, size, len(numbers))
        self._messages[identity] = b"".join((head, *numbers.values(), accept.message))
        row = self._segments[epoch, segment]
        row[0] += 1
        row[1] += size
        if segment & format.LARGE:
            row[2] = 1
        if accept.records:
            self.records += accept.records
        self.accepted += 1

    def _settle(self, settle: Settle, epoch: int, problems: dict[Segment, str]) -> str | None:
        """Apply outcomes, with the accept in it; or why nothing of it can be applied."""
        for row in settle.rows:
            if row.again_ms and not (0 < row.again_ms < 1 << 63 and row.due):
                return "malformed settlement"
        accept = settle.accept
        if accept is not None:
            reason = self._problem(accept, epoch, problems)
            if reason is not None:
                return reason
        present = False
        due = self._due
        for row in settle.rows:
            key = row.key
            if key in due:
                del due[key]
            elif len(key) != _KEY_BYTES or not self._txn.delete(key, db=self._tables.due):
                continue
            present = True
            if row.record:
                self.records.append(row.record)
            if row.again_ms:
                due[key[:5] + row.again_ms.to_bytes(8, "big") + key[13:]] = row.due
            else:
                message = key[13:25]
                self._closed[message] = self._closed.get(message, 0) + 1
        if present and accept is not None:
            self._accept(accept)
        if settle.records:
            self.records += settle.records
        return None

    def _seal(self, seal: Seal, epoch: int) -> str | None:
        """No more messages will name this segment; or why there is no such."""
        if seal.segment >> 32:
            return "malformed segment number"
        self._segment((epoch, seal.segment))[2] = 1
        return None

    def _export(self, exported: Exported) -> str | None:
        """Records up to a number lie in the sinks, their rows go in slices (`trim`); or why that cannot be stored."""
        names = [format.POSITION_PREFIX + name.encode("utf-8", "replace") for name in exported.positions]
        if max(map(len, names), default=0) > format.MAX_KEY_BYTES:
            return "the name of a sink is too long"
        self._exported = max(self._exported, min(exported.upto, self._ledger.next_outbox - 1))
        self._state.update(zip(names, exported.positions.values(), strict=True))
        return None

    def _move(self, move: Move, epoch: int, problems: dict[Segment, str]) -> str | None:
        """Take what lay in another spool, unless it was taken before; or why it cannot be."""
        key = format.MOVED_PREFIX + move.name.encode("utf-8", "replace")
        if len(key) > format.MAX_KEY_BYTES:
            return "the name of what is moved is too long"
        stored = self._state.get(key) or self._txn.get(key, db=self._tables.state) or b""
        if stored >= move.mark:
            return None
        if stored != move.after:
            return "something before it was not moved"
        if move.accept is not None:
            reason = self._problem(move.accept, epoch, problems)
            if reason is not None:
                return reason
            self._accept(move.accept)
        if move.records:
            self.records += move.records
        self._state[key] = move.mark
        return None

    def drop_large(self, accept: Accept, epoch: int) -> None:
        """*accept* was refused: a file made for its body alone holds nothing then."""
        key = (epoch, accept.segment)
        if accept.segment & format.LARGE and accept.epoch == epoch and not accept.segment >> 32 and not self._segment(key)[0]:
            del self._segments[key]
            self.unlink.append(key)

    # --- epochs -------------------------------------------------------------------------------------------------------------------

    def open_epoch(self) -> int:
        """A number that no connection ever had."""
        epoch = self._next_epoch
        self._next_epoch += 1
        self._state[format.NEXT_EPOCH] = _U32.pack(self._next_epoch)
        self._state[epoch_key(epoch)] = format.EPOCH_ROW.pack(0)
        return epoch

    def advance(self, epoch: int, last: int, refused: list[tuple[int, str]]) -> None:
        """Operations of *epoch* up to *last* are decided; *refused* are those that its worker may not have heard of."""
        self._state[epoch_key(epoch)] = format.EPOCH_ROW.pack(last) + (encode_refusals(refused) if refused else b"")

    def close_epoch(self, epoch: int) -> None:
        """Its worker is gone for ever: its segments are sealed and its number is forgotten."""
        self._state.pop(epoch_key(epoch), None)
        self._txn.delete(epoch_key(epoch), db=self._tables.state)
        cursor = self._txn.cursor(self._tables.segment)
        found = cursor.set_range(format.SEGMENT_KEY.pack(epoch, 0))
        while found:
            key = format.SEGMENT_KEY.unpack(cursor.key())
            if key[0] != epoch:
                break
            self._segment((key[0], key[1]))[2] = 1
            found = cursor.next()
        for key in list(self._segments):
            if key[0] == epoch:
                self._segments[key][2] = 1

    # --- end of the group -----------------------------------------------------------------------------------------------------------

    def trim(self, limit: int) -> None:
        """Delete up to *limit* outbox rows that the sinks have."""
        if self._outbox_first > self._exported or limit <= 0:
            return
        cursor = self._txn.cursor(self._tables.outbox)
        found = cursor.first()
        while found and limit:
            if int.from_bytes(cursor.key(), "big") > self._exported:
                break
            found = cursor.delete()
            limit -= 1
        self._outbox_first = int.from_bytes(cursor.key(), "big") if found else self._ledger.next_outbox

    def finish(self) -> None:
        """Write all that was gathered."""
        txn = self._txn
        tables = self._tables
        if self._new_queues:
            for name in self._new_queues:
                number = _U32.pack(self._queues[name])
                txn.put(name.encode(), number, db=tables.queue)
                txn.put(number, name.encode(), db=tables.queue_name)
            self._state[format.NEXT_QUEUE] = _U32.pack(self._next_queue)
        if self._messages:
            txn.cursor(tables.message).putmulti(sorted(self._messages.items()))
            self._state[format.STAMP] = _U64.pack(self.stamp_ms)
        if self._closed:
            self._close_messages()
        if self._due:
            txn.cursor(tables.due).putmulti(sorted(self._due.items()))
        if self.records:
            first = self._ledger.next_outbox
            items = [(_U64.pack(first + index), record) for index, record in enumerate(self.records)]
            txn.cursor(tables.outbox).putmulti(items, append=True)
        if self._exported != self._ledger.exported:
            self._state[format.EXPORTED] = _U64.pack(self._exported)
        self._write_segments()
        if self._state:
            txn.cursor(tables.state).putmulti(sorted(self._state.items()))

    def adopt(self) -> None:
        """The group is durable: remember it."""
        ledger = self._ledger
        if self.accepted or self.stamped:
            ledger.stamp_ms = self.stamp_ms
        ledger.next_epoch = self._next_epoch
        ledger.next_queue = self._next_queue
        ledger.next_outbox += len(self.records)
        ledger.exported = self._exported
        ledger.outbox_first = self._outbox_first
        if len(ledger.queues) > _QUEUE_CACHE:
            ledger.queues.clear()
        ledger.queues.update(self._queues)

    # --- parts ----------------------------------------------------------------------------------------------------------------------

    def _queue(self, name: str) -> int | None:
        """Its number, a new one if need be; None if no queue can be called that."""
        number = self._queues.get(name)
        if number is not None:
            return number
        number = self._ledger.queues.get(name)
        if number is None:
            try:
                key = name.encode()
            except UnicodeEncodeError:
                return None
            if not 0 < len(key) <= format.MAX_QUEUE_NAME_BYTES:
                return None
            found = self._txn.get(key, db=self._tables.queue)
            if found is not None:
                number = int(_U32.unpack(found)[0])
            else:
                number = self._next_queue
                self._next_queue += 1
                self._new_queues.append(name)
        self._queues[name] = number
        return number

    def _is_stored(self, identity: bytes) -> bool:
        return identity in self._messages or self._txn.get(identity, db=self._tables.message) is not None

    def _segment(self, key: Segment) -> list[int]:
        row = self._segments.get(key)
        if row is None:
            found = self._txn.get(format.SEGMENT_KEY.pack(*key), db=self._tables.segment)
            row = self._segments[key] = list(format.SEGMENT_ROW.unpack(found)) if found is not None else [0, 0, 0]
        return row

    def _close_messages(self) -> None:
        cursor = self._txn.cursor(self._tables.message)
        kept: list[tuple[bytes, bytes]] = []
        for identity, count in sorted(self._closed.items()):
            value: Any = cursor.get(identity)
            if value is None:
                continue
            opened, epoch, segment, size, _ = _HEAD.unpack_from(value)
            if opened > count:
                kept.append((identity, _U32.pack(opened - count) + value[4:]))
                continue
            cursor.delete()
            row = self._segment((epoch, segment))
            row[0] -= 1
            row[1] -= size
        if kept:
            cursor.putmulti(kept)

    def _write_segments(self) -> None:
        table = self._tables.segment
        rows: list[tuple[bytes, bytes]] = []
        for key, (messages, size, sealed) in self._segments.items():
            packed = format.SEGMENT_KEY.pack(*key)
            if messages <= 0 and sealed:
                self._txn.delete(packed, db=table)
                self.unlink.append(key)
            elif messages > 0 or sealed or self._txn.get(packed, db=table) is not None:
                rows.append((packed, format.SEGMENT_ROW.pack(max(messages, 0), max(size, 0), sealed)))
        if rows:
            rows.sort()
            self._txn.cursor(table).putmulti(rows)


def epoch_key(epoch: int) -> bytes:
    """Key of an epoch's row in `state`."""
    return format.EPOCH_PREFIX + _U32.pack(epoch)
