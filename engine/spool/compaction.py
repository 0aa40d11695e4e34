"""Keeps the disk within a bound of what is live: copies the live bodies of sparse sealed segments into segments of our own, in slices between groups.

A slice is copied and synced before the transaction that moves its rows; that transaction looks at each row again; the old file goes after the
commit that moved its last row.  So a crash leaves at worst copies that no row names, in a file that goes with its epoch.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import lmdb
import msgspec

from engine.clock import monotonic_s
from engine.errors import SpoolError
from engine.mail.envelope import Body, Message
from engine.spool import format
from engine.spool.changes import Ledger, epoch_key
from engine.spool.files import Segment, SegmentFiles
from engine.spool.index import Tables

LOOK_EVERY_S = 0.1
LOOK_PAUSE = 50  # ... and this many times as long as the last look took
AFTER_FAILURE_S = 60.0
START_RATIO = 1.2  # bytes of sealed segments by the live ones at which it begins: 1.3 is promised, and more dies while it works
SLACK_BYTES = 2 * format.SEGMENT_BYTES  # below this much waste it is not worth it; twice as much is promised
SPARSE = 1 / START_RATIO  # segments fuller than this are left alone: with none sparser, all together are within the ratio
SLICE_BYTES = 2 << 20
SLICE_RECORDS = 4096
SLICE_S = 0.005

_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(Message).decode


class Copied(NamedTuple):
    """One live body, and where its copy lies."""

    message_id: bytes
    old: Body
    new: Body


class Compactor:
    """Call `step` now and then: it does one slice, or looks for work every LOOK_EVERY_S."""

    def __init__(self, env: lmdb.Environment, tables: Tables, ledger: Ledger, files: SegmentFiles) -> None:
        self._env = env
        self._tables = tables
        self._ledger = ledger
        self._files = files
        self.damaged: set[Segment] = set()  # left as they are
        self._look_at_s = monotonic_s() + LOOK_EVERY_S
        self._sizes: dict[Segment, int] = {}  # of sealed segments, which grow no more
        self._todo: list[Segment] = []
        self._source = -1
        self._position = 0
        self._epoch = 0
        self._number = 0
        self._target = -1
        self._end = 0
        self._left: list[int] = []  # files that we gave up, to be sealed with the next slice

    @property
    def busy(self) -> bool:
        """Whether there is a slice to do now."""
        return bool(self._todo)

    @property
    def left(self) -> int:
        """How many segments are still to be emptied."""
        return len(self._todo)

    def step(self) -> None:
        """One slice.  OSError, lmdb.Error or SpoolError if it cannot be done: `give_up` then, and all is as before."""
        if not self._todo:
            if monotonic_s() < self._look_at_s:
                return
            self.plan(START_RATIO, SLACK_BYTES)
            return
        segment = self._todo[0]
        if self._source < 0:
            try:
                self._source = os.open(self._files.directory / format.segment_name(*segment), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:  # its last recipient has left meanwhile
                self._todo.pop(0)
                return
            self._position = 0
        copied, ended = self._copy(segment)
        if copied:
            self._files.sync_own(self._target)
            self._move(segment, copied)
        if ended:
            self._todo.pop(0)
            os.close(self._source)
            self._source = -1

    def plan(self, start_ratio: float, slack_bytes: int) -> int:
        """Look for work now: how many segments are to be emptied.  None, unless the bytes of sealed segments are over *start_ratio* times
        the live ones and *slack_bytes* more.
        """
        began_s = monotonic_s()
        self._todo = self._sparse(start_ratio, slack_bytes)
        ended_s = monotonic_s()
        self._look_at_s = ended_s + LOOK_EVERY_S + LOOK_PAUSE * (ended_s - began_s)
        return len(self._todo)

    def give_up(self) -> None:
        """Forget what was planned, write to this file no more, and look again later."""
        self._todo = []
        self._look_at_s = monotonic_s() + AFTER_FAILURE_S
        if self._source >= 0:
            os.close(self._source)
            self._source = -1
        if self._target >= 0:
            self._leave_target()
            self._left.append(self._number)

    def close(self) -> None:
        """Give the descriptors back."""
        self.give_up()

    def _sparse(self, start_ratio: float, slack_bytes: int) -> list[Segment]:
        """Sealed segments to empty, the sparsest first and no more than it takes, if there is enough waste in all."""
        total = total_live = 0
        sizes: dict[Segment, int] = {}
        sparse: list[tuple[float, int, Segment]] = []
        with self._env.begin() as txn:
            for key, value in txn.cursor(self._tables.segment):
                messages, live, sealed = format.SEGMENT_ROW.unpack(value)
                if not sealed:
                    continue
                epoch, number = format.SEGMENT_KEY.unpack(key)
                live += messages * format.RECORD_HEAD.size
                total_live += live
                if number & format.LARGE:  # lives whole, or not at all
                    total += live
                    continue
                segment = (epoch, number)
                size = sizes[segment] = self._sizes.get(segment) or self._files.size_bytes(segment)
                total += size
                if live < SPARSE * size and segment not in self.damaged:
                    sparse.append((live / size, size - live, segment))
        self._sizes = sizes
        waste = total - total_live
        if waste <= (start_ratio - 1) * total_live or waste < slack_bytes:
            return []
        enough = (start_ratio - 1) / 2 * total_live
        chosen: list[Segment] = []
        for _, gain, segment in sorted(sparse):
            if waste <= enough:
                break
            waste -= gain
            chosen.append(segment)
        return chosen

    def _copy(self, segment: Segment) -> tuple[list[Copied], bool]:
        """Copy the next live records of *segment*; and whether it has no more."""
        copied: list[Copied] = []
        taken = records = 0
        until_s = monotonic_s() + SLICE_S
        head_bytes = format.RECORD_HEAD.size
        with self._env.begin() as txn:
            while taken < SLICE_BYTES and records < SLICE_RECORDS and monotonic_s() < until_s:
                head = os.pread(self._source, head_bytes, self._position)
                if len(head) < head_bytes:
                    return copied, True
                size, message_id, checksum = format.RECORD_HEAD.unpack(head)
                offset = self._position + head_bytes
                self._position = offset + size
                records += 1
                value = txn.get(message_id, db=self._tables.message)
                if value is None or format.MESSAGE_HEAD.unpack_from(value)[1:3] != segment:
                    continue
                old = _message(value).body
                if old.offset != offset:
                    continue
                data = os.pread(self._source, size, offset)
                if len(data) != size or old.checksum != checksum or format.checksum(data) != checksum:
                    self.damaged.add(segment)
                    raise SpoolError(f"segment {format.segment_name(*segment)} is damaged at {offset}: it is left as it is")
                copied.append(Copied(message_id, old, self._append(head, data, checksum)))
                taken += size
        return copied, False

    def _append(self, head: bytes, data: bytes, checksum: int) -> Body:
        if self._target < 0:
            self._begin_target()
        written = os.pwritev(self._target, [head, data], self._end)
        if written != len(head) + len(data):
            raise SpoolError(f"{written} of {len(head) + len(data)} bytes went into a segment")
        body = Body(self._epoch, self._number, self._end + len(head), len(data), checksum)
        self._end += written
        return body

    def _begin_target(self) -> None:
        if not self._epoch:
            epoch = self._ledger.next_epoch
            with self._env.begin(write=True) as txn:
                txn.put(format.NEXT_EPOCH, format.U32.pack(epoch + 1), db=self._tables.state)
                txn.put(epoch_key(epoch), format.EPOCH_ROW.pack(0), db=self._tables.state)
                moving = txn.get(format.MOVING, db=self._tables.meta)
                if moving and moving[:4] == format.U32.pack(epoch):  # no worker ran since: to whom it is being moved it is the same spool still
                    txn.put(format.MOVING, format.U32.pack(epoch + 1) + moving[4:], db=self._tables.meta)
            self._ledger.next_epoch = epoch + 1
            self._epoch = epoch
        self._number += 1
        path = self._files.directory / format.segment_name(self._epoch, self._number)
        self._target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._end = 0
        format.sync_directory(self._files.directory)

    def _leave_target(self) -> None:
        """Write no more to the open file."""
        os.close(self._target)
        self._target = -1

    def _move(self, segment: Segment, copied: list[Copied]) -> None:
        """Let the rows name the copies, where they still name the originals; unlink the file whose last row that was."""
        target = (self._epoch, self._number)
        full = self._end >= format.SEGMENT_BYTES
        table = self._tables.message
        emptied: list[Segment] = []
        with self._env.begin(write=True) as txn:
            count = size = 0
            for message_id, old, new in copied:
                value = txn.get(message_id, db=table)
                if value is None:
                    continue
                message = _message(value)
                if message.body != old:
                    continue
                opened, _, _, size_bytes, queues = format.MESSAGE_HEAD.unpack_from(value)
                head = format.MESSAGE_HEAD.pack(opened, *target, size_bytes, queues)
                numbers = value[format.MESSAGE_HEAD.size : format.MESSAGE_HEAD.size + 4 * queues]
                txn.put(message_id, head + numbers + _encode(msgspec.structs.replace(message, body=new)), db=table)
                count += 1
                size += old.size_bytes
            if self._add(txn, segment, -count, -size, sealed=True):
                emptied.append(segment)
            if self._add(txn, target, count, size, sealed=full):
                emptied.append(target)
            for number in self._left:
                if self._add(txn, (self._epoch, number), 0, 0, sealed=True):
                    emptied.append((self._epoch, number))
        self._left.clear()
        if full:
            self._leave_target()
        for gone in emptied:
            self._files.unlink(gone)

    def _add(self, txn: lmdb.Transaction[bytes], segment: Segment, count: int, size: int, *, sealed: bool) -> bool:
        """Change a segment's row; whether that emptied it for ever."""
        key = format.SEGMENT_KEY.pack(*segment)
        value = txn.get(key, db=self._tables.segment)
        messages, size_bytes, was_sealed = format.SEGMENT_ROW.unpack(value) if value is not None else (0, 0, 0)
        if messages + count <= 0 and (sealed or was_sealed):
            txn.delete(key, db=self._tables.segment)
            return True
        txn.put(key, format.SEGMENT_ROW.pack(messages + count, max(size_bytes + size, 0), int(sealed or was_sealed)), db=self._tables.segment)
        return False


def _message(value: bytes) -> Message:
    return _decode_message(memoryview(value)[format.MESSAGE_HEAD.size + 4 * int(format.MESSAGE_HEAD.unpack_from(value)[4]) :])
