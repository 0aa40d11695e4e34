"""The spool process: the only writer of its spool, one thread, no sockets to the world."""

from __future__ import annotations

import gc
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from engine.clock import monotonic_s
from engine.errors import EngineError
from engine.log import EventLog
from engine.process import Birth, Heartbeat
from engine.spool import format, identity, index, shadow
from engine.spool.service import SpoolService
from engine.spool.space import Space

if TYPE_CHECKING:
    from engine.config import Config

TURN_S = 1.0
LOG_FLUSH_S = 0.5


def run(birth: Birth, config: Config) -> int:
    """Serve the spool at *birth*.spool_path until SIGTERM, or until the supervisor is gone; returns the exit status."""
    log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
    spools = [spool for spool in config.spools if str(spool.path) == birth.spool_path] or list(config.spools[:1])
    min_free_bytes = spools[0].min_free_space_bytes if spools else 0
    try:
        listener = _listener(birth)
        root = format.claim(birth.spool_path, birth.lock_fd)
        service = SpoolService(root, listener, log, space=Space(root, min_free_bytes or 0))
        with service.env.begin() as txn:
            waiting = txn.stat(service.tables.due)["entries"]
        shadow.admit(root, waiting, shadow=birth.shadow is not None)
        if birth.source_path:
            identity.ensure(service.env, service.tables, service.ledger)
        else:
            identity.forget(service.env, service.tables)
    except (OSError, EngineError) as error:
        log.event("spool", f"cannot start: {error}")
        log.close()
        raise
    stopping = _watch(birth, service)
    heartbeat = Heartbeat(birth)
    flush_at_s = 0.0
    tune()
    heartbeat.beat()  # others wait for us to be at work
    try:
        while not stopping:
            service.turn(TURN_S)
            heartbeat.beat()
            if monotonic_s() > flush_at_s:
                log.flush()
                flush_at_s = monotonic_s() + LOG_FLUSH_S
        service.close()
        log.event("spool", "closed")
    except BaseException as error:
        advice = f"; {index.ADVICE}" if isinstance(error, index.DAMAGED) else ""
        log.event("spool", f"failed: {type(error).__name__}: {error}{advice}")
        raise
    finally:
        log.close()
    return 0


def admit(path: str) -> None:
    """Nothing, if this program can serve the spool at *path*, which another process serves meanwhile; StartError says why not."""
    marker = Path(path, format.MARKER)
    format.check_marker(marker.parent, marker.read_text("ascii", "replace"))


def tune() -> None:
    """What lives now lives for ever, and rows are no garbage: collect rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _listener(birth: Birth) -> socket.socket:
    """The socket that the supervisor holds, so that connections queue while we restart; our own where there is none."""
    if birth.spool_listener_fd >= 0:
        return socket.socket(fileno=birth.spool_listener_fd)
    path = Path(birth.spool_socket)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(256)
    return listener


def _watch(birth: Birth, service: SpoolService) -> list[int]:
    """Signals and the lifeline, read in the loop; the list that is returned fills when it is time to stop."""
    stopping: list[int] = []
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))

    def wake() -> None:
        woken.recv(4096)

    def lifeline() -> None:
        if os.read(birth.lifeline_fd, 1) == b"":
            os._exit(os.EX_UNAVAILABLE)  # what was acknowledged is durable, and a successor may wait for the lock

    service.watch(woken.fileno(), wake)
    if birth.lifeline_fd >= 0:
        service.watch(birth.lifeline_fd, lifeline)
    _KEPT.append((woken, waker))
    return stopping


_KEPT: list[tuple[socket.socket, socket.socket]] = []  # the wake-up pair lives as long as the process
