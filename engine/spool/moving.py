"""A `<spool>` that is deliver-only beside the one that accepts: what lies in it is moved there, in order, and sent from there.

So a dead server's spool is attached by one line, and its mail obeys the limits that all mail obeys.  The mover owns the other spool (nobody else has
it open) and is a worker of ours: each step is a `Move`, which the spool process applies once whatever is killed, because the step's mark is stored in
the same commit.  Rows go from the other spool only when they are durable in ours.  Records that no accounting has written yet come first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from engine.drain import watch
from engine.errors import SpoolError
from engine.log import EventLog, escape
from engine.mail.envelope import Body
from engine.mail.message_id import text
from engine.process import Birth
from engine.spool import format, offline
from engine.spool.link import SpoolLink
from engine.spool.ops import Accept, Exported, Move, NewRecipient, Settle, Settlement
from engine.spool.reader import SpoolReader
from engine.spool.segments import SegmentWriter

if TYPE_CHECKING:
    from engine.config import Config

STEP_ROWS = 200  # rows, or records, on their way at once
AGAIN_S = 5.0  # after a refusal: our disk is low, or accounting is behind
_encode = msgspec.msgpack.Encoder().encode


class Mover:
    """Moves what lies in *source* over *link*; call `step` until it says that nothing is left."""

    def __init__(self, source: offline.Offline, link: SpoolLink, ours: SpoolReader, writer: SegmentWriter, log: EventLog) -> None:
        self.moved = 0  # recipients
        self.kept: set[bytes] = set()  # messages that cannot be read: they stay where they are
        self._source = source
        self._reader = SpoolReader(source.root, (source.env, source.tables))
        self._link = link
        self._ours = ours
        self._writer = writer
        self._log = log
        self._name = _name_of(source)
        self._tidy_up()

    async def step(self) -> bool:
        """Move the next records or recipients; False once nothing is left to move.  SpoolError: our spool refuses, or its disk fails."""
        return await self._records() or await self._recipients()

    async def _records(self) -> bool:
        rows = self._reader.outbox(0, STEP_ROWS)
        if not rows:
            return False
        name, last = f"{self._name}/records", rows[-1][0]
        mark = self._ours.moved(name)
        await self._send([Move(name, mark, last.to_bytes(8, "big"), records=[bytes(record) for _, record in rows])])
        self._forget(Exported(last, {}))
        return True

    async def _recipients(self) -> bool:
        name = f"{self._name}/recipients"
        mark = self._ours.moved(name)
        rows = self._reader.rows(mark, STEP_ROWS)
        if not rows:
            return False
        await self._send(self._moves(name, mark, rows))
        gone = [key for key, _ in rows if key[13:25] not in self.kept]
        self.moved += len(gone)
        self._forget(Settle([Settlement(key) for key in gone]))
        return True

    def _moves(self, name: str, mark: bytes, rows: Sequence[tuple[bytes, bytes]]) -> Iterator[Move]:
        """One for the recipients that a message has in a queue.  Its body is written as it is made: submit each before the next is taken."""
        for _, group in groupby(rows, key=lambda row: (row[0][:4], row[0][13:25])):
            recipients = list(group)
            last = recipients[-1][0]
            yield Move(name, mark, last, self._accept(last[13:25], recipients))
            mark = last

    def _accept(self, identity: bytes, rows: Sequence[tuple[bytes, bytes]]) -> Accept | None:
        """The message with these recipients under an id of ours; None if it cannot be read."""
        message = self._reader.messages([identity]).get(identity)
        if message is None:
            self._keep(identity, "its row is missing")
            return None
        new = self._link.new_id()
        try:
            body = self._copy(message.body, identity, new)
        except (format.BodyMissing, format.BodyCorrupt) as error:
            self._keep(identity, str(error))
            return None
        queue = self._reader.queue_name(format.U32.unpack(rows[0][0][:4])[0])
        recipients = [NewRecipient(queue, bytes(due), 255 - key[4]) for key, due in rows]
        encoded = _encode(msgspec.structs.replace(message, body=body))
        return Accept(new, encoded, body.epoch, body.segment, body.size_bytes, recipients)

    def _copy(self, body: Body, identity: bytes, new: bytes) -> Body:
        if body.size_bytes <= format.LARGE_BODY_BYTES:
            return self._writer.write(new, [self._reader.body(body, identity)])
        large = self._writer.begin_large(new)
        try:
            for chunk in self._reader.body_chunks(body, identity):
                large.write(chunk)
            return large.finish()
        except BaseException:
            large.abort()
            raise

    def _keep(self, identity: bytes, why: str) -> None:
        if identity not in self.kept:
            self.kept.add(identity)
            self._log.event("quarantine", f"id={text(identity)} of {self._source.root} is not moved, it stays there: {escape(why)}")

    async def _send(self, moves: Iterable[Move]) -> None:
        """Submit *moves* and wait until they are answered; SpoolError for the first that is refused: none behind it is applied then."""
        refused: list[str] = []
        for move in moves:
            self._link.submit(move, lambda reason: refused.append(reason) if reason is not None else None)
        await self._link.drain()
        if refused:
            raise SpoolError(refused[0])

    def _tidy_up(self) -> None:
        """After a crash between the commit in our spool and the one here: what was moved goes, what cannot be read stays."""
        self._forget(Exported(int.from_bytes(self._ours.moved(f"{self._name}/records"), "big"), {}))
        mark, after = self._ours.moved(f"{self._name}/recipients"), b""
        while rows := [key for key, _ in self._reader.rows(after, STEP_ROWS) if key <= mark]:
            after = rows[-1]
            self._forget(Settle([Settlement(key) for key in rows if self._is_readable(key[13:25])]))

    def _is_readable(self, identity: bytes) -> bool:
        message = self._reader.messages([identity]).get(identity)
        if message is None:
            self._keep(identity, "its row is missing")
            return False
        try:
            for _ in self._reader.body_chunks(message.body, identity):
                pass
        except SpoolError as error:
            self._keep(identity, str(error))
            return False
        return True

    def _forget(self, operation: Settle | Exported) -> None:
        """Apply *operation* to the other spool, and unlink the files that it empties."""
        with self._source.changes() as changes:
            changes.apply(operation, 0, {})
            changes.trim(offline.TRIM_ROWS)
        for segment in changes.unlink:
            self._source.files.unlink(segment)


def _name_of(source: offline.Offline) -> str:
    """What our spool knows this one by: the same until an engine runs on it again, and no other's."""
    life = format.U32.pack(source.ledger.next_epoch)
    with source.env.begin(write=True) as txn:
        stored = txn.get(format.MOVING, db=source.tables.meta)
        if stored is None or stored[:4] != life:
            stored = life + os.urandom(8).hex().encode()
            txn.put(format.MOVING, stored, db=source.tables.meta)
    return bytes(stored[4:]).decode()


def run(birth: Birth, config: Config) -> int:
    """Empty *birth*.source_path into the spool of the engine, then wait for SIGTERM; the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(birth))


async def _serve(birth: Birth) -> int:
    log = EventLog(birth.log_path, birth.name)
    lost: list[Exception] = []
    ending = asyncio.Event()

    def on_lost(error: Exception) -> None:
        lost.append(error)
        ending.set()

    link = await SpoolLink.connect(birth.spool_socket, role="mover", index=birth.index, on_lost=on_lost)
    ours = SpoolReader(birth.spool_path)
    try:
        with offline.opened(Path(birth.source_path)) as source:
            source.close_epochs()
            source.remove_orphans()
            writer = SegmentWriter(Path(birth.spool_path) / format.BODIES, link)
            mover = Mover(source, link, ours, writer, log)
            watch(asyncio.get_running_loop(), birth, ending.set, ending.set)
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
            left = f"{len(mover.kept)} messages that cannot be read stay in it" if mover.kept else "its <spool> can leave the configuration"
            log.event("mover", f"{path} is empty, {mover.moved} recipients were moved: {left}")
            log.flush()
            await ending.wait()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
