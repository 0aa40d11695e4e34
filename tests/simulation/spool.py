"""A model of the spool process and its disk: what the real one promises (engine.spool), with delays, refusals and crashes drawn by seed."""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from zlib import crc32

import msgspec

from engine.errors import SpoolError
from engine.mail.envelope import Body, Due, Message, due_key
from engine.spool import wire
from engine.spool.ops import Accept, Nothing, Seal, Settle, Settlement
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Clock, Process
from tests.simulation.network import Endpoint, Line, Network

CHUNK_BYTES = 64 * 1024
LARGE = 1 << 31
SEGMENT_BODIES = 8
CLOSE_AFTER_S = 30.0  # epochs that were not resumed after a start
_decode_due = msgspec.msgpack.Decoder(Due).decode
_decode_message = msgspec.msgpack.Decoder(Message).decode


@dataclass(frozen=True)
class Temper:
    """How the spool process behaves."""

    commit_s: tuple[float, float] = (0.001, 0.01)  # from the first operation of a group to its commit
    stall_share: float = 0.0  # of the groups that take up to ten seconds
    refuse_accept: float = 0.0
    refuse_settle: float = 0.0
    refuse_dsn: float = 0.0  # of the settles that carry a DSN
    unwritable: float = 0.0  # of the bodies that a worker tries to write
    unreadable: float = 0.0  # of the reads of a body


@dataclass
class Stored:
    """A row of `message`."""

    message: Message
    open: int


