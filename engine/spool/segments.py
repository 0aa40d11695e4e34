"""Body segments as workers write them: into the page cache only; the spool process syncs them before it acknowledges."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from engine.errors import SpoolError
from engine.mail.envelope import Body
from engine.spool import format
from engine.spool.ops import Operation, Seal
from engine.spool.space import DEFAULT_MIN_FREE_BYTES

_CHECK_SPACE_BYTES = 1 << 20
_WRITE_BACK_BYTES = 8 << 20  # large bodies go to the disk while they arrive, so that syncing them holds nobody up


class Link(Protocol):
    """What a SegmentWriter needs of SpoolLink."""

    epoch: int
    on_abandoned: Callable[[int, int], None] | None

    def submit(self, operation: Operation, done: Callable[[str | None], None]) -> None: ...


class SegmentWriter:
    """Writes bodies into segments of the link's epoch.

    Submit the Accept that names a body in the same turn of the loop as `write`: once the next segment is begun, the spool process refuses mail
    that names the one before.
    """

    def __init__(
        self, bodies_dir: str | Path, link: Link, *, segment_bytes: int = format.SEGMENT_BYTES, min_free_bytes: int = DEFAULT_MIN_FREE_BYTES
    ) -> None:
        self._directory = Path(bodies_dir)
        self._link = link
        self._segment_bytes = segment_bytes
        self._min_free_bytes = min_free_bytes
        self._number = 0
        self._large_number = 0
        self._fd = -1
        self._offset = 0
        link.on_abandoned = self.abandon

    def write(self, message_id: bytes, parts: Sequence[bytes]) -> Body:
        """Write a small body whole; SpoolError on a failed or short write, after which its segment is never written again."""
        size = checksum = 0
        for part in parts:
            size += len(part)
            checksum = format.checksum(part, checksum)
        if self._fd < 0 or self._offset >= self._segment_bytes:
            self._begin_segment()
        head = format.record_head(message_id, size, checksum)
        offset = self._offset
        wanted = len(head) + size
        try:
            written = self._write_at([head, *parts], offset)
        except OSError as error:
            self._end_segment()
            raise SpoolError(f"body cannot be written to {self._directory}: {error.strerror or error}") from error
        if written != wanted:
            self._end_segment()
            raise _short(self._directory, self._directory, written, wanted)
        self._offset = offset + wanted
        return Body(self._link.epoch, self._number, offset + len(head), size, checksum)

    def begin_large(self, message_id: bytes) -> LargeBody:
        """A body that gets a file of its own, written as it arrives."""
        self._large_number += 1
        return LargeBody(self._directory, self._link.epoch, format.LARGE | self._large_number, message_id, self._min_free_bytes)

    def abandon(self, epoch: int, segment: int) -> None:
        """The spool process could not sync this segment: never write there again."""
        if epoch == self._link.epoch and segment == self._number and self._fd >= 0:
            self._end_segment()

    def close(self) -> None:
        """Seal the open segment."""
        if self._fd >= 0:
            self._end_segment()

    def _write_at(self, parts: Sequence[bytes], offset: int) -> int:
        if len(parts) > 1000:  # IOV_MAX is 1024
            parts = [b"".join(parts)]
        return os.pwritev(self._fd, parts, offset)

    def _begin_segment(self) -> None:
        if self._fd >= 0:
            self._end_segment()
        self._number += 1
        path = self._directory / format.segment_name(self._link.epoch, self._number)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SpoolError(f"segment {path} cannot be made: {error.strerror or error}") from error
        self._offset = 0

    def _end_segment(self) -> None:
        os.close(self._fd)
        self._fd = -1
        self._link.submit(Seal(self._number), _ignore)


class LargeBody:
    """One large body while it arrives; `finish` or `abort` ends it."""

    def __init__(self, directory: Path, epoch: int, segment: int, message_id: bytes, min_free_bytes: int) -> None:
        self.size_bytes = 0
        self._directory = directory
        self._path = directory / format.segment_name(epoch, segment)
        self._epoch = epoch
        self._segment = segment
        self._message_id = message_id
        self._min_free_bytes = min_free_bytes
        self._checksum = 0
        self._checked = 0
        self._written_back = 0
        self._check_space()
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SpoolError(f"segment {self._path} cannot be made: {error.strerror or error}") from error

    @property
    def path(self) -> Path:
        """Its file."""
        return self._path

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append *data*; SpoolError if it cannot be written or the disk is low, after which only `abort` is left."""
        if self.size_bytes - self._checked >= _CHECK_SPACE_BYTES:
            self._checked = self.size_bytes
            self._check_space()
        self._pwrite(data, format.RECORD_HEAD.size + self.size_bytes)
        self._checksum = format.checksum(data, self._checksum)
        self.size_bytes += len(data)
        if self.size_bytes - self._written_back >= _WRITE_BACK_BYTES:
            os.posix_fadvise(self._fd, self._written_back, self.size_bytes - self._written_back, os.POSIX_FADV_DONTNEED)  # starts write-back
            self._written_back = self.size_bytes

    def finish(self) -> Body:
        """Where it lies; SpoolError if its header cannot be written.  If its Accept is refused, the spool process removes the file."""
        self._pwrite(format.record_head(self._message_id, self.size_bytes, self._checksum), 0)
        os.close(self._fd)
        self._fd = -1
        return Body(self._epoch, self._segment, format.RECORD_HEAD.size, self.size_bytes, self._checksum)

    def abort(self) -> None:
        """Remove the file; only while no Accept that names it was submitted.  What a broken disk keeps, the spool process removes at its start."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(OSError):
            self._path.unlink()

    def _pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        try:
            written = os.pwrite(self._fd, data, offset)
        except OSError as error:
            raise SpoolError(f"body cannot be written to {self._path}: {error.strerror or error}") from error
        if written != len(data):
            raise _short(self._path, self._directory, written, len(data))

    def _check_space(self) -> None:
        try:
            found = os.statvfs(self._directory)
        except OSError as error:
            raise SpoolError(f"body cannot be written to {self._path}: {error.strerror or error}") from error
        if found.f_bavail * found.f_frsize < self._min_free_bytes:
            raise SpoolError(f"disk low: {found.f_bavail * found.f_frsize >> 20} MB free, {self._min_free_bytes >> 20} MB are kept (min-free-space)")


def _short(where: Path, directory: Path, written: int, wanted: int) -> SpoolError:
    """Why a write went in only in part; its cause is ENOSPC where that was want of room: the client hears 452 then, as for a write that failed."""
    error = SpoolError(f"body cannot be written to {where}: {written} of {wanted} bytes went in")
    try:
        found = os.statvfs(directory)
    except OSError:
        return error
    if found.f_bavail * found.f_frsize < wanted:
        error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error


def _ignore(_: str | None) -> None:
    """Nobody waits for a Seal."""
