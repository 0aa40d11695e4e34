"""The spools beside the first one, which mail is delivered from: held by their locks, taken and given up as configurations come and go."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from engine.config import SpoolSettings
from engine.control import ask_spool
from engine.errors import EngineError, StartError
from engine.process import spool_socket
from engine.supervisor import ground, spooldir

SILENT = "its process does not say whether it is empty"
ASKED_S = 2.0  # a spool process answers within that whether its spool is empty, or the reload is refused


class Held(NamedTuple):
    """One of them."""

    path: str
    lock_fd: int
    door: socket.socket | None  # of its spool process; None for a deliver-only one: its mover has it open, and nobody else


class Others:
    """All of them, by path."""

    def __init__(self, uid: int = -1, gid: int = -1, asking_gid: int = -1, held: Iterable[Held] = ()) -> None:
        """*held*: by the program whose place we take."""
        self.held = {each.path: each for each in held}
        self.asking_gid = asking_gid
        self._uid = uid
        self._gid = gid

    def take(self, spools: Iterable[SpoolSettings], wait_s: float = spooldir.WAIT_FOR_SURVIVORS_S) -> list[str]:
        """Hold those of *spools* that are not held yet, all or none; their paths.  StartError says what is in the way of which."""
        taken: list[str] = []
        try:
            for spool in spools:
                if spool.path not in self.held:
                    self.held[spool.path] = self._take(spool, wait_s)
                    taken.append(spool.path)
        except BaseException:
            for path in taken:
                self.release(path)
            raise
        return taken

    def _take(self, spool: SpoolSettings, wait_s: float) -> Held:
        path, uid, gid = spool.path, self._uid, self._gid
        if spool.deliver_only:
            return Held(path, ground.attached_spool(path, uid, gid), None)
        ground.directory(path, 0o700, uid, gid, "spool")
        lock_fd = spooldir.claim(path, wait_s)
        try:
            ground.run_directory(path, gid)
            ground.doors(path, uid, self.asking_gid)
            _unlink(spooldir.control_socket(path))  # of the time when it was the first
            return Held(path, lock_fd, ground.spool_door(path, uid, gid, self.asking_gid))
        except BaseException:
            os.close(lock_fd)
            raise

    @contextmanager
    def changed(self, spools: Collection[SpoolSettings]) -> Iterator[None]:
        """Hold *spools* too, with no new mail for those that are not among them any more, unless the body fails.  StartError: it cannot be."""
        paths = {spool.path for spool in spools}
        gone = [path for path, held in self.held.items() if path not in paths and held.door is not None]
        taken = self.take(spools, wait_s=0.0)
        try:
            self._shut(gone)
            yield
        except BaseException:
            self.keep(self.held.keys() - taken)
            self._tell(gone, False)
            raise

    def _shut(self, paths: Iterable[str]) -> None:
        """Let the spools at *paths* take nothing more; StartError names the first that is not empty."""
        for path in paths:
            left = self._tell([path], True)
            if left:
                raise StartError(
                    f"spool {path}: {left}; it may leave the configuration when it is empty: what lies in it is moved as soon as the first spool has "
                    f"room, see engine status; nothing has been changed"
                )

    def _tell(self, paths: Iterable[str], shut: bool) -> str:
        """Say to the processes of these spools whether they are *shut*; what the last one has in it, "" for nothing."""
        left = ""
        for path in paths:
            try:
                left = str(ask_spool(spool_socket(path), {"q": "shut", "shut": shut}, ASKED_S).get("left", SILENT))
            except (EngineError, OSError):  # if it begins anew, it is open
                left = SILENT
        return left

    def record(self, processes: Collection[tuple[str, int]]) -> None:
        """As spooldir.record, in each that has processes of its own: whoever starts with one of them alone must find what is left of us."""
        for held in self.held.values():
            if held.door is not None:
                spooldir.record(held.path, processes)

    def release(self, path: str) -> None:
        """Give the spool at *path* up."""
        held = self.held.pop(path)
        if held.door is not None:
            for name in (spooldir.PIDS, spooldir.SPOOL_SOCKET):
                _unlink(os.path.join(path, spooldir.RUN, name))
            held.door.close()
        os.close(held.lock_fd)

    def keep(self, paths: Collection[str]) -> None:
        """Give up all but those at *paths*."""
        for path in [path for path in self.held if path not in paths]:
            self.release(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
