"""The log's rotation at midnight: LOG becomes LOG.1, LOG.1 becomes LOG.2 and so on, and the oldest goes.

Whether it is due is read from the log itself: its first line is of another day.  So a start after midnight catches up, and a crash between two
renames leaves a gap that the next rotation closes.  The processes that write notice within a second that the name means another file (`engine.log`).
"""

from __future__ import annotations

import os
import re

MODE = 0o640
WORLD_READABLE_MODE = 0o644
_DATED = re.compile(rb"\d{4}-\d\d-\d\d ")


class LogRotation:
    """Rotates the log at *path*, of which *keep* files stay, the current one included.  Blocking."""

    def __init__(self, path: str, keep: int, *, world_readable: bool = False) -> None:
        self._path = path
        self._keep = keep
        self._mode = WORLD_READABLE_MODE if world_readable else MODE

    def tend(self, today: str) -> str:
        """Rotate if the log begins with another day than *today* (`2026-11-24`): what to log, "" for nothing.  OSError if the file system refuses."""
        if self._keep < 1:
            return ""
        try:
            with open(self._path, "rb") as file:
                first = file.read(11)
        except FileNotFoundError:
            return ""
        if not _DATED.fullmatch(first) or first[:10].decode() == today:
            return ""
        if self._keep == 1:
            os.unlink(self._path)
        else:
            self._shift()
        self._begin()
        return f"the log of {first[:10].decode()} is {self._path}.1" if self._keep > 1 else "the log of yesterday is deleted: log-rotate 1"

    def _shift(self) -> None:
        """Make room for LOG.1 by renaming up to the first gap, then take the name from the log."""
        last = self._keep - 1
        free = next((number for number in range(1, last) if not os.path.lexists(self._numbered(number))), last)
        for number in range(free, 1, -1):
            os.rename(self._numbered(number - 1), self._numbered(number))
        os.rename(self._path, self._numbered(1))

    def _numbered(self, number: int) -> str:
        return f"{self._path}.{number}"

    def _begin(self) -> None:
        """The new log, with its mode whoever was first to open it."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, self._mode)
        try:
            os.fchmod(descriptor, self._mode)
        finally:
            os.close(descriptor)
