"""A `<spool>` that is deliver-only beside the one that accepts: what lies in it is moved there, in order, and sent from there.

So a dead server's spool is attached by one line, and its mail obeys the limits that all mail obeys.  The mover owns the other spool (nobody else has
it open) and is a worker of ours: each step is a `Move`, which the spool process applies once whatever is killed, because the step's mark is stored in
the same commit.  Rows go from the other spool only when they are durable in ours.  Records that no accounting has written yet come first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import uvloop

from engine.drain import watch
from engine.errors import SpoolError
from engine.log import EventLog, escape
from engine.mail.message_id import text
from engine.process import Birth
from engine.spool import format, offline, overflow
from engine.spool.copying import Copier, Unreadable, by_message, send
from engine.spool.link import SpoolLink
from engine.spool.ops import Accept, Exported, Move, Settle, Settlement
from engine.spool.reader import SpoolReader
from engine.spool.segments import SegmentWriter

if TYPE_CHECKING:
    from engine.config import Config

STEP_ROWS = 200  # rows, or records, on their way at once
STEP_BYTES = 32 << 20  # bodies that are copied before the loop turns: its heartbeat must not stop
AGAIN_S = 5.0  # after a refusal: our disk is low, or accounting is behind
CLOSED = b"\xff" * 64  # a mark past all others: nothing is moved under its name any more, and what was moved is forgotten here
NAMED = 10_000  # messages that were said to stay are remembered, to say it once


class Mover:
    """Moves what lies in *source* over *link*; call `step` until it says that nothing is left.

    Our spool's mark says up to where the other one was read; behind it, rows that are kept for want of a body are marked in the other spool before
    the mark passes them.  So what may go from there is known after every crash and every refusal, and nothing is looked at twice to decide it.
    """

    def __init__(self, source: offline.Offline, link: SpoolLink, ours: SpoolReader, writer: SegmentWriter, log: EventLog) -> None:
        self.moved = 0  # recipients
        self.kept = 0  # recipients of messages that cannot be read: they stay where they are until the next start
        self._source = source
        self._reader = SpoolReader(source.root, (source.env, source.tables))
        self._link = link
        self._ours = ours
        self._copier = Copier(self._reader, link, writer)
        self._log = log
        self._begun = False
        self._name = ""  # what our spool knows the other one by
        self._tidied = b""  # no row up to this key is left that was moved
        self._named: set[bytes] = set()

    async def step(self) -> bool:
        """Move the next records or recipients; False once nothing is left to move.  SpoolError: our spool refuses, or a disk fails."""
        try:
            if not self._begun:
                await self._begin()
            return await self._records() or await self._recipients()
        except (lmdb.Error, OSError) as error:
            raise SpoolError(f"{self._source.root}: {error}") from error

    # --- parts -------------------------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Tidy the other spool, finish what a crash left; what was kept the last time gets a new chance, under a new name.

        The old name is closed first: a Move of our predecessor that still waits for room in our spool does nothing then.
        """
        source = self._source
        (source.root / format.BALLAST).unlink(missing_ok=True)  # its disk may be full, and deleting needs room
        source.close_epochs()
        source.remove_orphans()
        self._name, self._tidied = _name_of(source), b""
        ends = []
        for part, tidy in (("records", self._tidy_records), ("recipients", self._tidy_recipients)):
            mark = tidy()
            if mark != CLOSED:
                ends.append(Move(f"{self._name}/{part}", mark, CLOSED))
        if _has_kept(source) or len(ends) < 2:
            await self._send(ends)
            self._name, self._tidied = _start_over(source), b""
        self.moved = 0
        self._begun = True

    async def _records(self) -> bool:
        name = f"{self._name}/records"
        mark = self._tidy_records()
        rows = self._reader.outbox(0, STEP_ROWS)
        if rows:
            await self._send([Move(name, mark, rows[-1][0].to_bytes(8, "big"), records=[bytes(record) for _, record in rows])])
        return bool(rows)

    async def _recipients(self) -> bool:
        mark = self._tidy_recipients()
        rows = self._reader.rows(mark, STEP_ROWS)
        if rows:
            await self._send(self._moves(f"{self._name}/recipients", mark, rows))
        return bool(rows)

    def _tidy_records(self) -> bytes:
        """Forget the records that were moved; our mark behind the last one."""
        mark = self._ours.moved(f"{self._name}/records")
        if mark != CLOSED and (upto := int.from_bytes(mark, "big")) > self._source.ledger.exported:
            self._forget(Exported(upto, {}))
        return mark

    def _tidy_recipients(self) -> bytes:
        """Forget the recipients that were moved; our mark behind the last one."""
        mark = self._ours.moved(f"{self._name}/recipients")
        while self._tidied < mark != CLOSED:
            keys = [key for key, _ in self._reader.rows(self._tidied, STEP_ROWS) if key <= mark]
            with self._source.env.begin(db=self._source.tables.meta) as txn:
                gone = [key for key in keys if txn.get(format.KEPT_PREFIX + key) is None]
            if gone:
                self._forget(Settle([Settlement(key) for key in gone]))
            self.moved += len(gone)
            self._tidied = keys[-1] if len(keys) == STEP_ROWS else mark
        return mark

    def _moves(self, name: str, mark: bytes, rows: Sequence[tuple[bytes, bytes]]) -> Iterator[Move]:
        """One for the recipients that a message has in a queue.  Its body is written as it is made: submit each before the next is taken."""
        for recipients in by_message(rows):
            last = recipients[-1][0]
            yield Move(name, mark, last, self._accept(last[13:25], recipients))
            mark = last

    def _accept(self, identity: bytes, rows: Sequence[tuple[bytes, bytes]]) -> Accept | None:
        """The message with these recipients under an id of ours; None if it cannot be read."""
        with self._source.env.begin(db=self._source.tables.meta) as txn:
            if any(txn.get(format.KEPT_PREFIX + key) is not None for key, _ in rows):  # the mark may be past them by now
                self._keep(identity, rows, "it could not be read a moment ago")
                return None
        try:
            return self._copier.accept(identity, rows)
        except Unreadable as error:
            self._keep(identity, rows, str(error))
            return None

    def _keep(self, identity: bytes, rows: Sequence[tuple[bytes, bytes]], why: str) -> None:
        """Let *rows* stay: durable before the mark passes them."""
        with self._source.env.begin(write=True, db=self._source.tables.meta) as txn:
            for key, _ in rows:
                self.kept += txn.put(format.KEPT_PREFIX + key, b"", overwrite=False)
        if identity not in self._named:
            if len(self._named) >= NAMED:
                self._named.clear()
            self._named.add(identity)
            self._log.event("quarantine", f"id={text(identity)} of {self._source.root} is not moved, it stays there: {escape(why)}")

    async def _send(self, moves: Iterable[Move]) -> None:
        await send(self._link, moves, STEP_BYTES)

    def _forget(self, operation: Settle | Exported) -> None:
        """Apply *operation* to the other spool, and unlink the files that it empties."""
        with self._source.changes() as changes:
            changes.apply(operation, 0, {})
            changes.trim(offline.TRIM_ROWS)
        for segment in changes.unlink:
            self._source.files.unlink(segment)


