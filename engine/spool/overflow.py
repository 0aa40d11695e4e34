"""A `<spool>` that takes mail while the first one cannot: what came in there is moved into the first as soon as that has room, and sent from there.

Its own process goes on taking mail meanwhile, so that rows come in anywhere between those that are moved.  What makes each move once all the same is
that a commit stamps its mail later than every commit before: the rows stamped up to a time that has passed are a closed set.  They are moved in the
order of their keys, as a round; a mark (time, key) in the first spool, stored in the commit of each `Move`, says which of them are ours.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb

from engine.clock import wall_ms
from engine.drain import watch
from engine.errors import SpoolError
from engine.log import EventLog, escape
from engine.mail.message_id import text
from engine.process import Birth, spool_socket
from engine.spool import format
from engine.spool.copying import Copier, Unreadable, by_message, send
from engine.spool.link import SpoolLink
from engine.spool.ops import Accept, Exported, Move, Operation, Settle, Settlement, Stamp
from engine.spool.reader import SpoolReader
from engine.spool.segments import SegmentWriter
from engine.spool.space import DEFAULT_MIN_FREE_BYTES

if TYPE_CHECKING:
    from engine.config import Config

STEP_ROWS = 200  # rows, or records, on their way at once
STEP_BYTES = 4 << 20  # bodies that are copied before the first spool is heard: no more than that goes to a disk that has become low
ROUND_MS = 5_000  # what comes due with time, left over from when the spool was an engine's first, is looked for so often
LOOK_S = 1.0  # how often an empty spool is looked at
AGAIN_S = 5.0  # after a refusal
ROOM = 1.1  # of min-free-space: new mail comes into the first spool before what waits in another
ASIDE_MS = 3_600_000  # what cannot be read is tried again then


class Overflow:
    """Moves what lies behind *there*, whose process *their* talks to, into *ours*; call `step` as long as it says that there may be more."""

    def __init__(
        self, there: SpoolReader, their: SpoolLink, ours: SpoolReader, link: SpoolLink, writer: SegmentWriter, log: EventLog, room: Callable[[], str]
    ) -> None:
        """*room* says why nothing can be moved just now, "" if it can."""
        self.moved = 0  # recipients
        self._there = there
        self._their = their
        self._ours = ours
        self._link = link
        self._copier = Copier(there, link, writer)
        self._log = log
        self._room = room
        self._name = ""
        self._mark = b""  # of the last recipient that was moved: the time of its round, its key
        self._until_ms = 0  # the round under way: rows stamped up to here
        self._at = b""  # ... it has come up to this key; b"": to its end
        self._exported = 0

    async def step(self) -> bool:
        """Move the next records or recipients; False once nothing is left to move.  SpoolError: one of the spools refuses, or a disk fails."""
        try:
            if not self._name:
                await self._begin()
            return await self._records() or await self._recipients()
        except (SpoolError, lmdb.Error, OSError) as error:
            self._name = ""  # what became of the last moves is read back
            raise error if isinstance(error, SpoolError) else SpoolError(str(error)) from error

    async def _begin(self) -> None:
        """Find the mark, and let go what was moved before it and is still there."""
        name = self._there.name()
        mark = self._ours.moved(f"{name}/recipients")
        self._mark, self._until_ms, self._at = mark, int.from_bytes(mark[:8], "big"), mark[8:]
        after = b""
        while mark:
            rows, after = self._there.ripe(after, self._until_ms, STEP_ROWS)
            await self._forget([key for key, _ in rows if key <= mark[8:]])
            if not after or after >= mark[8:]:
                break
        self._name = name

    async def _records(self) -> bool:
        mark = self._ours.moved(f"{self._name}/records")
        upto = int.from_bytes(mark, "big")
        if upto > self._exported:
            await self._tell(Exported(upto, {}))
            self._exported = upto
        rows = self._there.outbox(upto, STEP_ROWS)
        if rows:
            await self._must_have_room()
            move = Move(f"{self._name}/records", mark, rows[-1][0].to_bytes(8, "big"), records=[bytes(record) for _, record in rows])
            await send(self._link, [move], STEP_BYTES)
        return bool(rows)

    async def _recipients(self) -> bool:
        resumed = bool(self._at)
        if not resumed and not await self._begin_round():
            return False
        rows, self._at = self._there.ripe(self._at, self._until_ms, STEP_ROWS)
        if rows:
            await self._must_have_room()
            sent: list[tuple[bytes, Accept, list[bytes]]] = []
            unread: list[tuple[bytes, bytes]] = []
            await send(self._link, self._moves(rows, sent, unread), STEP_BYTES)
            for old, accept, keys in sent:
                self._log.event("moved", f"id={text(old)} as id={text(accept.id)} queue={escape(accept.recipients[0].queue)} ({len(keys)} rcpts)")
            await self._forget([key for _, _, keys in sent for key in keys])
            if unread:
                await self._put_aside(unread)
        return bool(rows or self._at or resumed)  # what came in since that round began is the next one's

    async def _begin_round(self) -> bool:
        """A time that all that is there was stamped before; False if nothing can have become ripe since the last round."""
        if not self._there.waiting() or (self._there.stamp_ms() == self._until_ms and wall_ms() < self._until_ms + ROUND_MS):
            return False
        await self._tell(Stamp())  # what comes in later is stamped later
        self._until_ms = self._there.stamp_ms()
        return True

    def _moves(
        self, rows: Sequence[tuple[bytes, bytes]], sent: list[tuple[bytes, Accept, list[bytes]]], unread: list[tuple[bytes, bytes]]
    ) -> Iterator[Move]:
        """One for the recipients that a message has in a queue; ends early before one that cannot be read, whose rows go to *unread*.

        A body is written as its Move is made: submit each before the next is taken.
        """
        for recipients in by_message(rows):
            old, last = recipients[0][0][13:25], recipients[-1][0]
            try:
                accept = self._copier.accept(old, recipients)
            except Unreadable as error:
                unread += recipients
                self._log.event("quarantine", f"id={text(old)} is not moved, and tried again in an hour: {escape(str(error))}")
                return
            mark = self._until_ms.to_bytes(8, "big") + last
            move = Move(f"{self._name}/recipients", self._mark, mark, accept)
            self._mark = mark
            sent.append((old, accept, [key for key, _ in recipients]))
            yield move

    async def _put_aside(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Let *rows* be due later, which takes them out of the round before its mark passes them; the round goes on behind them."""
        again_ms = max(wall_ms(), self._until_ms) + ASIDE_MS
        await self._tell(Settle([Settlement(key, again_ms=again_ms, due=bytes(due)) for key, due in rows]))
        self._at = rows[-1][0]

    async def _must_have_room(self) -> None:
        """SpoolError if the first spool would refuse a move now: before anything is written to a disk that is low."""
        why = self._room()
        if why:
            raise SpoolError(why)
        await send(self._link, [Move(f"{self._name}/recipients", self._mark, self._mark)], STEP_BYTES)

    async def _forget(self, keys: Sequence[bytes]) -> None:
        """These are in the first spool now."""
        if keys:
            await self._tell(Settle([Settlement(key) for key in keys]))
            self.moved += len(keys)

    async def _tell(self, operation: Operation) -> None:
        refused: list[str | None] = []
        self._their.submit(operation, refused.append)
        await self._their.drain()
        if refused and refused[0] is not None:
            raise SpoolError(refused[0])


