"""The listener process: its loop from start to drain."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from engine.door import Door
from engine.drain import watch
from engine.errors import SpoolError
from engine.listener.listener import Listener
from engine.listener.proxied import proxies_of
from engine.listener.tls import ListenerTls
from engine.log import EventLog, escape
from engine.process import FDS_PER_CONNECTION, Birth, Traffic, incoming, spool_socket
from engine.reception import Reception
from engine.reception.stores import Store, Stores
from engine.spool import SegmentWriter, SpoolLink
from engine.tls.files import Files

if TYPE_CHECKING:
    from engine.config import Config

RESERVED_FDS: Final = 64  # log, spool link, segment, listening sockets, what the supervisor handed down
GC_THRESHOLDS: Final = (50_000, 20, 50)  # sessions make few cycles; a collection walks only what came after gc.freeze()


def run(birth: Birth, config: Config) -> int:
    """Accept mail until SIGTERM has been obeyed; the exit status, EX_TEMPFAIL where only the spool process failed us."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(birth, config))


async def _serve(birth: Birth, config: Config) -> int:
    loop = asyncio.get_running_loop()
    log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
    loop.set_exception_handler(lambda _, context: _fault(log, context))
    lost: asyncio.Future[None] = loop.create_future()

    def on_lost(error: Exception) -> None:
        log.event("failed", f"spool process lost: {escape(str(error))}")
        if not lost.done():
            lost.set_result(None)

    way: _One | _Several = _Several(birth, config, log) if len(config.accepting_spools) > 1 else _One(birth, config)
    try:
        reception = await way.join(log, on_lost)
    except SpoolError as error:
        on_lost(error)
        way.close()
        log.close()
        return os.EX_TEMPFAIL
    try:
        tls = ListenerTls(config, birth.sockets, Files(birth.tls_fd), birth.port_offset)
        proxies = proxies_of(config, birth.sockets, birth.port_offset)
        total = incoming(birth, config.server.total_max_smtp_in)
        listener = Listener(reception, log, birth.sockets, total, max_connections(), Door.of(birth), Traffic(birth), tls, proxies)
        listener.open()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        watch(loop, birth, listener.drain, listener.stop)
        log.event("started", f"pid={os.getpid()} sockets={len(birth.sockets)}")
        log.flush()
        await asyncio.wait({listener.ended, lost}, return_when=asyncio.FIRST_COMPLETED)
        if lost.done():
            listener.stop()
            return os.EX_TEMPFAIL
        status = await _finish(way, log)
        listener.count()
        return status
    finally:
        way.close()
        log.close()


class _One:
    """The way into the only spool that takes mail: without it this process ends."""

    def __init__(self, birth: Birth, config: Config) -> None:
        self._birth = birth
        self._config = config
        self._link: SpoolLink | None = None
        self._segments: SegmentWriter | None = None

    async def join(self, log: EventLog, on_lost: Callable[[Exception], None]) -> Reception:
        birth, config = self._birth, self._config
        self._link = link = await SpoolLink.connect(birth.spool_socket, role="listener", index=birth.index, on_lost=on_lost)
        min_free = config.spool.min_free_space_bytes
        self._segments = segments = SegmentWriter(Path(birth.spool_path) / "bodies", link, **({"min_free_bytes": min_free} if min_free else {}))
        return Reception(config, link, segments, log)

    async def leave(self, timeout_s: float) -> None:
        if self._link is not None and self._segments is not None:
            self._segments.close()
            await self._link.drain(timeout_s)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()


class _Several:
    """The ways into several: what becomes of one of them is the others' business."""

    def __init__(self, birth: Birth, config: Config, log: EventLog) -> None:
        self._index = birth.index
        self._config = config
        stores = [Store(spool.path, spool_socket(spool.path), spool.min_free_space_bytes) for spool in config.accepting_spools]
        self._stores = Stores(stores, log)
        self.leave, self.close = self._stores.leave, self._stores.close

    async def join(self, log: EventLog, on_lost: Callable[[Exception], None]) -> Reception:
        await self._stores.join(self._index)
        return Reception(self._config, None, None, log, self._stores)


async def _finish(way: _One | _Several, log: EventLog) -> int:
    """Every connection has ended: seal, and hear the last answers (of clients that did not wait for theirs)."""
    try:
        await way.leave(10.0)
    except SpoolError as error:
        log.event("failed", escape(str(error)))
        return os.EX_TEMPFAIL
    log.event("stopped", "drained")
    return os.EX_OK


def max_connections() -> int:
    """How many connections this process's limit of file descriptors allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (soft - RESERVED_FDS) // FDS_PER_CONNECTION) if soft != resource.RLIM_INFINITY else 1 << 20


def _fault(log: EventLog, context: dict[str, Any]) -> None:
    """A fault of ours in one connection's callback: logged, the connection closed by the loop, the others untouched."""
    error = context.get("exception")
    where = ""
    if isinstance(error, BaseException):
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = f" at {frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}" if frame is not None else ""
    log.event("fault", escape(f"{context.get('message', '')}: {error!r}{where}"))
    log.flush()
