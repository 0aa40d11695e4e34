"""Outbox to journals: the order of writing, syncing and telling the spool that keeps every record exactly once in its files.

A batch of rows is written to every file that wants it and synced; then `Exported` deletes the rows and stores each file's position in one commit.
A new file is made known to the spool before its first line, so that recovery finds every line that nobody counted and cuts it off.  One file that
cannot be written holds up all of them, which the outbox's bound then turns into refused mail: never into lost records.

A file that is full, of another day or old enough goes on its target's shelf, in the commit that makes its successor known; from there it is moved or
deleted.  A crash before that commit leaves it the current one, a crash after it leaves it on the shelf.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from engine.accounting.journal import Journal, Position, decode_position, encode_position
from engine.accounting.layout import Layout
from engine.accounting.shelf import Shelf
from engine.clock import monotonic_s
from engine.log import escape
from engine.mail.record import decode
from engine.spool.ops import Exported

BATCH_ROWS = 5_000
GATHER_S = 0.05  # how long records may wait for company
POLL_S = 0.5  # how long we believe that silence means an empty outbox
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 60.0
TEND_S = 10.0  # between two looks at what is to be closed, moved or deleted
SHELF = "+"  # before a target's name, which is an absolute path: its shelf among the stored positions


T = TypeVar("T")


class Outbox(Protocol):
    """What is read: a SpoolReader, whose outbox has no row that was exported, though it may not be deleted yet."""

    def outbox(self, after: int, limit: int) -> list[tuple[int, bytes]]: ...
    def positions(self) -> Mapping[str, bytes]: ...


class Link(Protocol):
    """Whom we tell: a SpoolLink."""

    def submit(self, operation: Exported, done: Callable[[str | None], None]) -> None: ...


class Log(Protocol):
    """Where events go: an EventLog."""

    def event(self, kind: str, text: str) -> None: ...
    def flush(self) -> None: ...


class Target:
    """One acct-file: its name in the spool's positions, how its lines look, its file, and those that are full."""

    __slots__ = ("journal", "layout", "name", "said", "shelf")

    def __init__(self, name: str, layout: Layout, journal: Journal, shelf: Shelf | None = None) -> None:
        self.name = name
        self.layout = layout
        self.journal = journal
        self.shelf = shelf or Shelf()
        self.said: list[str] = []  # of the shelf, last time: a directory that is gone is not said every ten seconds


