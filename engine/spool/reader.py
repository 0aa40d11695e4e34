"""The spool as everybody else sees it: short read transactions on the index, verified reads of bodies."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import lmdb
import msgspec

from engine.clock import monotonic_s
from engine.errors import SpoolError
from engine.mail.envelope import DUE_KEY, Body, Due, Message
from engine.spool import format, index
from engine.spool.format import BodyCorrupt, BodyMissing

MAX_OPEN = 64
CHUNK_BYTES = 256 << 10
_SWEEP_S = 1.0
_decode_due = msgspec.msgpack.Decoder(Due).decode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_U32 = format.U32
_U64 = format.U64
_HEAD_BYTES = format.MESSAGE_HEAD.size
_RECORD_HEAD_BYTES = format.RECORD_HEAD.size
_LAST = b"\xff" * DUE_KEY.size

Result = TypeVar("Result")


class SpoolReader:
    """Read-only; open it after exec, one per process and spool.  Every call begins and ends its own transaction of a bounded number of rows."""

    def __init__(self, path: str | Path, opened: tuple[lmdb.Environment, index.Tables] | None = None) -> None:
        """SpoolError while the spool process has not made the index.  *opened*: the index, where this process has it open already."""
        root = Path(path)
        self._bodies = root / format.BODIES
        self._shared = opened is not None
        self._env, self._tables = opened or index.open_for_reading(root)
        self._files: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._sweep_at_s = 0.0

    def close(self) -> None:
        """Give everything back."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        if not self._shared:
            self._env.close()

    # --- index -------------------------------------------------------------------------------------------------------------------------

    def due(self, queue: int, after: bytes | None, until_ms: int, limit: int) -> tuple[list[tuple[bytes, Due]], int | None]:
        """Up to *limit* rows of *queue* with due <= *until_ms*, in key order after key *after*; then the earliest due time past *until_ms* of
        the rows behind, None if there are none or *limit* cut the walk.
        """
        return self._read(lambda txn: self._due(txn, queue, after, until_ms, limit))

    def _due(
        self, txn: lmdb.Transaction[bytes], queue: int, after: bytes | None, until_ms: int, limit: int
    ) -> tuple[list[tuple[bytes, Due]], int | None]:
        rows: list[tuple[bytes, Due]] = []
        later: int | None = None
        prefix = _U32.pack(queue)
        until = until_ms.to_bytes(8, "big")
        cursor = txn.cursor(self._tables.due)
        found = cursor.set_range(after + b"\0" if after is not None else prefix)
        while found:
            key = cursor.key()
            if key[:4] != prefix:
                break
            if key[5:13] <= until:
                if len(rows) >= limit:
                    return rows, None
                rows.append((key, _decode_due(cursor.value())))
                found = cursor.next()
                continue
            due_ms = int.from_bytes(key[5:13], "big")
            later = due_ms if later is None else min(later, due_ms)
            found = cursor.set_range(key[:5] + _LAST)  # the next priority
        return rows, later

    def named_due(self, queue: int, until_ms: int, limit: int) -> tuple[str, list[tuple[bytes, Due]], int | None]:
        """`queue_name` and `due` from the first row on, in one look; KeyError if no queue has this number."""
        name, (rows, later) = self._read(lambda txn: (self._name(txn, queue), self._due(txn, queue, None, until_ms, limit)))
        return name, rows, later

    def messages(self, ids: Iterable[bytes]) -> dict[bytes, Message]:
        """The messages that are still there."""
        wanted = list(ids)
        return self._read(lambda txn: self._messages(txn, wanted))

    def _messages(self, txn: lmdb.Transaction[bytes], ids: list[bytes]) -> dict[bytes, Message]:
        found: dict[bytes, Message] = {}
        for identity in ids:
            value = txn.get(identity, db=self._tables.message)
            if value is not None:
                found[identity] = _decode_message(memoryview(value)[_HEAD_BYTES + 4 * int.from_bytes(value[20:22], "big") :])
        return found

    def queues(self, after: int, limit: int) -> list[tuple[int, int]]:
        """(number, due time in ms of its first row) of up to *limit* queues with rows and numbers over *after*, in order of number."""
        return self._read(lambda txn: self._queues(txn, after, limit))

    def _queues(self, txn: lmdb.Transaction[bytes], after: int, limit: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        cursor = txn.cursor(self._tables.due)
        while len(found) < limit and cursor.set_range(_U32.pack(after + 1)):
            after, _, due_ms, _, _ = DUE_KEY.unpack(cursor.key())
            found.append((after, due_ms))
        return found

    def queue_name(self, number: int) -> str:
        """`domain/vmta`; KeyError if no queue has this number."""
        return self._read(lambda txn: self._name(txn, number))

    def _name(self, txn: lmdb.Transaction[bytes], number: int) -> str:
        value = txn.get(_U32.pack(number), db=self._tables.queue_name)
        if value is None:
            raise KeyError(number)
        return value.decode()

    def outbox(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to *limit* (number, record) past *after* and past what was exported, in order."""
        return self._read(lambda txn: self._outbox(txn, after, limit))

    def _outbox(self, txn: lmdb.Transaction[bytes], after: int, limit: int) -> list[tuple[int, bytes]]:
        exported = txn.get(format.EXPORTED, db=self._tables.state)
        start = max(after, int.from_bytes(exported, "big") if exported else 0) + 1
        rows: list[tuple[int, bytes]] = []
        cursor = txn.cursor(self._tables.outbox)
        found = cursor.set_range(_U64.pack(start))
        while found and len(rows) < limit:
            key, value = cursor.item()
            rows.append((int.from_bytes(key, "big"), value))
            found = cursor.next()
        return rows

    def moved(self, name: str) -> bytes:
        """The mark of the last Move of this name; b"" if there was none."""
        key = format.MOVED_PREFIX + name.encode()
        return self._read(lambda txn: txn.get(key, db=self._tables.state)) or b""

    def rows(self, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to *limit* rows of `due` past key *after*, of any queue and time, encoded."""
        return self._read(lambda txn: self._rows(txn, after, limit))

    def _rows(self, txn: lmdb.Transaction[bytes], after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        cursor = txn.cursor(self._tables.due)
        found = cursor.set_range(after + b"\0" if after else b"\0")
        while found and len(rows) < limit:
            rows.append(cursor.item())
            found = cursor.next()
        return rows

    def ripe(self, after: bytes, until_ms: int, limit: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Up to *limit* rows of `due` past key *after* with due <= *until_ms*, of any queue, encoded; and the key to go on behind, b"" at the end."""
        return self._read(lambda txn: self._ripe(txn, after, until_ms.to_bytes(8, "big"), limit))

    def _ripe(self, txn: lmdb.Transaction[bytes], after: bytes, until: bytes, limit: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
        rows: list[tuple[bytes, bytes]] = []
        steps = limit
        cursor = txn.cursor(self._tables.due)
        found = cursor.set_range(after + b"\0")
        while found and steps:
            steps -= 1
            after = cursor.key()
            if after[5:13] <= until:
                rows.append((after, cursor.value()))
                found = cursor.next()
            else:
                after = after[:5] + _LAST[5:]  # the next priority
                found = cursor.set_range(after)
        return rows, after if found else b""

    def waiting(self) -> int:
        """How many recipients there are."""
        return self._read(lambda txn: int(txn.stat(self._tables.due)["entries"]))

    def stamp_ms(self) -> int:
        """The due time of the newest mail that is durable; what comes later is stamped later."""
        return int.from_bytes(self._read(lambda txn: txn.get(format.STAMP, db=self._tables.state)) or b"", "big")

    def name(self) -> str:
        """What the first spool knows this one by; "" for one that was never anything but the first."""
        return (self._read(lambda txn: txn.get(format.NAME, db=self._tables.meta)) or b"").hex()

    def positions(self) -> dict[str, bytes]:
        """What the last Exported said of each sink."""
        return self._read(self._positions)

    def _positions(self, txn: lmdb.Transaction[bytes]) -> dict[str, bytes]:
        positions: dict[str, bytes] = {}
        cursor = txn.cursor(self._tables.state)
        found = cursor.set_range(format.POSITION_PREFIX)
        while found:
            key, value = cursor.item()
            if not key.startswith(format.POSITION_PREFIX):
                break
            positions[key[len(format.POSITION_PREFIX) :].decode()] = value
            found = cursor.next()
        return positions

    def _read(self, work: Callable[[lmdb.Transaction[bytes]], Result]) -> Result:
        try:
            with self._env.begin() as txn:
                return work(txn)
        except lmdb.MapResizedError:
            self._env.set_mapsize(0)
            with self._env.begin() as txn:
                return work(txn)

    # --- bodies ------------------------------------------------------------------------------------------------------------------------

    def body(self, body: Body, message_id: bytes) -> bytes:
        """The body in wire form.  A body that moved meanwhile is found where it is now; BodyMissing or BodyCorrupt if its row still says *body*."""
        try:
            return self._body(body, message_id)
        except (BodyMissing, BodyCorrupt) as problem:
            return self._body(self._moved(body, message_id, problem), message_id)

    def body_chunks(self, body: Body, message_id: bytes) -> Iterator[bytes]:
        """The same in pieces of CHUNK_BYTES; a bad checksum is known only at the end, as BodyCorrupt in place of the last piece."""
        try:
            descriptor = self._open_body(body, message_id)
        except (BodyMissing, BodyCorrupt) as problem:
            body = self._moved(body, message_id, problem)
            descriptor = self._open_body(body, message_id)
        try:
            descriptor = os.dup(descriptor)  # the file may be closed, even unlinked, before the last piece
        except OSError as error:
            raise SpoolError(f"{_where(body)}: {error.strerror or error}") from error
        try:
            checksum = position = 0
            while position < body.size_bytes:
                data = _pread(descriptor, min(CHUNK_BYTES, body.size_bytes - position), body.offset + position, body)
                if not data:
                    raise BodyCorrupt(f"{_where(body)}: the file ends inside a body")
                checksum = format.checksum(data, checksum)
                position += len(data)
                if position == body.size_bytes and checksum != body.checksum:
                    raise BodyCorrupt(f"{_where(body)}: checksum {checksum:08x}, stored {body.checksum:08x}")
                yield data
        finally:
            os.close(descriptor)

    def sweep(self) -> None:
        """Close the files that were unlinked: they hold their disk space until then.  Reading bodies does it; call it when idle."""
        self._sweep_at_s = monotonic_s() + _SWEEP_S
        for key, descriptor in list(self._files.items()):
            if os.fstat(descriptor).st_nlink == 0:
                _close_aside(self._files.pop(key))

    def _body(self, body: Body, message_id: bytes) -> bytes:
        data = _pread(self._file(body), _RECORD_HEAD_BYTES + body.size_bytes, body.offset - _RECORD_HEAD_BYTES, body)
        if len(data) != _RECORD_HEAD_BYTES + body.size_bytes:
            raise BodyCorrupt(f"{_where(body)}: the file ends inside a body")
        if data[:_RECORD_HEAD_BYTES] != format.record_head(message_id, body.size_bytes, body.checksum):
            raise BodyCorrupt(f"{_where(body)}: another record lies there")
        data = data[_RECORD_HEAD_BYTES:]
        checksum = format.checksum(data)
        if checksum != body.checksum:
            raise BodyCorrupt(f"{_where(body)}: checksum {checksum:08x}, stored {body.checksum:08x}")
        return data

    def _open_body(self, body: Body, message_id: bytes) -> int:
        descriptor = self._file(body)
        head = _pread(descriptor, _RECORD_HEAD_BYTES, body.offset - _RECORD_HEAD_BYTES, body)
        if head != format.record_head(message_id, body.size_bytes, body.checksum):
            raise BodyCorrupt(f"{_where(body)}: another record lies there")
        return descriptor

    def _moved(self, body: Body, message_id: bytes, problem: SpoolError) -> Body:
        """Where the row says it is now; raises *problem* if that is where we looked."""
        message = self.messages([message_id]).get(message_id)
        if message is None:
            raise BodyMissing(f"{_where(body)}: its message is gone")
        if message.body == body:
            raise problem
        return message.body

    def _file(self, body: Body) -> int:
        if monotonic_s() > self._sweep_at_s:
            self.sweep()
        key = (body.epoch, body.segment)
        descriptor = self._files.get(key)
        if descriptor is not None:
            self._files.move_to_end(key)
            return descriptor
        try:
            descriptor = os.open(self._bodies / format.segment_name(*key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise BodyMissing(f"{_where(body)}: no such file") from error
        except OSError as error:
            raise SpoolError(f"{_where(body)}: {error.strerror or error}") from error
        self._files[key] = descriptor
        while len(self._files) > MAX_OPEN:
            os.close(self._files.popitem(last=False)[1])
        return descriptor


def _pread(descriptor: int, size: int, offset: int, body: Body) -> bytes:
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise BodyMissing(f"{_where(body)}: {error.strerror or error}") from error


def _close_aside(descriptor: int) -> None:
    """Close the last descriptor of an unlinked segment in a thread of its own: freeing its pages takes the kernel tens of milliseconds."""
    threading.Thread(target=os.close, args=(descriptor,), name="close", daemon=True).start()


def _where(body: Body) -> str:
    return f"body at {body.offset} of {format.segment_name(body.epoch, body.segment)}"
