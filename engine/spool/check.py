"""Whether a spool is whole: a scan of all that lies in it, independent of the code that wrote it.

The spool is closed (whoever calls this holds its lock) or a copy; nothing is written, not even LMDB's lock file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import msgspec

from engine.errors import SpoolError, StartError
from engine.mail.envelope import DUE_KEY, Body, Due, Message
from engine.spool import format, index, wire

PASS_MESSAGES = 500_000  # messages whose recipients are counted in one walk over `due`: some 100 MB
CHUNK_BYTES = 1 << 20
PROGRESS_ROWS = 1_000

Progress = Callable[[str, int, int], None]  # what is looked at, how much of it is done, of how much

_decode_due = msgspec.msgpack.Decoder(Due).decode
_decode_message = msgspec.msgpack.Decoder(Message).decode
_NUMBERS = {format.NEXT_EPOCH: 4, format.NEXT_QUEUE: 4, format.STAMP: 8, format.EXPORTED: 8}  # rows of `state` and their sizes


class Problem(NamedTuple):
    """Something that no spool of ours has."""

    kind: str  # "spool", "index", "queue", "message", "recipient", "body", "segment", "outbox", "state"; "orphan": only space is lost
    where: str  # a row or a file, as an operator writes it
    text: str
    message: bytes = b""  # id of the message that it harms, where it is one

    def __str__(self) -> str:
        return f"{self.kind} {self.where}: {self.text}"


def check(root: str | Path, *, bodies: bool = True, progress: Progress = lambda what, done, total: None) -> Iterator[Problem]:
    """Every problem of the closed spool in *root*, as it is found; none: it is whole.  *bodies*: read every body too.

    A page of the index that is damaged ends the look at its table with a problem of kind "index"; raises nothing but OSError,
    of a disk that cannot be read.
    """
    path = Path(root)
    try:
        format.check_marker(path, (path / format.MARKER).read_text("ascii"))
        env = index.open_copy(path / format.INDEX)
    except (OSError, UnicodeDecodeError, StartError, lmdb.Error) as error:
        yield Problem("spool", str(path), str(error))
        return
    with env:
        try:
            tables = index.Tables(lambda name: env.open_db(name, create=False))
            txn = env.begin()
        except lmdb.Error as error:
            yield Problem("index", str(path / format.INDEX), f"a table cannot be opened: {error}")
            return
        with txn:
            scan = Scan(path, txn, tables, progress)
            parts = (scan.state, scan.queues, scan.messages, scan.recipients, scan.segments, scan.outbox, *([scan.bodies] if bodies else []))
            for part in parts:
                try:
                    yield from part()
                except (lmdb.Error, SpoolError) as error:
                    yield Problem("index", part.__name__, f"its rows cannot be read further: {error}")


class Scan:
    """One walk over everything, part by part in the order of `check`."""

    def __init__(self, root: Path, txn: lmdb.Transaction[bytes], tables: index.Tables, progress: Progress) -> None:
        self._bodies = root / format.BODIES
        self._txn = txn
        self._tables = tables
        self._progress = progress
        self._numbers = dict.fromkeys(_NUMBERS, 0)
        self._numbers[format.NEXT_EPOCH] = self._numbers[format.NEXT_QUEUE] = 1
        self._open_epochs: set[int] = set()
        self._live: dict[tuple[int, int], tuple[int, int]] = {}  # segment -> messages and bytes, as `message` says

    def state(self) -> Iterator[Problem]:
        """Numbers, epochs and positions."""
        for table, key, size in ((self._tables.meta, format.VERSION, 4), (self._tables.meta, format.SHARD, 2)):
            value = self._txn.get(key, db=table)
            if value is None or len(value) != size:
                yield Problem("state", key.decode(), "is missing or malformed")
        for key, value in self._rows("state", self._tables.state):
            if key in _NUMBERS and len(value) == _NUMBERS[key]:
                self._numbers[key] = int.from_bytes(value, "big")
            elif key.startswith(format.EPOCH_PREFIX) and len(key) == len(format.EPOCH_PREFIX) + 4 and _is_epoch_row(value):
                self._open_epochs.add(int.from_bytes(key[len(format.EPOCH_PREFIX) :], "big"))
            elif not key.startswith((format.POSITION_PREFIX, format.MOVED_PREFIX)):
                yield Problem("state", repr(key), "is no row of ours, or malformed")
        for epoch in sorted(self._open_epochs):
            if not 0 < epoch < self._numbers[format.NEXT_EPOCH]:
                yield Problem("state", f"epoch {epoch}", f"is open, and the next one is {self._numbers[format.NEXT_EPOCH]}")

    def queues(self) -> Iterator[Problem]:
        """Names and numbers are the same pairs in both tables."""
        names = self._txn.stat(self._tables.queue)["entries"]
        numbers = self._txn.stat(self._tables.queue_name)["entries"]
        if names != numbers:
            yield Problem("queue", "table", f"{names} names, {numbers} numbers")
        for name, number in self._rows("queues", self._tables.queue):
            if self._txn.get(number, db=self._tables.queue_name) != name:
                yield Problem("queue", repr(name), f"has number {number.hex()}, which is another's")
            elif len(number) != 4 or not 0 < int.from_bytes(number, "big") < self._numbers[format.NEXT_QUEUE]:
                yield Problem("queue", repr(name), f"has number {number.hex()}, past the next one to be given")

    def messages(self) -> Iterator[Problem]:
        """Each by itself: its row and where its body is to lie."""
        for identity, value in self._rows("messages", self._tables.message):
            message = parse_message(value)
            if message is None or len(identity) != 12:
                yield Problem("message", identity.hex(), "its row is malformed", identity)
                continue
            opened, epoch, segment, size, count = format.MESSAGE_HEAD.unpack_from(value)
            body = message.body
            if (body.epoch, body.segment, body.size_bytes) != (epoch, segment, size):
                yield Problem("message", identity.hex(), f"its row names two places: {_place(body)} and segment {epoch:08x}-{segment:08x}", identity)
            if not opened:
                yield Problem("message", identity.hex(), "has no recipient left", identity)
            numbers = queue_numbers(value)
            if len(set(numbers)) != count or any(self._txn.get(number, db=self._tables.queue_name) is None for number in numbers):
                yield Problem("message", identity.hex(), "names queues twice or that are unknown", identity)
            messages, live = self._live.get((epoch, segment), (0, 0))
            self._live[epoch, segment] = messages + 1, live + size

    def recipients(self) -> Iterator[Problem]:
        """Each waiting recipient has a message that counts it, and each message as many as it counts."""
        passes = 1 + self._txn.stat(self._tables.message)["entries"] // PASS_MESSAGES
        for number in range(passes):
            yield from self._recipients(number, passes)

    def _recipients(self, number: int, passes: int) -> Iterator[Problem]:
        """Those of the messages whose ids fall into part *number* of *passes*."""
        found: dict[bytes, int] = {}  # message -> bits of the recipients that wait
        for key, value in self._rows("recipients", self._tables.due):
            identity = key[13:25]
            if int.from_bytes(identity[-4:], "big") % passes != number:
                continue
            if len(key) != DUE_KEY.size or not _decodes(_decode_due, value):
                yield Problem("recipient", key.hex(), "its row is malformed", identity)
                continue
            bit = 1 << int.from_bytes(key[25:], "big")
            if found.get(identity, 0) & bit:
                yield Problem("recipient", key.hex(), "waits twice", identity)
            found[identity] = found.get(identity, 0) | bit
            row = self._txn.get(identity, db=self._tables.message)
            if row is None:
                yield Problem("recipient", key.hex(), "its message is not there", identity)
            elif parse_message(row) is not None and key[:4] not in queue_numbers(row):
                yield Problem("recipient", key.hex(), "its message does not name its queue", identity)
        for identity, value in self._txn.cursor(self._tables.message):
            if int.from_bytes(identity[-4:], "big") % passes == number and len(value) >= format.MESSAGE_HEAD.size:
                opened, waiting = format.MESSAGE_HEAD.unpack_from(value)[0], found.get(identity, 0).bit_count()
                if opened != waiting:
                    yield Problem("message", identity.hex(), f"counts {opened} recipients, {waiting} wait", identity)

    def segments(self) -> Iterator[Problem]:
        """Each row counts what `message` says, and each file has a row, or an epoch that may still fill it."""
        rows: set[tuple[int, int]] = set()
        files = set(self._files())
        if not self._bodies.is_dir():
            yield Problem("spool", str(self._bodies), "is not there")
        for key, value in self._rows("segments", self._tables.segment):
            if len(key) != format.SEGMENT_KEY.size or len(value) != format.SEGMENT_ROW.size:
                yield Problem("segment", key.hex(), "its row is malformed")
                continue
            epoch, number = segment = format.SEGMENT_KEY.unpack(key)
            messages, live, sealed = format.SEGMENT_ROW.unpack(value)
            name = format.segment_name(epoch, number)
            rows.add((epoch, number))
            counted = self._live.get(segment, (0, 0))
            if (messages, live) != counted:
                yield Problem("segment", name, f"its row says {messages} messages of {live} bytes, there are {counted[0]} of {counted[1]}")
            if sealed not in (0, 1) or (sealed and not messages) or (number & format.LARGE and (not sealed or messages > 1)):
                yield Problem("segment", name, f"sealed={sealed} with {messages} messages cannot be")
            if not sealed and epoch not in self._open_epochs:
                yield Problem("segment", name, "can never go: it is not sealed, and its epoch is closed")
            if segment not in files:
                yield Problem("segment", name, f"{messages} messages lie in it, and there is no such file")
        for epoch, number in sorted(self._live.keys() - rows):
            yield Problem("segment", format.segment_name(epoch, number), "messages lie in it, and it has no row")
        for epoch, number in sorted(files - rows):
            name = format.segment_name(epoch, number)
            if epoch >= self._numbers[format.NEXT_EPOCH]:
                yield Problem("segment", name, "its epoch was never opened")
            elif epoch not in self._open_epochs:
                yield Problem("orphan", name, "no message lies in it; the next start removes it")

    def outbox(self) -> Iterator[Problem]:
        """Records have consecutive numbers from the first that no sink has."""
        exported = self._numbers[format.EXPORTED]
        expected = 0
        for key, _ in self._rows("outbox", self._tables.outbox):
            number = int.from_bytes(key, "big")
            if len(key) != 8 or (number != expected if expected else not 0 < number <= exported + 1):
                yield Problem("outbox", f"record {number}", f"follows {expected - 1 if expected else exported}: records are missing")
            expected = number + 1
        if 0 < expected <= exported:
            yield Problem("outbox", f"record {exported}", f"is exported, and the last one is {expected - 1}")

    def bodies(self) -> Iterator[Problem]:
        """Each body is where its row says, and is what was written."""
        opened: tuple[int, int] = (0, 0)
        descriptor = -1
        try:
            for identity, value in self._rows("bodies", self._tables.message):
                message = parse_message(value)
                if message is None:
                    continue  # told already
                body = message.body
                if descriptor < 0 or opened != (body.epoch, body.segment):
                    if descriptor >= 0:
                        os.close(descriptor)
                    opened = body.epoch, body.segment
                    descriptor = self._open(*opened)
                problem = _damage(descriptor, body, identity) if descriptor >= 0 else "there is no such file"
                if problem:
                    yield Problem("body", _place(body), problem, identity)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self, epoch: int, segment: int) -> int:
        """The file, or -1."""
        try:
            return os.open(self._bodies / format.segment_name(epoch, segment), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1

    def _files(self) -> Iterator[tuple[int, int]]:
        """The segments in bodies/."""
        if not self._bodies.is_dir():
            return
        with os.scandir(self._bodies) as entries:
            for entry in entries:
                segment = format.parse_segment_name(entry.name)
                if segment is not None and entry.is_file(follow_symlinks=False):
                    yield segment

    def _rows(self, what: str, table: Any) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table, which has as many as it says; SpoolError if not."""
        total = self._txn.stat(table)["entries"]
        done = 0
        last = b""
        for key, value in self._txn.cursor(table):
            if key <= last:
                raise SpoolError(f"key {key.hex()} follows {last.hex()}")
            last = key
            yield key, value
            done += 1
            if done % PROGRESS_ROWS == 0:
                self._progress(what, done, total)
        self._progress(what, done, total)
        if done != total:
            raise SpoolError(f"{done} rows, the table says {total}")


