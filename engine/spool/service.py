"""The spool process's loop: gathers what all workers sent, makes it durable in one commit, answers, announces.

One thread, no event loop library: `turn` is one round, so tests step it.  The group is whatever arrived during the commit before.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb
import msgspec

from engine.clock import monotonic_s
from engine.errors import RemoteProtocolError, SpoolError
from engine.log import EventLog
from engine.spool import format, index, queries, recovery, wire
from engine.spool.changes import Changes, Ledger
from engine.spool.committer import Close, Committer, Entry, Open, Refusals
from engine.spool.compaction import Compactor
from engine.spool.files import Segment, SegmentFiles
from engine.spool.ops import Accept, Move, Nothing, Operation
from engine.spool.session import Session
from engine.spool.space import Space

GROUP_OPERATIONS = 1024  # with the gathering's bytes and time, the bounds of one group
GROUP_BYTES = 16 << 20
GATHER_S = 0.005
COMPACT_SHARE = 0.5  # of the time that a group took, for compaction while there is some to do
BUSY_OPERATIONS = 24  # after a group of so many the next one waits for more, LINGER_S at most: fewer than some ten clients never make one
ENOUGH_OPERATIONS = 40  # no longer than until these are there: more make a commit hardly cheaper, and leave the cores without work meanwhile
LINGER_S = 0.005
LINGER_STEP_S = 0.0004
WAITING_OPERATIONS = 16_384  # kept in memory while the disk is full; past that workers keep their own
RESUME_WITHIN_S = 30.0  # epochs of the life before wait this long for their workers
OUTBOX_BOUND = 2_000_000  # records that no sink has: past this mail is refused, past twice this sending stops
SPACE_CHECK_S = 0.25
READER_CHECK_S = 60.0
STALE_READER_S = 30.0  # reads take milliseconds; pages that are freed meanwhile cannot be used again
ACCEPT_AGAIN_S = 0.5  # after an accept that failed (no descriptor left, say): without a pause we would spin
MAX_SESSIONS = 1024
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid
MAX_ASKERS = 32  # of them


class SpoolService:
    """The spool in *root*, served on *listener*."""

    def __init__(
        self,
        root: Path,
        listener: socket.socket,
        log: EventLog,
        *,
        space: Space | None = None,
        files: SegmentFiles | None = None,
        map_size_bytes: int = format.MAP_SIZE_BYTES,
        outbox_bound: int = OUTBOX_BOUND,
    ) -> None:
        self.root = format.claim(root)
        self.log = log
        self.outbox_bound = outbox_bound
        self.env, self.tables = index.open_for_writing(self.root, map_size_bytes)
        self.files = files or SegmentFiles(self.root / format.BODIES)
        self.space = space or Space(self.root)
        self.shut = False  # it is about to leave the configuration: nothing new comes in
        self.groups = 0
        self._last_group = 0  # operations in it
        self.operations = 0
        self._map_size_bytes = map_size_bytes
        with self.env.begin() as txn:
            self.ledger = Ledger(txn, self.tables)
            found = recovery.examine(txn, self.tables)
        self._resumable = found.epochs  # epoch -> (last operation applied, refusals)
        self._resume_until_s = monotonic_s() + RESUME_WITHIN_S
        self._group: list[Entry] = []
        self._committer = Committer(self.env, self.tables, self.ledger, self.files, self.space, log)
        self._compactor = Compactor(self.env, self.tables, self.ledger, self.files)
        self._closed_epochs: set[int] = set()
        self._sessions: dict[int, Session] = {}
        self._owners: dict[str, Session] = {}
        self._fallback: Session | None = None
        self._accounting: Session | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_space_check_s = 0.0
        self._next_reader_check_s = 0.0  # at once: whoever was killed before us may have been reading, and the index would grow for its sake
        self._group_weight = 0  # operations and recipients in it
        self._group_bytes = 0
        self._reading: dict[tuple[int, int], float] = {}  # readers that do not see the newest -> when that was first noticed
        self._deaf_until_s = 0.0  # no connection is accepted until then
        self._poller = select.epoll()
        self._listener = listener
        listener.setblocking(False)
        self._poller.register(listener.fileno(), select.EPOLLIN)
        removed = recovery.remove_orphans(self.env, self.tables, self.files, self._is_closed)
        self.space.take_ballast()
        self._check_space(force=True)
        waiting = len(self._resumable)
        self.log.event("spool", f"open path={self.root} epochs_waiting={waiting} orphans_removed={removed} outbox={self.ledger.outbox_rows}")

    def _is_closed(self, epoch: int) -> bool:
        """Whether nobody will ever write to *epoch* again."""
        return epoch < self.ledger.next_epoch and epoch not in self._resumable and all(epoch != held.epoch for held in self._sessions.values())

    # --- the loop ----------------------------------------------------------------------------------------------------------------------

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call *callback* from `turn` whenever *descriptor* is readable."""
        self._callbacks[descriptor] = callback
        self._poller.register(descriptor, select.EPOLLIN)

    def turn(self, timeout_s: float) -> None:
        """One round: wait at most *timeout_s* for input, then gather, commit and answer."""
        for fd, mask in self._poller.poll(0 if self._has_work() else timeout_s):
            session = self._sessions.get(fd)
            if session is not None:
                if mask & select.EPOLLOUT:
                    session.flush(self.ledger.stamp_ms)
                if mask & ~select.EPOLLOUT:
                    session.read()
            elif fd == self._listener.fileno():
                self._accept_connections()
            else:
                self._callbacks[fd]()
        self._check_space()
        worked_s = monotonic_s()
        self._gather(worked_s + GATHER_S)
        if self._last_group >= BUSY_OPERATIONS:
            self._let_more_come()
        self._work()
        self._compact(monotonic_s() - worked_s)
        self._housekeep()
        for session in list(self._sessions.values()):
            self._update(session)

    def _let_more_come(self) -> None:
        """The last group was large, so more is on its way: one commit for all of it is worth a few milliseconds."""
        end_s = monotonic_s() + LINGER_S
        while len(self._group) < ENOUGH_OPERATIONS and not self._group_full and (left_s := end_s - monotonic_s()) > 0:
            time.sleep(min(left_s, LINGER_STEP_S))
            for fd, mask in self._poller.poll(0):
                session = self._sessions.get(fd)
                if session is not None and mask & ~select.EPOLLOUT and session.wants_more:
                    session.read()
            self._gather(end_s)

    def close(self) -> None:
        """Commit what was gathered, then close everything; workers may resume their epochs with the next owner."""
        self._gather(monotonic_s() + GATHER_S)
        self._work()
        for session in self._sessions.values():
            session.flush(self.ledger.stamp_ms)
            session.connection.close()
        self._sessions.clear()
        self._poller.close()
        self._compactor.close()
        self.files.close()
        self.env.close()

    def _has_work(self) -> bool:
        """Whether there is something to do without waiting for input."""
        if self._group or self._committer.has_work or (self._compactor.busy and self._may_compact):
            return True
        return any(session.holds_frame and not self._paused(session) for session in self._sessions.values())

    def _accept_connections(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.log.event("spool", f"cannot accept a connection: {error}")
                self._poller.modify(self._listener.fileno(), 0)
                self._deaf_until_s = monotonic_s() + ACCEPT_AGAIN_S
                return
            if len(self._sessions) >= MAX_SESSIONS:
                connection.close()
                continue
            connection.setblocking(False)
            session = Session(connection, stranger=not _is_ours(connection))
            self._sessions[session.fd] = session
            self._poller.register(session.fd, select.EPOLLIN)
            session.mask = select.EPOLLIN

    def _update(self, session: Session) -> None:
        """Watch *session* for what it can do now; end it when all that it sent is taken."""
        if session.ended:
            if session.mask >= 0:  # a connection that hung up would wake the poller for ever
                self._poller.unregister(session.fd)
                session.mask = -1
            if not session.opening and not session.holds_frame:
                self._end(session)
            return
        mask = (select.EPOLLIN if session.wants_more and not self._paused(session) else 0) | (select.EPOLLOUT if session.outgoing else 0)
        if mask != session.mask:
            self._poller.modify(session.fd, mask)
            session.mask = mask

    def _paused(self, session: Session) -> bool:
        """Whether *session* is not to be heard now: its epoch is not durable yet, or memory or the outbox is full, or its predecessor's last
        words have not been taken.
        """
        if session.opening or len(self._committer.waiting) > WAITING_OPERATIONS:
            return True
        if session.after is not None and self._sessions.get(session.after.fd) is session.after:
            return True
        return session.role == "delivery" and not session.ended and self.ledger.outbox_rows > 2 * self.outbox_bound

    def _end(self, session: Session) -> None:
        del self._sessions[session.fd]
        session.connection.close()
        if session is self._accounting:
            self._accounting = None
        if session is self._fallback:
            self._fallback = None
        for name in session.virtual_mtas:
            if self._owners.get(name) is session:
                del self._owners[name]
        if session.epoch and session.resumed == session.last:  # an attempt that the worker gave up: it is about to try again
            self._resumable[session.epoch] = session.last, session.refused
            self._resume_until_s = max(self._resume_until_s, monotonic_s() + RESUME_WITHIN_S)
        elif session.epoch:
            self._group.append((None, 0, Close(session.epoch), None))
            self.log.event("spool", f"{session.name} left epoch={session.epoch}")
        self._next_reader_check_s = 0.0

    # --- gathering ---------------------------------------------------------------------------------------------------------------------

    def _gather(self, deadline_s: float) -> None:
        """Decode the frames that have come, up to the bounds of a group."""
        busy = [session for session in self._sessions.values() if len(session.inbox) >= 4]
        if self.groups & 1:
            busy.reverse()  # nobody is always first
        while busy:
            left: list[Session] = []
            for session in busy:
                if self._group_full or monotonic_s() > deadline_s:
                    return
                if self._paused(session):
                    continue
                try:
                    data = session.take_frame()
                    if data is None:
                        continue
                    self._group_bytes += len(data)
                    self._take(session, data)
                except (RemoteProtocolError, msgspec.DecodeError) as error:
                    self.log.event("spool", f"{session.name} broke the protocol: {error}")
                    session.inbox.clear()
                    session.ended = True
                    continue
                left.append(session)
            busy = left

    @property
    def _group_full(self) -> bool:
        return self._group_weight >= GROUP_OPERATIONS or self._group_bytes >= GROUP_BYTES

    def _take(self, session: Session, data: bytes) -> None:
        if session.epoch:
            self._take_batch(session, data)
        elif session.role == "control":
            session.outgoing += wire.frame(queries.answer(self, data))
            session.flush(self.ledger.stamp_ms)
        else:
            self._take_hello(session, data)

    def _take_hello(self, session: Session, data: bytes) -> None:
        hello = wire.decode_hello(data)
        if hello.protocol != wire.PROTOCOL:
            self._reject(session, f"protocol {hello.protocol}, the spool process speaks {wire.PROTOCOL}")
            return
        if hello.role == "control":
            if sum(other.role == "control" for other in self._sessions.values()) >= MAX_ASKERS:
                self._reject(session, f"{MAX_ASKERS} others ask already")
            else:
                session.role = hello.role
            return
        if session.stranger:
            self._reject(session, "another user may ask, and be no worker")
            return
        for other in self._sessions.values():
            # Dead, or it would not have a successor.  Under another configuration a queue's owner has another number: then whoever is gone counts.
            if other.role == hello.role and (other.index == hello.index or (hello.role == "delivery" and other.hung_up)):
                session.after = other
                session.give_back(data)
                return
        session.role = hello.role
        session.index = hello.index
        session.virtual_mtas = tuple(hello.virtual_mtas)
        session.fallback = hello.fallback
        if not hello.resume_epoch:
            session.opening = True
            self._group.append((session, 0, Open(), None))
            return
        found = self._resumable.pop(hello.resume_epoch, None)
        if found is None:
            self._reject(session, f"epoch {hello.resume_epoch} is closed")
            return
        session.last = session.upto = session.resumed = found[0]
        session.refused = found[1]
        self._welcome(session, hello.resume_epoch)

    def _reject(self, session: Session, reason: str) -> None:
        self.log.event("spool", f"{session.name} rejected: {reason}")
        session.tell(wire.Rejected(reason))
        session.flush(self.ledger.stamp_ms)
        session.inbox.clear()
        session.ended = True

    def _welcome(self, session: Session, epoch: int) -> None:
        session.epoch = epoch
        session.opening = False
        if session.role == "accounting":
            self._accounting = session
        if session.role == "delivery":
            for name in session.virtual_mtas:
                self._owners[name] = session
            if session.fallback:
                self._fallback = session
        session.tell(wire.Welcome(epoch, self.ledger.shard, session.last, session.refused, self.ledger.stamp_ms))
        session.flush(self.ledger.stamp_ms)
        self.log.event("spool", f"{session.name} joined epoch={epoch} last={session.last}")

    def _take_batch(self, session: Session, data: bytes) -> None:
        operations: Sequence[Operation | None]
        try:
            batch = wire.decode_batch(data)
            operations = batch.operations
            answered = batch.answered
        except msgspec.DecodeError:
            raw = wire.decode_raw_batch(data)
            operations = [_decode_or_none(operation) for operation in raw.operations]
            answered = raw.answered
        session.hear(answered)
        refusal = self._refusal()
        entries = self._group
        last = session.last
        weight = len(operations)
        for operation in operations:
            last += 1
            if type(operation) is Accept:
                weight += len(operation.recipients)
                entries.append((session, last, operation, refusal))
            elif type(operation) is Move:
                weight += len(operation.records) + (len(operation.accept.recipients) if operation.accept else 0)
                entries.append((session, last, operation, refusal))
            elif operation is None:
                entries.append((session, last, Nothing(), "malformed operation"))
            else:
                entries.append((session, last, operation, None))
        session.last = last
        self._group_weight += weight

    def _refusal(self) -> str | None:
        """Why new mail is refused now; our own bounces are not."""
        if self.space.refusal is not None:
            return self.space.refusal
        if self.shut:
            return "shut: this spool leaves the configuration"
        if self.ledger.outbox_rows > self.outbox_bound:
            return f"accounting behind: {self.ledger.outbox_rows} records wait to be written"
        return None

    # --- committing --------------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        entries, self._group = self._group, []
        self._group_weight = self._group_bytes = 0
        self._last_group = len(entries)
        group = self._committer.work(entries)
        if group is None:
            return
        self.groups += 1
        self.operations += len(entries)
        self._closed_epochs.update(group.closed)
        for segment in group.changes.unlink:
            self._unlink(segment)
        for session, epoch in group.opened:
            self._welcome(session, epoch)
        self._answer(group.upto, group.refusals, group.changes)

    def _answer(self, upto: dict[Session, int], refusals: Refusals, changes: Changes) -> None:
        touched: set[Session] = set()
        for session, number in upto.items():
            session.upto = number
            refused = refusals.get(session, [])
            session.refused += refused
            session.tell(wire.Ack(number, refused))
            touched.add(session)
        if changes.announced:
            news: dict[Session, list[int]] = {}
            for name, number in changes.announced.items():
                owner = self._owner(name)
                if owner is not None:
                    news.setdefault(owner, []).append(number)
            for owner, numbers in news.items():
                owner.announce(numbers, changes.stamp_ms)
                touched.add(owner)
        # with older records about, accounting is at work and will look again before it waits
        if changes.records and self._accounting is not None and len(changes.records) == self.ledger.outbox_rows:
            self._accounting.announce([], changes.stamp_ms)
            touched.add(self._accounting)
        for session in touched:
            session.flush(self.ledger.stamp_ms)

    def _owner(self, queue: str) -> Session | None:
        """Whom to tell of *queue*'s mail: the owner of its virtual MTA.  While that one is not connected, the fallback, which knows by its
        configuration whether the virtual MTA is gone for good; an owner that is only starting will find its mail.
        """
        return self._owners.get(queue.rpartition("/")[2], self._fallback)

    def on_its_way(self) -> int:
        """Accepts that were taken and are not in the tables yet."""
        return sum(type(operation) is Accept and not reason for _, _, operation, reason in (*self._group, *self._committer.waiting))

    # --- housekeeping ------------------------------------------------------------------------------------------------------------------

    def map_used_bytes(self) -> int:
        """Bytes of the map that hold rows."""
        pages = 0
        with self.env.begin() as txn:
            for name in self.tables.__slots__:
                found = txn.stat(getattr(self.tables, name))
                pages += found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"]
        return pages * int(self.env.stat()["psize"])

    def _check_space(self, force: bool = False) -> None:
        now_s = monotonic_s()
        if now_s < self._next_space_check_s and not force:
            return
        self._next_space_check_s = now_s + SPACE_CHECK_S
        before = self.space.refusal
        after = self.space.check(self.map_used_bytes(), self._map_size_bytes)
        if (before is None) != (after is None):
            self.log.event("spool", f"new mail is refused: {after}" if after else "new mail is accepted again")

    def _housekeep(self) -> None:
        now_s = monotonic_s()
        if self._deaf_until_s and now_s > self._deaf_until_s:
            self._deaf_until_s = 0.0
            self._poller.modify(self._listener.fileno(), select.EPOLLIN)
        if self._resumable and now_s > self._resume_until_s:
            self._group += [(None, 0, Close(epoch), None) for epoch in self._resumable]
            self._resumable = {}
        if self._closed_epochs:
            closed, self._closed_epochs = self._closed_epochs, set()
            recovery.remove_orphans(self.env, self.tables, self.files, closed.__contains__)
        if now_s > self._next_reader_check_s:
            self._next_reader_check_s = now_s + READER_CHECK_S
            self._check_readers(now_s)

    def _check_readers(self, now_s: float) -> None:
        """Free what dead readers hold, and name those that live and have come to no end."""
        freed = self.env.reader_check()
        if freed:
            self.log.event("spool", f"freed {freed} reader slots of dead processes")
        last = self.env.info()["last_txnid"]
        self._reading = {reader: self._reading.get(reader, now_s) for reader in index.reading(self.env) if reader[1] < last}
        for (pid, _), since_s in self._reading.items():
            if now_s - since_s >= STALE_READER_S:
                self.log.event("spool", f"pid {pid} reads the index for {now_s - since_s:.0f} s already, and lets it grow: end that process")

    @property
    def _may_compact(self) -> bool:
        """Not while room is short: compaction needs some before it frees any."""
        return self.space.refusal is None and not self._committer.waiting

    def _compact(self, worked_s: float) -> None:
        """One slice, or as many as a share of *worked_s* has room for: what a large group leaves dead is more than one slice takes away."""
        if not self._may_compact:
            return
        end_s = monotonic_s() + COMPACT_SHARE * worked_s
        try:
            self._compactor.step()
            while self._compactor.busy and monotonic_s() < end_s:
                self._compactor.step()
        except (OSError, lmdb.Error, SpoolError, msgspec.DecodeError) as error:
            self._compactor.give_up()
            self.log.event("spool", f"compaction put off: {error}")

    def _unlink(self, segment: Segment) -> None:
        try:
            self.files.unlink(segment)
        except OSError as error:  # an orphan then, for the next start
            self.log.event("spool", f"cannot unlink {format.segment_name(*segment)}: {error}")


def _decode_or_none(data: msgspec.Raw) -> Operation | None:
    try:
        operation: Operation = wire.decode_operation(data)
        return operation
    except msgspec.DecodeError:
        return None


def _is_ours(connection: socket.socket) -> bool:
    """Whether the peer is a process of our own user."""
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.geteuid())
