"""One accounting file on disk: created by us, appended to, synced, and cut back to what the spool knows of when we come back from a crash.

A journal writes to `acct-2026-11-24-0000.csv` where `acct.csv` is configured: date and sequence always stand in the name, and a name that exists
is never taken.  So every file here is one that we made (its inode is part of the position that the spool stores), and no other is ever touched.
Blocking; raises OSError, after which the file ends where it ended before, or at once before the next file is begun.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

FILE_MODE = 0o640
DEFAULT_MAX_SIZE_BYTES = 250 * 1024 * 1024


class Position(msgspec.Struct, array_like=True, frozen=True):
    """How far a journal is synced and known to the spool: append fields with defaults only."""

    file: str  # absolute path
    offset: int
    inode: int
    begun_s: float = 0.0  # since the epoch


def encode_position(position: Position) -> bytes:
    """*position* as it is stored in the spool."""
    return msgspec.msgpack.encode(position)


def decode_position(data: bytes) -> Position:
    """The Position that `encode_position` wrote."""
    return msgspec.msgpack.decode(data, type=Position)


class Journal:
    """The file that an acct-file's lines go to, and the next one when it is full, gone or changed by another hand."""

    def __init__(
        self,
        path: str,
        header: bytes,
        *,
        max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES,
        max_age_s: float | None = None,
        mode: int = FILE_MODE,
    ) -> None:
        """*path* as configured, made absolute; nothing is opened yet.  *max_age_s*: None is no limit."""
        self.path = Path(path)
        self._header = header
        self._max_size_bytes = max_size_bytes
        self._max_age_s = max_age_s
        self._mode = mode
        self._fd = -1
        self._file = ""
        self._offset = 0
        self._inode = 0
        self._begun_s = 0.0
        self._torn = False  # bytes past _offset may be on disk: they go before anything else happens
        self._spent = False  # a sync failed: nothing is written here again

    @property
    def position(self) -> Position:
        """Where the last append that succeeded ended."""
        return Position(self._file, self._offset, self._inode, self._begun_s)

    def recover(self, position: Position) -> str:
        """Go on at *position*, cutting off what lies behind it; "" then, else why the next append must begin a new file."""
        try:
            fd = os.open(position.file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return f"{position.file} is gone"
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_ino != position.inode:
            os.close(fd)
            return f"{position.file} is not the file that was written"
        if found.st_size < position.offset:
            os.close(fd)
            return f"{position.file} has shrunk from {position.offset} to {found.st_size} bytes"
        self._close()  # of a try before, which the disk refused
        self._adopt(fd, position)
        self._torn = found.st_size > position.offset
        self._cut()
        if os.pread(fd, len(self._header), 0) != self._header:
            self.close()
            return f"{position.file} has other columns"
        return ""

    @property
    def holds_records(self) -> bool:
        """Whether a file is open and has more than its header."""
        return self._fd >= 0 and self._offset > len(self._header)

    def usable(self, date: str = "", now_s: float = 0.0) -> str:
        """The empty string if the next append can go to the current file, else the reason for which `begin` must come first.

        *date* (`2026-11-24`), the local one, and *now_s* bound how long a file with records in it goes on.
        """
        if self._fd < 0:
            return "none is open"
        if self._spent:
            return f"{self._file} could not be synced"
        if self._offset >= self._max_size_bytes:
            return f"{self._file} has reached {self._offset} bytes"
        if self.holds_records:
            if date and not os.path.basename(self._file).startswith(f"{self.path.stem}-{date}-"):
                return f"{self._file} is of another day"
            if self._max_age_s is not None and now_s - self._begun_s >= self._max_age_s:
                return f"{self._file} is {now_s - self._begun_s:.0f} s old"
        try:
            found = os.stat(self._file, follow_symlinks=False)
        except FileNotFoundError:
            return f"{self._file} is gone"
        if found.st_ino != self._inode:
            return f"{self._file} is not the file that was written"
        if found.st_size != self._offset and not self._torn:
            return f"{self._file} was changed from {self._offset} to {found.st_size} bytes"
        return ""

    def begin(self, date: str, now_s: float = 0.0, last: str = "") -> Position:
        """Start a new file, named by *date* (`2026-11-24`), that holds the header line, synced with its directory.

        Its number is higher than that of every file of the day that is there, and than that of *last*.

        The position returned must be durable in the spool before the first append: only then can recovery cut a line that nobody counted.
        A crash before that leaves a file without lines, perhaps without its header, which nobody goes on with.
        """
        self._cut()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd, file = self._create(date, last)
        try:
            os.fchmod(fd, self._mode)
            _write_all(fd, self._header, 0)
            os.fsync(fd)
            sync_directory(self.path.parent)
            inode = os.fstat(fd).st_ino
        except OSError:
            os.close(fd)
            os.unlink(file)  # made a moment ago, by us, and of no use to anybody
            raise
        self._close()
        self._adopt(fd, Position(file, len(self._header), inode, now_s))
        return self.position

    def append(self, lines: bytes) -> Position:
        """Write *lines* and sync them; the position behind them.  After an OSError none of them is in the file."""
        self._cut()
        self._torn = True
        _write_all(self._fd, lines, self._offset)
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._spent = True  # whether its pages will ever reach the disk is anybody's guess
            raise
        self._torn = False
        self._offset += len(lines)
        return self.position

    def withdraw(self) -> None:
        """After a failed append, cut it off at once if the disk lets us: else the next call does."""
        try:
            self._cut()
        except OSError:
            return  # still torn: `begin` and `append` cut first, and raise what stops them

    def close(self) -> None:
        """Give the descriptor back, and be without a file; what was appended is synced already."""
        self._close()
        self._file = ""

    def _adopt(self, fd: int, position: Position) -> None:
        self._fd, self._file, self._offset = fd, position.file, position.offset
        self._inode, self._begun_s = position.inode, position.begun_s
        self._torn = self._spent = False

    def _cut(self) -> None:
        if self._torn and self._fd >= 0:
            if os.fstat(self._fd).st_size > self._offset:  # never longer: that would invent zeros
                os.ftruncate(self._fd, self._offset)
                os.fdatasync(self._fd)
            self._torn = False

    def _create(self, date: str, last: str) -> tuple[int, str]:
        prefix = f"{self.path.stem}-{date}-"
        pattern = re.compile(re.escape(prefix) + r"(\d{4,})" + re.escape(self.path.suffix))
        taken = [int(match[1]) for name in (*os.listdir(self.path.parent), os.path.basename(last)) if (match := pattern.fullmatch(name))]
        file = str(self.path.with_name(f"{prefix}{max(taken, default=-1) + 1:04d}{self.path.suffix}"))
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, self._mode), file

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def sync_directory(path: Path) -> None:
    """Make names in *path* durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
