"""The spool process's loop: gathers what all workers sent, makes it durable in one commit, answers, announces.

One thread, no event loop library: `turn` is one round, so tests step it.  The group is whatever arrived during the commit before.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec

from engine.clock import monotonic_s, wall_ms
from engine.errors import RemoteProtocolError
from engine.log import EventLog
from engine.spool import format, index, queries, recovery, wire
from engine.spool.changes import Changes, Ledger
from engine.spool.files import Segment, SegmentFiles
from engine.spool.ops import Accept, Exported, Nothing, Operation, Seal, Settle
from engine.spool.session import Session
from engine.spool.space import Space

GROUP_OPERATIONS = 1024  # with the gathering's bytes and time, the bounds of one group
GROUP_BYTES = 16 << 20
GATHER_S = 0.005
WAITING_OPERATIONS = 16_384  # kept in memory while the disk is full; past that workers keep their own
RESUME_WITHIN_S = 30.0  # epochs of the life before wait this long for their workers
OUTBOX_BOUND = 2_000_000  # records that no sink has: past this mail is refused, past twice this sending stops
TRIM_ROWS = 2_000  # outbox rows deleted with a group, at least
SPACE_CHECK_S = 0.25
READER_CHECK_S = 60.0
RETRY_FULL_S = 1.0
MAX_SESSIONS = 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Open(msgspec.Struct, frozen=True):
    """A new worker wants an epoch."""


class _Close(msgspec.Struct, frozen=True):
    """An epoch's worker is gone."""

    epoch: int