def _damage(descriptor: int, body: Body, identity: bytes) -> str:
    """What is wrong with a body, "" for nothing."""
    head = os.pread(descriptor, format.RECORD_HEAD.size, max(body.offset - format.RECORD_HEAD.size, 0))
    if head != format.record_head(identity, body.size_bytes, body.checksum):
        return "another record lies there" if len(head) == format.RECORD_HEAD.size else "the file ends before it"
    checksum = position = 0
    while position < body.size_bytes:
        data = os.pread(descriptor, min(CHUNK_BYTES, body.size_bytes - position), body.offset + position)
        if not data:
            return f"the file ends inside it, after {position} of {body.size_bytes} bytes"
        checksum = format.checksum(data, checksum)
        position += len(data)
    return "" if checksum == body.checksum else f"checksum {checksum:08x}, stored {body.checksum:08x}"


def parse_message(value: bytes) -> Message | None:
    """The message of a row; None for a malformed one."""
    if len(value) < format.MESSAGE_HEAD.size:
        return None
    start = format.MESSAGE_HEAD.size + 4 * int(format.MESSAGE_HEAD.unpack_from(value)[4])
    try:
        return _decode_message(memoryview(value)[start:])
    except msgspec.DecodeError:
        return None


def queue_numbers(value: bytes) -> list[bytes]:
    """The queues that the row of a message names."""
    start, count = format.MESSAGE_HEAD.size, int(format.MESSAGE_HEAD.unpack_from(value)[4])
    return [value[start + 4 * at : start + 4 * at + 4] for at in range(count)]


def _is_epoch_row(value: bytes) -> bool:
    refusals = value[format.EPOCH_ROW.size :]
    return len(value) >= format.EPOCH_ROW.size and (not refusals or _decodes(wire.decode_refusals, refusals))


def _decodes(decode: Callable[[bytes], object], value: bytes) -> bool:
    try:
        decode(value)
    except msgspec.DecodeError:
        return False
    return True


def _place(body: Body) -> str:
    return f"{format.segment_name(body.epoch, body.segment)} at {body.offset}"
