"""Which of several spools takes a new message: the best that has room and answers; and the next one, when it refuses what was meant for it.

Only a listener with several accepting `<spool>` has this.  A refusal by the spool process, or a write that fails, closes a spool for AGAIN_S; the
next message then tries it again, so that mail comes back to the best by itself.  What cannot have been stored is written to the next spool, so that
no client is refused while one has room.  What was under way when a spool process was lost may have been stored: its client hears 451.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.clock import monotonic_s
from engine.errors import SpoolError
from engine.log import EventLog, escape
from engine.mail.envelope import Body
from engine.mail.reply import Reply
from engine.reception.intake import DISK_LOW, SPOOL_AWAY
from engine.spool import LargeBody, SegmentWriter, SpoolLink
from engine.spool.format import RECORD_HEAD

AGAIN_S = 2.0  # after a refusal a spool is tried again
PATIENCE_S = 3.0  # a spool process that has not answered for so long is passed over: a restart takes less
JOIN_S = 10.0  # what a start waits for the best spool, when another one works
RETRY_S = 1.0
CHUNK_BYTES = 1 << 20
MAX_PENDING_BYTES = 64 * 1024 * 1024  # as Reception's: operations that a spool process has not acknowledged
NOT_STORED = ("disk", "sync failed", "shut")  # how the spool process begins to say that it has not stored a message, and another spool might


class Standing(NamedTuple):
    """A spool, as the choice sees it."""

    joined: bool = True  # its process has given us an epoch, and may resume it
    silent_s: float = 0.0  # for how long it has not answered, though it was asked
    closed: bool = False  # it refused a message, or a write failed, a moment ago
    behind: bool = False  # too much that we sent has not been answered


def choose(standings: Sequence[Standing]) -> int | None:
    """Number of the one that takes the next message; the best comes first.  None: none can.

    One whose process is silent is the last resort: clients wait for it as they do where there is only one spool.
    """
    able = [number for number, each in enumerate(standings) if each.joined and not each.closed and not each.behind]
    return next((number for number in able if standings[number].silent_s <= PATIENCE_S), able[0] if able else None)


class Store:
    """One spool that takes mail, and our way into it."""

    def __init__(self, path: str, socket_path: str, min_free_bytes: int) -> None:
        self.path = path
        self.link: SpoolLink | None = None
        self.segments: SegmentWriter | None = None
        self.closed_until_s = 0.0
        self.why = ""  # it was closed
        self._socket_path = socket_path
        self._min_free = {"min_free_bytes": min_free_bytes} if min_free_bytes else {}
        self._answered = 0
        self._heard_s = 0.0

    async def join(self, index: int, on_lost: Callable[[Exception], None]) -> None:
        """Get an epoch from its process; SpoolError if that does not answer."""

        def lost(error: Exception) -> None:
            self.link = self.segments = None
            on_lost(error)

        link = await SpoolLink.connect(self._socket_path, role="listener", index=index, on_lost=lost)
        self.segments = SegmentWriter(Path(self.path) / "bodies", link, **self._min_free)
        self._answered, self._heard_s = 0, monotonic_s()
        self.link = link

    def look(self, now_s: float) -> Standing:
        """How it stands."""
        link = self.link
        if link is None:
            return Standing(joined=False)
        if link.connected and (not link.pending or link.answered != self._answered):
            self._answered, self._heard_s = link.answered, now_s
        return Standing(True, now_s - self._heard_s, now_s < self.closed_until_s, link.pending_bytes > MAX_PENDING_BYTES)


class Stores:
    """All spools that take mail, the best first; `current` takes the next message."""

    def __init__(self, stores: Sequence[Store], log: EventLog) -> None:
        self.stores = tuple(stores)
        self.current: Store | None = None
        self._log = log
        self._took = self.stores[0]
        self._joining: list[asyncio.Task[None]] = []
        self._joined = asyncio.Event()

    # --- joining and leaving ----------------------------------------------------------------------------------------------------------

    async def join(self, index: int) -> None:
        """Join all, as listener *index*; return when the best has answered, or after JOIN_S any.  SpoolError: none answers."""
        self._joining = [asyncio.get_running_loop().create_task(self._keep(store, index)) for store in self.stores]
        until_s = monotonic_s() + JOIN_S
        while self.stores[0].link is None and (left_s := until_s - monotonic_s()) > 0:
            await _wait(self._joined, left_s)
            self._joined.clear()
        if all(store.link is None for store in self.stores):
            await _wait(self._joined, 60.0)
        self._choose()
        if self.current is None:
            raise SpoolError(f"no spool process answers: {' '.join(store.path for store in self.stores)}")

    async def _keep(self, store: Store, index: int) -> None:
        """Join *store*, and again whenever it was lost."""
        while True:
            lost = asyncio.Event()

            def on_lost(error: Exception, lost: asyncio.Event = lost, store: Store = store) -> None:
                self._log.event("spool-lost", f"{store.path}: {escape(str(error))}")
                lost.set()
                self._choose()

            try:
                await store.join(index, on_lost)
            except SpoolError:
                await asyncio.sleep(RETRY_S)
                continue
            self._joined.set()
            self._choose()
            await lost.wait()

    async def leave(self, timeout_s: float) -> None:
        """Seal, and hear the last answers; SpoolError if one of those that answer owes us some after *timeout_s*."""
        links = [store.link for store in self.stores if store.link is not None and store.link.connected]
        for store in self.stores:
            if store.segments is not None:
                store.segments.close()
        await asyncio.gather(*[link.drain(timeout_s) for link in links])

    def close(self) -> None:
        """End all epochs."""
        for task in self._joining:
            task.cancel()
        for store in self.stores:
            if store.link is not None:
                store.link.close()

    # --- the choice -------------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second: look again."""
        self._choose()

    def _choose(self) -> None:
        now_s = monotonic_s()
        number = choose([store.look(now_s) for store in self.stores])
        self.current = None if number is None else self.stores[number]

    def refusal(self) -> Reply | None:
        """Why no message can be taken in just now."""
        if self.current is not None:
            return None
        return DISK_LOW if any(store.closed_until_s > monotonic_s() for store in self.stores) else SPOOL_AWAY

    def fail(self, store: Store, why: str) -> None:
        """*store* did not take a message: others take its place for a while."""
        store.closed_until_s = monotonic_s() + AGAIN_S
        store.why = why
        self._choose()

    def took(self, store: Store) -> None:
        """A message is durable in *store*."""
        if store is not self._took:
            before, self._took = self._took, store
            why = "" if before.link is not None and monotonic_s() > before.closed_until_s + AGAIN_S else escape(before.why or "its process is away")
            self._log.event("spool", f"new mail goes into {store.path}, no more into {before.path}{f': {why}' if why else ''}")

    def place(self, pieces: Sequence[bytes]) -> Letter:
        """A body, written to the best spool that can be written to.  SpoolError: there is none."""
        return Letter(self, pieces)

    def begin_large(self) -> LargeLetter:
        """Likewise, one that comes in pieces."""
        return LargeLetter(self)