@dataclass
class Disk:
    """What survives the spool process."""

    due: dict[int, list[bytes]] = field(default_factory=dict)  # keys by queue, sorted
    rows: dict[bytes, Due] = field(default_factory=dict)
    messages: dict[bytes, Stored] = field(default_factory=dict)
    bodies: dict[tuple[int, int, int], tuple[bytes, bytes]] = field(default_factory=dict)  # (epoch, segment, offset) -> message id, content
    names: dict[int, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    stamp_ms: int = 0
    next_epoch: int = 1
    epochs: dict[int, tuple[int, list[tuple[int, str]]]] = field(default_factory=dict)  # open ones: last operation, refusals to be heard


class Session(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.end: Endpoint
        self.inbox = bytearray()
        self.hello: wire.Hello | None = None
        self.epoch = 0
        self.last = self.upto = 0
        self.refused: list[tuple[int, str]] = []
        self.ended = False

    @property
    def place(self) -> tuple[str, int]:
        """Whose successor would have to wait for it."""
        return (self.hello.role, self.hello.index) if self.hello else ("", 0)

    def data_received(self, data: bytes) -> None:
        """Frames, whole or in part."""
        if self.ended:
            return
        self.inbox += data
        for frame in wire.take_frames(self.inbox):
            if self.hello is None:
                self.hello = wire.decode_hello(frame)
                self.spool.greet(self)
            else:
                self.spool.take(self, wire.decode_batch(frame))

    def eof_received(self) -> bool:
        """It has said all."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone."""
        if not self.ended:
            self.ended = True
            self.spool.left(self)

    def tell(self, message: object) -> None:
        """Send a frame."""
        self.end.write(wire.frame(message))


class Spool:
    """The process; and, as `disk`, what its readers see."""

    def __init__(self, network: Network, clock: Clock, random: Random, temper: Temper, ledger: Ledger) -> None:
        self.network = network
        self.clock = clock
        self.random = random
        self.temper = temper
        self.ledger = ledger
        self.disk = Disk()
        self.up = True
        self.crash_at_commit = False  # after the next one, before anybody hears of it
        self.line = Line(0.0001)
        self.lives = 0
        self._sessions: list[Session] = []
        self._waiting: list[Session] = []  # hellos of successors
        self._group: list[tuple[Session, int, Any, str | None]] = []
        self._planned = False

    # --- connections ------------------------------------------------------------------------------------------------------------------

    async def connect(self, process: Process | None, make: Callable[[], Any]) -> tuple[Endpoint, Any]:
        """A connection of *process*."""
        await asyncio.sleep(0.0002)
        if not self.up:
            raise ConnectionRefusedError("the spool process is away")
        theirs, ours = self.network.pair(process, None, (process.name if process else "", "spool"), self.line)
        session = Session(self)
        session.end = ours
        ours.protocol = session
        self._sessions.append(session)
        protocol = theirs.protocol = make()
        protocol.connection_made(theirs)
        return theirs, protocol

    def greet(self, session: Session) -> None:
        """Its hello came: it is welcomed when all that its predecessor sent is committed."""
        if any(other is not session and other.place == session.place for other in self._sessions):
            self._waiting.append(session)
        else:
            self._open(session)

    def _open(self, session: Session) -> None:
        hello = session.hello
        assert hello is not None
        if hello.resume_epoch:
            if hello.resume_epoch not in self.disk.epochs:
                session.tell(wire.Rejected("its epoch is closed"))
                return
            session.epoch = hello.resume_epoch
            session.last, session.refused = self.disk.epochs[session.epoch]
            session.upto = session.last
            session.tell(wire.Welcome(session.epoch, 0, session.last, session.refused, self.disk.stamp_ms))
        else:
            self._add(session, 0, "open", None)

    def left(self, session: Session) -> None:
        """Its connection ended, after all that it had sent."""
        self._sessions.remove(session)
        if session.epoch:
            self._add(session, 0, "close", None)
        for successor in [each for each in self._waiting if each.place == session.place]:
            self._waiting.remove(successor)
            if not successor.ended:
                self._open(successor)

    def take(self, session: Session, batch: wire.Batch) -> None:
        """Operations came."""
        session.refused = [entry for entry in session.refused if entry[0] > batch.answered]
        for operation in batch.operations:
            session.last += 1
            self._add(session, session.last, operation, self._refusal(operation))

    def _refusal(self, operation: Any) -> str | None:
        temper, random = self.temper, self.random
        if isinstance(operation, Accept) and random.random() < temper.refuse_accept:
            return "disk low"
        if isinstance(operation, Settle):
            if operation.accept is not None and random.random() < temper.refuse_dsn:
                return "its segment could not be synced"
            if random.random() < temper.refuse_settle:
                return "refused by the plan"
        return None

    def _add(self, session: Session, number: int, operation: Any, reason: str | None) -> None:
        self._group.append((session, number, operation, reason))
        if not self._planned:
            self._planned = True
            low, high = self.temper.commit_s
            delay_s = self.random.uniform(low, high) if self.random.random() >= self.temper.stall_share else self.random.uniform(0.1, 10.0)
            self.network.later(delay_s, self._commit, self.network.context, self.lives)

    # --- its life ---------------------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """What is not committed is lost, and so is every connection."""
        self.up = False
        self.lives += 1
        self._group, self._waiting = [], []
        self._planned = False
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.ended = True
            session.end.die(orderly=False)
        self.ledger.say("spool", "crashes")

    def start(self) -> None:
        """It is back; what nobody resumes in time is closed."""
        self.up = True
        self.ledger.say("spool", "starts")
        self.network.later(CLOSE_AFTER_S, self._close_unresumed, self.network.context, self.lives)

    def _close_unresumed(self, life: int) -> None:
        if life == self.lives:
            living = {session.epoch for session in self._sessions}
            for epoch in [each for each in self.disk.epochs if each not in living]:
                del self.disk.epochs[epoch]

    # --- commit -----------------------------------------------------------------------------------------------------------------------

    def _commit(self, life: int) -> None:
        if life != self.lives:
            return
        self._planned = False
        disk, (group, self._group) = self.disk, (self._group, [])
        stamp_ms = max(disk.stamp_ms + 1, self.clock.wall_ms())
        upto: dict[Session, int] = {}
        refused: dict[Session, list[tuple[int, str]]] = {}
        opened: list[Session] = []
        announced: dict[int, None] = {}
        for session, number, operation, reason in group:
            if operation == "open":
                session.epoch = disk.next_epoch
                disk.next_epoch += 1
                disk.epochs[session.epoch] = 0, []
                opened.append(session)
            elif operation == "close":
                disk.epochs.pop(session.epoch, None)
            else:
                upto[session] = number
                if reason is None:
                    reason = self._apply(operation, session, stamp_ms, announced)
                elif isinstance(operation, Settle):
                    self.ledger.settle_refused(operation)
                if reason is not None:
                    refused.setdefault(session, []).append((number, reason))
        for session, number in upto.items():
            session.refused = session.refused + refused.get(session, [])
            if session.epoch in disk.epochs:
                disk.epochs[session.epoch] = number, session.refused
        if announced:
            disk.stamp_ms = stamp_ms
        if self.crash_at_commit:
            self.crash_at_commit = False
            self.crash()
            self.network.later(self.random.uniform(0.3, 5.0), self.start, self.network.context)
            return
        self._answer(upto, refused, opened, announced, stamp_ms)

    def _answer(
        self,
        upto: dict[Session, int],
        refused: dict[Session, list[tuple[int, str]]],
        opened: list[Session],
        announced: dict[int, None],
        stamp_ms: int,
    ) -> None:
        for session in opened:
            if not session.ended:
                session.tell(wire.Welcome(session.epoch, 0, 0, [], self.disk.stamp_ms))
        for session, number in upto.items():
            session.upto = number
            if not session.ended:
                session.tell(wire.Ack(number, refused.get(session, [])))
        for session in self._sessions:
            if announced and session.place[0] == "delivery" and session.epoch and not session.ended:
                session.tell(wire.Announce(list(announced), stamp_ms))

    def _apply(self, operation: Any, session: Session, stamp_ms: int, announced: dict[int, None]) -> str | None:
        if isinstance(operation, Accept):
            self._accept(operation, stamp_ms, announced)
        elif isinstance(operation, Settle):
            self._settle(operation, session, stamp_ms, announced)
        elif not isinstance(operation, Seal | Nothing):
            return "no such operation"
        return None

    def _accept(self, accept: Accept, stamp_ms: int, announced: dict[int, None]) -> None:
        disk = self.disk
        if accept.id in disk.messages:
            return
        message = _decode_message(accept.message)
        disk.messages[accept.id] = Stored(message, len(accept.recipients))
        rows = []
        for index, recipient in enumerate(accept.recipients):
            number = disk.numbers.setdefault(recipient.queue, len(disk.numbers) + 1)
            disk.names[number] = recipient.queue
            key = due_key(number, recipient.priority, stamp_ms, accept.id, index)
            self._put(key, _decode_due(recipient.due))
            rows.append((recipient.queue, disk.rows[key]))
            announced[number] = None
        self.ledger.accepted(accept.id, message, message.prefix + disk.bodies[_where(message.body)][1], rows, stamp_ms)

    def _settle(self, settle: Settle, session: Session, stamp_ms: int, announced: dict[int, None]) -> None:
        disk = self.disk
        applied: list[tuple[Settlement, Due]] = []
        for row in settle.rows:
            due = disk.rows.pop(row.key, None)
            if due is None:
                continue
            disk.due[int.from_bytes(row.key[:4], "big")].remove(row.key)
            applied.append((row, due))
            if row.again_ms:
                self._put(row.key[:5] + row.again_ms.to_bytes(8, "big") + row.key[13:], _decode_due(row.due))
        process = session.end.other.process
        self.ledger.settled(settle, applied, {row.key[13:25]: disk.messages[row.key[13:25]].message for row, _ in applied}, process)
        for row, _ in applied:
            if not row.again_ms:
                stored = disk.messages[row.key[13:25]]
                stored.open -= 1
                if not stored.open:
                    del disk.messages[row.key[13:25]]
                    del disk.bodies[_where(stored.message.body)]
        if applied and settle.accept is not None:
            self._accept(settle.accept, stamp_ms, announced)

    def _put(self, key: bytes, due: Due) -> None:
        self.disk.rows[key] = due
        insort(self.disk.due.setdefault(int.from_bytes(key[:4], "big"), []), key)


def _where(body: Body) -> tuple[int, int, int]:
    return body.epoch, body.segment, body.offset


class Reader:
    """engine.spool.SpoolReader on the model."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._disk = spool.disk

    def due(self, queue: int, after: bytes | None, until_ms: int, limit: int) -> tuple[list[tuple[bytes, Due]], int | None]:
        """Rows that are due, in order, at most *limit*; and when the next one is."""
        keys = self._disk.due.get(queue, [])
        rows: list[tuple[bytes, Due]] = []
        for key in keys[bisect_right(keys, after) if after is not None else 0 :]:
            due_ms = int.from_bytes(key[5:13], "big")
            if due_ms > until_ms:
                return rows, due_ms
            if len(rows) >= limit:
                return rows, None
            rows.append((key, self._disk.rows[key]))
        return rows, None

    def queues(self, after: int, limit: int) -> list[tuple[int, int]]:
        """Queues with rows, and when the first is due."""
        found = [(number, int.from_bytes(keys[0][5:13], "big")) for number, keys in sorted(self._disk.due.items()) if number > after and keys]
        return found[:limit]

    def queue_name(self, number: int) -> str:
        """`domain/vmta`."""
        return self._disk.names[number]

    def named_due(self, queue: int, until_ms: int, limit: int) -> tuple[str, list[tuple[bytes, Due]], int | None]:
        """The name of a queue, and its rows from the first on."""
        return self.queue_name(queue), *self.due(queue, None, until_ms, limit)

    def messages(self, ids: Iterable[bytes]) -> dict[bytes, Message]:
        """Those that are still there."""
        stored = self._disk.messages
        return {each: stored[each].message for each in ids if each in stored}

    def body(self, body: Body, message_id: bytes) -> bytes:
        """In wire form."""
        spool = self._spool
        if spool.random.random() < spool.temper.unreadable:
            raise SpoolError("the plan says that it cannot be read")
        known, content = self._disk.bodies[_where(body)]
        if known != message_id:
            raise SpoolError("another record lies there")
        return content

    def body_chunks(self, body: Body, message_id: bytes) -> Iterator[bytes]:
        """The same in pieces."""
        content = self.body(body, message_id)
        for at in range(0, len(content), CHUNK_BYTES):
            yield content[at : at + CHUNK_BYTES]


class Segments:
    """engine.spool.SegmentWriter on the model."""

    def __init__(self, spool: Spool, link: Any) -> None:
        self._spool = spool
        self._link = link
        self._number = 1
        self._large = LARGE
        self._offset = 0

    def write(self, message_id: bytes, parts: Sequence[bytes]) -> Body:
        """A small body whole; SpoolError if the plan says so."""
        spool = self._spool
        if spool.random.random() < spool.temper.unwritable:
            raise SpoolError("body cannot be written: the plan says so")
        if self._offset == SEGMENT_BODIES:
            self._link.submit(Seal(self._number), lambda _: None)
            self._number, self._offset = self._number + 1, 0
        self._offset += 1
        return self._keep(message_id, self._number, self._offset, b"".join(parts))

    def _keep(self, message_id: bytes, segment: int, offset: int, content: bytes) -> Body:
        body = Body(self._link.epoch, segment, offset, len(content), crc32(content))
        self._spool.disk.bodies[_where(body)] = message_id, content
        return body

    def begin_large(self, message_id: bytes) -> LargeBody:
        """A body in a file of its own."""
        self._large += 1
        return LargeBody(self, message_id, self._large)


class LargeBody:
    """One that arrives in pieces."""

    def __init__(self, segments: Segments, message_id: bytes, segment: int) -> None:
        self._segments = segments
        self._message_id = message_id
        self._segment = segment
        self._content = bytearray()

    def write(self, data: bytes) -> None:
        """Append."""
        self._content += data

    def finish(self) -> Body:
        """Where it lies."""
        return self._segments._keep(self._message_id, self._segment, 1, bytes(self._content))

    def abort(self) -> None:
        """Nothing of it stays."""