async def serve(birth: Birth, config: Config) -> int:
    """Keep the spool at *birth*.source_path empty until SIGTERM; the exit status."""
    log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
    lost: list[Exception] = []
    ending = asyncio.Event()

    def on_lost(error: Exception) -> None:
        lost.append(error)
        ending.set()

    links: list[SpoolLink] = []
    readers: list[SpoolReader] = []
    try:
        for path, socket in ((birth.source_path, spool_socket(birth.source_path)), (birth.spool_path, birth.spool_socket)):
            links.append(await SpoolLink.connect(socket, role="mover", index=birth.index, on_lost=on_lost))
            readers.append(SpoolReader(path))
        (their, link), (there, ours) = links, readers
        watch(asyncio.get_running_loop(), birth, ending.set, ending.set)
        min_free = next((spool.min_free_space_bytes for spool in config.spools if spool.path == birth.spool_path), 0) or DEFAULT_MIN_FREE_BYTES
        writer = SegmentWriter(Path(birth.spool_path) / format.BODIES, link, min_free_bytes=min_free)
        mover = Overflow(there, their, ours, link, writer, log, lambda: no_room(birth.spool_path, min_free))
        await _keep_empty(mover, birth.source_path, log, ending)
        writer.close()
    finally:
        log.close()
        for each in links:
            each.close()
        for reader in readers:
            reader.close()
    return os.EX_TEMPFAIL if lost else os.EX_OK


def no_room(path: str, min_free_bytes: int) -> str:
    """Why nothing should be moved into the spool at *path* just now; "" if it has room."""
    found = os.statvfs(Path(path) / format.BODIES)
    free = found.f_bavail * found.f_frsize
    if free < ROOM * min_free_bytes:
        return f"disk low: {free >> 20} MB free in {path}, of which {min_free_bytes >> 20} MB are kept (min-free-space)"
    return ""


async def _keep_empty(mover: Overflow, path: str, log: EventLog, ending: asyncio.Event) -> None:
    """Step until told to end; what a spool refuses is said once and tried again."""
    said, moved = "", 0
    log.event("mover", f"keeping {path} empty")
    log.flush()
    while not ending.is_set():
        pause_s = 0.0
        await asyncio.sleep(0)
        try:
            if not await mover.step():
                pause_s = LOOK_S
                if mover.moved > moved:
                    log.event("mover", f"{path} is empty, {mover.moved - moved} recipients were moved into the first spool")
                    moved = mover.moved
                said = ""
        except SpoolError as error:
            pause_s = AGAIN_S
            if str(error) != said:
                said = str(error)
                log.event("mover", f"{path}: {escape(said)}; next try in {AGAIN_S:.0f} s, and so on")
        if pause_s:
            log.flush()
            try:
                await asyncio.wait_for(ending.wait(), pause_s)
            except TimeoutError:
                continue