Entry = tuple[Session | None, int, Operation | _Open | _Close, str | None]  # who, its number, what, why refused already


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
        self.groups = 0
        self.operations = 0
        self._map_size_bytes = map_size_bytes
        with self.env.begin() as txn:
            self.ledger = Ledger(txn, self.tables)
            found = recovery.examine(txn, self.tables)
        self._resumable = found.epochs  # epoch -> (last operation applied, refusals)
        self._resume_until_s = monotonic_s() + RESUME_WITHIN_S
        self._group: list[Entry] = []
        self._waiting: list[Entry] = []  # a group, and what came after it, that could not be committed for want of space
        self._retry_at_s = 0.0
        self._closed_epochs: set[int] = set()
        self._unowned: set[str] = set()
        self._sessions: dict[int, Session] = {}
        self._owners: dict[str, Session] = {}
        self._fallback: Session | None = None
        self._accounting: Session | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next_space_check_s = 0.0
        self._next_reader_check_s = monotonic_s() + READER_CHECK_S
        self._gather_weight = 0
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
        started_s = monotonic_s()
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
        self._gather(max(started_s, monotonic_s()) + GATHER_S)
        self._work()
        self._housekeep()
        for session in list(self._sessions.values()):
            self._update(session)

    def close(self) -> None:
        """Commit what was gathered, then close everything; workers may resume their epochs with the next owner."""
        self._gather(monotonic_s() + GATHER_S)
        self._work()
        for session in self._sessions.values():
            session.flush(self.ledger.stamp_ms)
            session.connection.close()
        self._sessions.clear()
        self._poller.close()
        self.files.close()
        self.env.close()

    def _has_work(self) -> bool:
        """Whether there is something to do without waiting for input."""
        if self._waiting:
            return monotonic_s() >= self._retry_at_s
        if self._group or self.ledger.outbox_first <= self.ledger.exported:
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
                return
            if len(self._sessions) >= MAX_SESSIONS:
                connection.close()
                continue
            connection.setblocking(False)
            session = Session(connection)
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
        """Whether *session* is not to be heard now: its epoch is not durable yet, or memory or the outbox is full."""
        if session.opening or len(self._waiting) > WAITING_OPERATIONS:
            return True
        return session.role == "delivery" and self.ledger.outbox_rows > 2 * self.outbox_bound

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
        if session.epoch:
            self._group.append((None, 0, _Close(session.epoch), None))
            self.log.event("spool", f"{session.name} left epoch={session.epoch}")
        self._next_reader_check_s = 0.0

    # --- gathering ---------------------------------------------------------------------------------------------------------------------

    def _gather(self, deadline_s: float) -> None:
        """Decode the frames that have come, up to the bounds of a group."""
        taken_bytes = 0
        self._gather_weight = 0
        busy = [session for session in self._sessions.values() if len(session.inbox) >= 4]
        if self.groups & 1:
            busy.reverse()  # nobody is always first
        while busy:
            left: list[Session] = []
            for session in busy:
                if self._gather_weight >= GROUP_OPERATIONS or taken_bytes >= GROUP_BYTES or monotonic_s() > deadline_s:
                    return
                if self._paused(session):
                    continue
                try:
                    data = session.take_frame()
                    if data is None:
                        continue
                    taken_bytes += len(data)
                    self._take(session, data)
                except (RemoteProtocolError, msgspec.DecodeError) as error:
                    self.log.event("spool", f"{session.name} broke the protocol: {error}")
                    session.inbox.clear()
                    session.ended = True
                    continue
                left.append(session)
            busy = left

    def _take(self, session: Session, data: bytes) -> None:
        if session.epoch:
            self._take_batch(session, data)
        elif session.role == "control":
            session.outgoing += wire.frame(queries.answer(self, data))
            session.flush(self.ledger.stamp_ms)
        else:
            self._take_hello(session, wire.decode_hello(data))

    def _take_hello(self, session: Session, hello: wire.Hello) -> None:
        if hello.protocol != wire.PROTOCOL:
            self._reject(session, f"protocol {hello.protocol}, the spool process speaks {wire.PROTOCOL}")
            return
        session.role = hello.role
        session.index = hello.index
        if hello.role == "control":
            return
        session.virtual_mtas = tuple(hello.virtual_mtas)
        session.fallback = hello.fallback
        if not hello.resume_epoch:
            session.opening = True
            self._group.append((session, 0, _Open(), None))
            return
        found = self._resumable.pop(hello.resume_epoch, None)
        if found is None:
            self._reject(session, f"epoch {hello.resume_epoch} is closed")
            return
        session.last = session.upto = found[0]
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
        operations: list[Operation | None]
        try:
            batch = wire.decode_batch(data)
            operations = list(batch.operations)
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
            elif operation is None:
                entries.append((session, last, Nothing(), "malformed operation"))
            else:
                entries.append((session, last, operation, None))
        session.last = last
        self._gather_weight += weight

    def _refusal(self) -> str | None:
        """Why new mail is refused now; our own bounces are not."""
        if self.space.refusal is not None:
            return self.space.refusal
        if self.ledger.outbox_rows > self.outbox_bound:
            return f"accounting behind: {self.ledger.outbox_rows} records wait to be written"
        return None

    # --- committing --------------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self._waiting:
            self._hold(self._group)
            self._group = []
            if monotonic_s() < self._retry_at_s:
                return
            entries, self._waiting = self._waiting, []
        else:
            entries, self._group = self._group, []
        if not entries and self.ledger.outbox_first > self.ledger.exported:
            return
        try:
            self._commit(entries)
        except lmdb.MapFullError:
            self._stall(entries)
        except lmdb.Error as error:
            if not self._for_want_of_space(error):
                raise
            self._stall(entries)

    def _commit(self, entries: list[Entry]) -> None:
        problems = self._sync_bodies(entries)
        ledger = self.ledger
        now_ms = wall_ms()
        if ledger.stamp_ms >= now_ms:  # stamps go up with every group: at most a thousand groups a second, or they would outrun the clock
            time.sleep(0.001)
            now_ms = wall_ms()
        txn = self.env.begin(write=True)
        try:
            changes = Changes(txn, self.tables, ledger, max(ledger.stamp_ms + 1, now_ms))
            refusals: dict[Session, list[tuple[int, str]]] = {}
            opened: list[tuple[Session, int]] = []
            closed: list[int] = []
            upto: dict[Session, int] = {}
            for session, number, operation, reason in entries:
                if session is None:
                    if type(operation) is _Close:
                        changes.close_epoch(operation.epoch)
                        closed.append(operation.epoch)
                    continue
                if type(operation) is _Open:
                    opened.append((session, changes.open_epoch()))
                    continue
                upto[session] = number
                reason = reason or self._apply(changes, session, operation, problems)
                if reason is not None:
                    if type(operation) is Accept:
                        changes.drop_large(operation, session.epoch)
                    refusals.setdefault(session, []).append((number, reason))
            for session, number in upto.items():
                if session.epoch not in closed:
                    changes.advance(session.epoch, number, session.refused + refusals.get(session, []))
            changes.trim(max(TRIM_ROWS, 4 * len(changes.records)))
            changes.finish()
        except BaseException:
            txn.abort()
            raise
        txn.commit()
        changes.adopt()
        self.space.full = False
        self.groups += 1
        self.operations += len(entries)
        self._closed_epochs.update(closed)
        for segment in changes.unlink:
            self._unlink(segment)
        for session, epoch in opened:
            self._welcome(session, epoch)
        self._answer(upto, refusals, changes)

    def _apply(self, changes: Changes, session: Session, operation: Operation | _Open | _Close, problems: dict[Segment, str]) -> str | None:
        """Apply one operation, or say why it is refused."""
        epoch = session.epoch
        if type(operation) is Accept:
            reason = problems.get((operation.epoch, operation.segment)) if problems else None
            reason = reason or changes.check_accept(operation, epoch)
            if reason is None:
                changes.accept(operation)
            return reason
        if type(operation) is Settle:
            accept = operation.accept
            reason = problems.get((accept.epoch, accept.segment)) if problems and accept is not None else None
            reason = reason or changes.check_settle(operation, epoch)
            if reason is None:
                changes.settle(operation)
            return reason
        if type(operation) is Seal:
            return changes.seal(operation, epoch)
        if type(operation) is Exported:
            return changes.exported(operation)
        return None

    def _sync_bodies(self, entries: list[Entry]) -> dict[Segment, str]:
        """Sync the segments that *entries* name; why, for those that could not be."""
        wanted: dict[Segment, Session] = {}
        for session, _, operation, reason in entries:
            if reason is not None or session is None:
                continue
            accept = operation if type(operation) is Accept else operation.accept if type(operation) is Settle else None
            if accept is not None and accept.epoch == session.epoch and 0 <= accept.segment < 1 << 32:
                wanted[accept.epoch, accept.segment] = session
        if not wanted:
            return {}
        known = set(self.files.failed)
        problems = self.files.sync(wanted)
        for segment, reason in problems.items():
            if segment not in known:
                self.log.event("spool", reason)
                wanted[segment].tell(wire.Abandoned(*segment))
        return problems

    def _answer(self, upto: dict[Session, int], refusals: dict[Session, list[tuple[int, str]]], changes: Changes) -> None:
        touched: set[Session] = set()
        for session, number in upto.items():
            session.upto = number
            refused = refusals.get(session, [])
            session.refused += refused
            session.tell(wire.Ack(number, refused))
            touched.add(session)
        if changes.announced:
            news: dict[Session, list[int]] = {}
            for name, number in changes.announced:
                owner = self._owner(name)
                if owner is not None:
                    news.setdefault(owner, []).append(number)
            for owner, numbers in news.items():
                owner.announce(numbers, changes.stamp_ms)
                touched.add(owner)
        if changes.records and self._accounting is not None:
            self._accounting.announce([], changes.stamp_ms)
            touched.add(self._accounting)
        for session in touched:
            session.flush(self.ledger.stamp_ms)

    def _owner(self, queue: str) -> Session | None:
        """Who sends *queue*'s mail: the owner of its virtual MTA; nobody that is connected will find it when it starts."""
        virtual_mta = queue.rpartition("/")[2]
        owner = self._owners.get(virtual_mta)
        if owner is None and self._fallback is not None:
            owner = self._fallback
            if virtual_mta not in self._unowned and len(self._unowned) < 10_000:
                self._unowned.add(virtual_mta)
                self.log.event("spool", f"virtual MTA {virtual_mta!r} belongs to nobody that is connected: {owner.name} sends its mail")
        return owner

    # --- a full disk -------------------------------------------------------------------------------------------------------------------

    def _for_want_of_space(self, error: lmdb.Error) -> bool:
        """Whether room would have helped; LMDB calls a write that went in only partly, as on a full disk, an input/output error."""
        code = getattr(error, "code", 0)
        return code in _FULL or (code == errno.EIO and self.space.free_bytes() < self.space.min_free_bytes)

    def _stall(self, entries: list[Entry]) -> None:
        """A commit failed for want of space: throw the ballast off, take no mail, keep outcomes until they can be committed."""
        if not self.space.full:
            self.log.event("spool", "commit failed: no space left; new mail is refused and outcomes wait in memory until there is")
            self.space.full = True
            self._retry_at_s = 0.0
        else:
            self._retry_at_s = monotonic_s() + RETRY_FULL_S
        self.space.drop_ballast()
        self._check_space(force=True)
        self._hold(entries)

    def _hold(self, entries: list[Entry]) -> None:
        """Keep *entries* for a later commit; new mail among them is refused at once and becomes Nothing."""
        refused: dict[Session, list[tuple[int, str]]] = {}
        for session, number, operation, reason in entries:
            if session is not None and type(operation) is Accept:
                reason = reason or self.space.refusal or "disk low"
                refused.setdefault(session, []).append((number, reason))
                self._waiting.append((session, number, Nothing(), None))
            else:
                self._waiting.append((session, number, operation, reason))
        for session, numbers in refused.items():
            session.refused += numbers
            session.tell(wire.Ack(session.upto, numbers))
            session.flush(self.ledger.stamp_ms)

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
        if self._resumable and now_s > self._resume_until_s:
            self._group += [(None, 0, _Close(epoch), None) for epoch in self._resumable]
            self._resumable = {}
        if self._closed_epochs:
            closed, self._closed_epochs = self._closed_epochs, set()
            recovery.remove_orphans(self.env, self.tables, self.files, closed.__contains__)
        if now_s > self._next_reader_check_s:
            self._next_reader_check_s = now_s + READER_CHECK_S
            freed = self.env.reader_check()
            if freed:
                self.log.event("spool", f"freed {freed} reader slots of dead processes")

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
