"""Whether there is room for new mail: free disk space, room in the map, and the ballast that is thrown off when both were misjudged."""

from __future__ import annotations

import os
from pathlib import Path

from engine.spool import format

BALLAST_BYTES = 64 << 20
DEFAULT_MIN_FREE_BYTES = 100 << 20
MAP_RESERVE = 0.20
FULL = "disk low: a commit failed for want of space"
RESUME_FACTOR = 1.05  # refuse below the bound, resume only clearly above it


class Space:
    """Room for the spool at *root*, whose directories are there."""

    def __init__(self, root: Path, min_free_bytes: int = 0, ballast_bytes: int = BALLAST_BYTES) -> None:
        self.min_free_bytes = min_free_bytes or DEFAULT_MIN_FREE_BYTES
        self.ballast_bytes = ballast_bytes
        self.refusal: str | None = None  # why new mail is refused
        self.full = False  # a commit failed for want of room, and none has succeeded since
        self._directories = (root, root / format.INDEX, root / format.BODIES)  # any of them may be a file system of its own
        self._ballast = root / format.BALLAST

    def check(self, map_used_bytes: int, map_size_bytes: int) -> str | None:
        """Measure; returns `refusal`.  Takes the ballast on again once there is room for it."""
        bound = self.min_free_bytes * (RESUME_FACTOR if self.refusal else 1.0)
        free = self.free_bytes()
        if self.full:
            self.refusal = FULL
        elif free < bound:
            self.refusal = f"disk low: {free >> 20} MB free, {self.min_free_bytes >> 20} MB are kept (min-free-space)"
        elif map_used_bytes > map_size_bytes * (1 - MAP_RESERVE):
            self.refusal = f"disk low: the index holds {map_used_bytes >> 20} MB of its {map_size_bytes >> 20} MB"
        else:
            self.refusal = None
            if not self._ballast.exists() and free > self.min_free_bytes + 2 * self.ballast_bytes:
                self.take_ballast()
        return self.refusal

    def take_ballast(self) -> bool:
        """Reserve the ballast; whether it is there."""
        try:
            descriptor = os.open(self._ballast, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return False
        try:
            self._allocate(descriptor)
        except OSError:
            self.drop_ballast()
            return False
        finally:
            os.close(descriptor)
        return True

    def drop_ballast(self) -> None:
        """Give its space back to the commits that clear the way."""
        self._ballast.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """What an unprivileged process may still write, on the fullest of the spool's file systems."""
        return min(found.f_bavail * found.f_frsize for found in map(os.statvfs, self._directories))

    def _allocate(self, descriptor: int) -> None:
        os.posix_fallocate(descriptor, 0, self.ballast_bytes)