class Exporter:
    """Drains the outbox into *targets* until `drain`; each row leaves it once all its lines are on disk.

    *executor* does what waits for the disk; *today* names new files (`2026-11-24`), *now_s* is the wall clock; *news* is set by whoever hears of
    new rows.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        outbox: Outbox,
        link: Link,
        log: Log,
        executor: Executor,
        today: Callable[[], str],
        news: asyncio.Event,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._targets = targets
        self._outbox = outbox
        self._link = link
        self._log = log
        self._executor = executor
        self._today = today
        self._written = 0  # number of the last row that lies synced in every file that wants it
        self._known: dict[str, bytes] = {}  # by target, where its file ends with that row: never with a later one
        self._shelves: dict[str, bytes] = {}  # those that changed since they were stored
        self._now_s = now_s
        self._tend_at_s = 0.0  # monotonic
        self._news = news
        self._draining = asyncio.Event()

    @property
    def written(self) -> int:
        """Number of the last row that lies synced in its files."""
        return self._written

    def drain(self) -> None:
        """Export what the outbox holds, then let `run` return; a file that cannot be written is not waited for."""
        self._draining.set()
        self._news.set()

    async def run(self) -> None:
        """Recover every file, then export until drained.  Returns early, with rows left, only while draining."""
        positions = self._outbox.positions()
        for target in self._targets:
            target.shelf.restore(positions.get(SHELF + target.name) or target.shelf.encode())
            if not await self._until_done(target, partial(self._recover, target, positions.get(target.name))):
                return
        while True:
            if monotonic_s() >= self._tend_at_s and not await self._tend():
                return
            rows = self._outbox.outbox(self._written, BATCH_ROWS)
            if rows:
                if not await self._export(rows):
                    return
            elif self._draining.is_set():
                return
            else:
                await _wait(self._news, POLL_S)
                self._news.clear()
            if len(rows) < BATCH_ROWS:
                await _wait(self._draining, GATHER_S)

    async def _export(self, rows: Sequence[tuple[int, bytes]]) -> bool:
        ends: dict[str, bytes] = {}
        for target, lines in zip(self._targets, self._lines(rows), strict=True):
            if lines and not await self._until_done(target, partial(self._append, target, lines, ends)):
                return False
        self._known |= ends
        self._written = rows[-1][0]
        return await self._confirm()

    def _lines(self, rows: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """What each target gets of *rows*."""
        layouts = [target.layout for target in self._targets]
        chunks: list[list[bytes]] = [[] for _ in layouts]
        for number, data in rows:
            try:
                record = decode(data)
            except msgspec.DecodeError as error:
                self._say("accounting", f"row {number} of the outbox is no record and is in no file: {error}: {escape(bytes(data))}")
                continue
            for layout, chunk in zip(layouts, chunks, strict=True):
                chunk.append(layout.line(record))
        return [b"".join(chunk) for chunk in chunks]

    async def _recover(self, target: Target, stored: bytes | None) -> bool:
        if not stored:
            return True
        position = decode_position(stored)
        reason = await self._blocking(lambda: target.journal.recover(position))
        if reason:
            self._say("accounting", f"{escape(reason)}: a new file will be begun")
            self._shelve(target, position)
            self._known[target.name] = b""  # or the next start would put it on the shelf once more
        else:
            self._known[target.name] = stored
        return True

    async def _append(self, target: Target, lines: bytes, ends: dict[str, bytes]) -> bool:
        journal, now_s = target.journal, self._now_s()
        if reason := journal.usable(self._today(), now_s):
            before = journal.position
            position = await self._blocking(lambda: journal.begin(self._today(), now_s, target.shelf.last))
            self._say("accounting", f"writing to {escape(position.file)}, since {escape(reason)}")
            self._shelve(target, before)
            self._known[target.name] = encode_position(position)
            if not await self._confirm():
                return False
        ends[target.name] = encode_position(await self._blocking(lambda: journal.append(lines)))
        return True

    def _shelve(self, target: Target, position: Position) -> None:
        """The file of *position*, if any, is closed; to be confirmed."""
        if position.file:
            target.shelf.add(position, self._now_s())
            self._shelves[SHELF + target.name] = target.shelf.encode()

    async def _tend(self) -> bool:
        """Close what nobody wrote to since its time was over, move and delete what is due; False if the spool keeps refusing
        while we are draining."""
        self._tend_at_s = monotonic_s() + TEND_S
        for target in self._targets:
            journal = target.journal
            if journal.holds_records and self._is_over(journal):
                self._shelve(target, journal.position)
                self._known[target.name] = b""
                journal.close()
        if self._shelves and not await self._confirm():  # on the shelf in the spool first: what was moved must not come back as the current file
            return False
        for target in self._targets:
            shelf = target.shelf
            changed, said = await self._blocking(lambda shelf=shelf: shelf.tend(self._now_s()))  # type: ignore[misc]
            if changed:
                self._shelves[SHELF + target.name] = shelf.encode()
            for line in said:
                if line not in target.said:
                    self._say("accounting", escape(line))
            target.said = said
        return not self._shelves or await self._confirm()

    def _is_over(self, journal: Journal) -> bool:
        try:
            return bool(journal.usable(self._today(), self._now_s()))
        except OSError:  # the next append says so, and waits until it is mended
            return False

    async def _until_done(self, target: Target, step: Callable[[], Awaitable[bool]]) -> bool:
        """Try *step* until the disk lets it through, ever more slowly; False if that ends because we are draining."""
        delay_s = RETRY_FIRST_S
        while True:
            try:
                return await step()
            except OSError as error:
                await self._blocking(target.journal.withdraw)
                where, why = escape(str(target.journal.path)), error.strerror or str(error)
                self._say("accounting", f"cannot write {where}: {why}; records wait in the spool, next try in {delay_s:.0f}s")
            if await _wait(self._draining, delay_s):
                return False
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def _confirm(self) -> bool:
        """Make positions and the end of the rows durable in the spool; False if it keeps refusing while we are draining."""
        delay_s = RETRY_FIRST_S
        while True:
            reason = await self._submitted()
            if reason is None:
                self._shelves.clear()
                return True
            self._say("accounting", f"the spool did not store our positions: {escape(reason)}; next try in {delay_s:.0f}s")
            if await _wait(self._draining, delay_s):
                return False
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def _submitted(self) -> str | None:
        """None once an Exported with all that we know is durable, else why the spool refused it."""
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._link.submit(Exported(self._written, self._known | self._shelves), lambda reason: None if answer.done() else answer.set_result(reason))
        return await answer

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _say(self, kind: str, text: str) -> None:
        self._log.event(kind, text)
        self._log.flush()


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether *event* is set, after waiting for it for *timeout_s* at most."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        pass
    return event.is_set()