class Letter:
    """One body on its way into one of the spools: `id` and `body` say where it lies just now, and its Accept goes over `link`."""

    link: SpoolLink

    def __init__(self, stores: Stores, pieces: Sequence[bytes] = ()) -> None:
        self.id = b""
        self.body = Body(0, 0, 0, 0, 0)
        self._stores = stores
        self._store: Store = stores.stores[0]
        self._pieces = pieces
        self._left = 2 * len(stores.stores)  # tries
        self._put()

    def again(self, reason: str) -> bool:
        """Its Accept was refused for *reason*: whether it lies in another spool now, as another body under another id."""
        if reason.startswith(NOT_STORED):
            self._stores.fail(self._store, reason)
            try:
                self._put()
            except SpoolError:
                pass
            else:
                return True
        self.close()
        return False

    def stored(self) -> None:
        """Its Accept is durable."""
        self._stores.took(self._store)
        self.close()

    def close(self) -> None:
        """It is decided."""
        self._pieces = ()

    def _put(self) -> None:
        """Write it to the best spool that can be written to; SpoolError: there is none."""
        problem = SpoolError("disk low: no spool takes new mail")
        while self._left and (store := self._stores.current) is not None and (link := store.link) is not None and store.segments is not None:
            self._left -= 1
            identity = link.new_id()
            try:
                self._write(store.segments, identity)
            except SpoolError as error:
                problem = error
                self._stores.fail(store, str(error))
                continue
            self._store, self.link, self.id = store, link, identity
            return
        raise problem

    def _write(self, segments: SegmentWriter, identity: bytes) -> None:
        self.body = segments.write(identity, self._pieces)


class LargeLetter(Letter):
    """One that comes in pieces, into a file of its own.  What has come is read back from there when it has to go to another spool."""

    def __init__(self, stores: Stores) -> None:
        self._large: LargeBody | None = None
        self._fd = -1  # the file, readable even when the spool process has removed it
        self._finished = False
        super().__init__(stores)

    def write(self, data: bytes) -> None:
        """Take the next bytes; SpoolError: no spool can."""
        assert self._large is not None
        try:
            self._large.write(data)
        except SpoolError as error:
            self._move(error)
            self.write(data)

    def finish(self) -> Body:
        """All has come; SpoolError: no spool can hold it."""
        assert self._large is not None
        self._finished = True
        try:
            if self.link.lost is not None:
                raise SpoolError(f"the spool process was lost: {self.link.lost}")
            self.body = self._large.finish()
        except SpoolError as error:
            self._move(error)
        return self.body

    def abort(self) -> None:
        """Nothing of it stays."""
        if self._large is not None:
            self._large.abort()
        self.close()

    def close(self) -> None:
        """See Letter."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _move(self, error: SpoolError) -> None:
        """A write failed: on to the next spool."""
        self._stores.fail(self._store, str(error))
        self._put()

    def _write(self, segments: SegmentWriter, identity: bytes) -> None:
        """Begin anew in *segments*, with what has come until now; SpoolError, and then all is as it was."""
        old, old_fd = self._large, self._fd
        new = segments.begin_large(identity)
        fd = -1
        try:
            fd = os.open(new.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            for chunk in _read(old_fd, old.size_bytes) if old is not None else ():
                new.write(chunk)
            if self._finished:
                self.body = new.finish()
        except BaseException as error:
            new.abort()
            if fd >= 0:
                os.close(fd)
            if isinstance(error, OSError):
                raise SpoolError(f"body cannot be copied to {new.path}: {error.strerror or error}") from error
            raise
        self._large, self._fd = new, fd
        if old is not None:
            old.abort()
            os.close(old_fd)


def _read(fd: int, size_bytes: int) -> Iterator[bytes]:
    """The first *size_bytes* of the body in the file *fd*; SpoolError if they are not all there."""
    at = 0
    while at < size_bytes:
        chunk = os.pread(fd, min(CHUNK_BYTES, size_bytes - at), RECORD_HEAD.size + at)
        if not chunk:
            raise SpoolError("a body that was being written has lost its end")
        at += len(chunk)
        yield chunk


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