def _name_of(source: offline.Offline) -> str:
    """What our spool knows this one by: the same until an engine runs on it again, and no other's."""
    with source.env.begin(db=source.tables.meta) as txn:
        stored = txn.get(format.MOVING)
    if stored is None or stored[:4] != format.U32.pack(source.ledger.next_epoch):
        return _start_over(source)
    return bytes(stored[4:]).decode()


def _has_kept(source: offline.Offline) -> bool:
    with source.env.begin(db=source.tables.meta) as txn:
        cursor = txn.cursor()
        return bool(cursor.set_range(format.KEPT_PREFIX) and cursor.key().startswith(format.KEPT_PREFIX))


def _start_over(source: offline.Offline) -> str:
    """A new name, under which nothing was moved yet; nothing is kept any more."""
    name = os.urandom(8).hex()
    with source.env.begin(write=True, db=source.tables.meta) as txn:
        txn.put(format.MOVING, format.U32.pack(source.ledger.next_epoch) + name.encode())
        cursor = txn.cursor()
        found = cursor.set_range(format.KEPT_PREFIX)
        while found and cursor.key().startswith(format.KEPT_PREFIX):
            found = cursor.delete()
    return name


def run(birth: Birth, config: Config) -> int:
    """Empty *birth*.source_path into the spool of the engine, and see to it that it stays empty, until SIGTERM; the exit status."""
    offline_one = any(spool.path == birth.source_path and spool.deliver_only for spool in config.spools)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(birth, config) if offline_one else overflow.serve(birth, config))


async def _serve(birth: Birth, config: Config) -> int:
    log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
    lost: list[Exception] = []
    ending = asyncio.Event()

    def on_lost(error: Exception) -> None:
        lost.append(error)
        ending.set()

    link = await SpoolLink.connect(birth.spool_socket, role="mover", index=birth.index, on_lost=on_lost)
    ours = SpoolReader(birth.spool_path)
    try:
        with offline.opened(Path(birth.source_path)) as source:
            watch(asyncio.get_running_loop(), birth, ending.set, ending.set)
            min_free = config.spool.min_free_space_bytes
            writer = SegmentWriter(Path(birth.spool_path) / format.BODIES, link, **({"min_free_bytes": min_free} if min_free else {}))
            mover = Mover(source, link, ours, writer, log)
            await _move_all(mover, birth.source_path, log, ending)
            writer.close()
    finally:
        log.close()
        link.close()
        ours.close()
    return os.EX_TEMPFAIL if lost else os.EX_OK


async def _move_all(mover: Mover, path: str, log: EventLog, ending: asyncio.Event) -> None:
    """Step until told to end; what our spool refuses is said once and tried again."""
    said = ""
    log.event("mover", f"emptying {path}")
    log.flush()
    while not ending.is_set():
        try:
            more = await mover.step()
        except SpoolError as error:
            if str(error) != said:
                said = str(error)
                log.event("mover", f"{path}: {escape(said)}; next try in {AGAIN_S:.0f} s, and so on")
                log.flush()
            await _wait(ending, AGAIN_S)
            continue
        said = ""
        if not more:
            left = f"{mover.kept} recipients of messages that cannot be read stay in it" if mover.kept else "its <spool> can leave the configuration"
            log.event("mover", f"{path} is empty, {mover.moved} recipients were moved: {left}")
            log.flush()
            await ending.wait()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
