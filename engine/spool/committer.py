"""Group commit: what has come from all workers becomes durable in one transaction, or waits until there is room."""

from __future__ import annotations

import errno
import time
from typing import NamedTuple

import lmdb
import msgspec

from engine.clock import monotonic_s, wall_ms
from engine.log import EventLog
from engine.spool import wire
from engine.spool.changes import Changes, Ledger
from engine.spool.files import Segment, SegmentFiles
from engine.spool.format import LARGE
from engine.spool.index import Tables
from engine.spool.ops import Accept, Move, Nothing, Operation, Settle
from engine.spool.session import Session
from engine.spool.space import FULL, Space

TRIM_ROWS = 2_000  # outbox rows deleted with a group, at least
RETRY_FULL_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Open(msgspec.Struct, frozen=True):
    """A new worker wants an epoch."""


class Close(msgspec.Struct, frozen=True):
    """An epoch's worker is gone."""

    epoch: int


Entry = tuple[Session | None, int, Operation | Open | Close, str | None]  # who, its number, what, why it is refused already
Refusals = dict[Session, list[tuple[int, str]]]


class Committed(NamedTuple):
    """A group that is durable."""

    changes: Changes
    upto: dict[Session, int]  # the last operation decided of each
    refusals: Refusals
    opened: list[tuple[Session, int]]  # with their new epochs
    closed: list[int]


class Committer:
    """The one that writes: syncs bodies, applies a group, commits."""

    def __init__(self, env: lmdb.Environment, tables: Tables, ledger: Ledger, files: SegmentFiles, space: Space, log: EventLog) -> None:
        self.ledger = ledger
        self.waiting: list[Entry] = []  # a group, and what came after it, that could not be committed for want of space
        self.retry_at_s = 0.0
        self._env = env
        self._tables = tables
        self._files = files
        self._space = space
        self._log = log

    @property
    def has_work(self) -> bool:
        """Whether `work` has something to do even without new entries."""
        return monotonic_s() >= self.retry_at_s if self.waiting else self.ledger.outbox_first <= self.ledger.exported

    def work(self, entries: list[Entry]) -> Committed | None:
        """Commit *entries*, after those that wait; None if there is nothing to commit or no room for it."""
        if self.waiting:
            self._hold(entries)
            if monotonic_s() < self.retry_at_s:
                return None
            entries, self.waiting = self.waiting, []
        elif not entries and not self.has_work:
            return None
        try:
            return self._commit(entries)
        except lmdb.Error as error:
            if not self._for_want_of_space(error):
                raise
            self._stall(entries)
            return None

    def _commit(self, entries: list[Entry]) -> Committed:
        problems = self._sync_bodies(entries)
        ledger = self.ledger
        now_ms = wall_ms()
        if ledger.stamp_ms >= now_ms:  # stamps go up with every group: at most a thousand groups a second, or they would outrun the clock
            time.sleep(0.001)
            now_ms = wall_ms()
        txn = self._env.begin(write=True)
        try:
            changes = Changes(txn, self._tables, ledger, max(ledger.stamp_ms + 1, now_ms))
            group = self._apply_all(changes, entries, problems)
            changes.trim(max(TRIM_ROWS, 4 * len(changes.records)))
            changes.finish()
        except BaseException:
            txn.abort()
            raise
        txn.commit()
        changes.adopt()
        self._space.full = False
        return group

    def _apply_all(self, changes: Changes, entries: list[Entry], problems: dict[Segment, str]) -> Committed:
        group = Committed(changes, {}, {}, [], [])
        upto = group.upto
        for session, number, operation, reason in entries:
            if session is None:
                if type(operation) is Close:
                    changes.close_epoch(operation.epoch)
                    group.closed.append(operation.epoch)
                continue
            if type(operation) is Open:
                group.opened.append((session, changes.open_epoch()))
                continue
            upto[session] = number
            if reason is None:
                reason = changes.apply(operation, session.epoch, problems)
            if reason is not None:
                accept = operation if type(operation) is Accept else operation.accept if type(operation) is Move else None
                if accept is not None:
                    changes.drop_large(accept, session.epoch)
                group.refusals.setdefault(session, []).append((number, reason))
        for session, number in upto.items():
            if session.epoch not in group.closed:
                changes.advance(session.epoch, number, session.refused + group.refusals.get(session, []))
        return group

    def _sync_bodies(self, entries: list[Entry]) -> dict[Segment, str]:
        """Sync the segments that *entries* name; why, for those that could not be."""
        wanted: dict[Segment, Session] = {}
        for session, _, operation, reason in entries:
            if reason is not None or session is None:
                continue
            accept = operation if type(operation) is Accept else operation.accept if type(operation) is Settle or type(operation) is Move else None
            if accept is not None and accept.epoch == session.epoch and 0 <= accept.segment < 1 << 32:
                wanted[accept.epoch, accept.segment] = session
        if not wanted:
            return {}
        known = set(self._files.failed)
        problems = self._files.sync(wanted)
        for segment, reason in problems.items():
            if segment not in known:
                self._log.event("spool", reason)
                wanted[segment].tell(wire.Abandoned(*segment))
        return problems

    def _for_want_of_space(self, error: lmdb.Error) -> bool:
        """Whether room would have helped; LMDB calls a write that went in only partly, as on a full disk, an input/output error."""
        if isinstance(error, lmdb.MapFullError):
            return True
        code = getattr(error, "code", 0)
        return code in _FULL or (code == errno.EIO and self._space.free_bytes() < self._space.min_free_bytes)

    def _stall(self, entries: list[Entry]) -> None:
        """A commit failed for want of space: throw the ballast off, take no mail, keep outcomes until they can be committed."""
        if not self._space.full:
            self._log.event("spool", "commit failed: no space left; new mail is refused and outcomes wait in memory until there is")
            self._space.full = True
            self.retry_at_s = 0.0
        else:
            self.retry_at_s = monotonic_s() + RETRY_FULL_S
        self._space.drop_ballast()
        self._space.refusal = FULL
        self._hold(entries)

    def _hold(self, entries: list[Entry]) -> None:
        """Keep *entries* for a later commit; new mail among them is refused at once, and all that is kept of it is its place."""
        refused: Refusals = {}
        for session, number, operation, reason in entries:
            if session is not None and type(operation) is Accept and operation.recipients:
                reason = reason or self._space.refusal or FULL
                refused.setdefault(session, []).append((number, reason))
                kept = msgspec.structs.replace(operation, message=b"", recipients=[], records=[])  # tells which file holds nothing now
                self.waiting.append((session, number, kept if operation.segment & LARGE else Nothing(), reason))
            else:
                self.waiting.append((session, number, operation, reason))
        for session, numbers in refused.items():
            session.refused += numbers
            session.tell(wire.Ack(session.upto, numbers))
            session.flush(self.ledger.stamp_ms)
