"""The files of an acct-file that are full: handed over to `move-to`, or deleted when they have lain long enough.

Only files that this engine made and closed are on the shelf, each by name and inode, and the shelf itself is stored in the spool: what another
program left in the directory, however it is called, is never touched.  Blocking; a file that cannot be moved or deleted stays on the shelf.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.accounting.journal import Position, sync_directory

MAX_FILES = 10_000  # more are forgotten, the oldest first: they stay where they are


class Closed(msgspec.Struct, array_like=True, frozen=True):
    """A file that no record will be added to."""

    file: str  # absolute path
    inode: int
    closed_s: float  # since the epoch


class Content(msgspec.Struct, array_like=True, frozen=True):
    """What is stored: append fields with defaults only."""

    last: str = ""  # the file that was closed last, whatever became of it: its number is not given again
    files: list[Closed] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Content)


class Shelf:
    """Closed files, oldest first."""

    def __init__(self, *, move_to: str = "", delete_after_s: float | None = None) -> None:
        """*move_to*: an existing directory on the same volume, "" for none; *delete_after_s*: None is never, and without meaning with *move_to*."""
        self._move_to = move_to
        self._delete_after_s = delete_after_s
        self._files: list[Closed] = []
        self.last = ""

    def encode(self) -> bytes:
        """Itself, as it is stored in the spool."""
        return _encoder.encode(Content(self.last, self._files))

    def restore(self, data: bytes) -> None:
        """Be what `encode` wrote."""
        content = _decoder.decode(data)
        self.last, self._files = content.last, content.files

    def add(self, position: Position, now_s: float) -> None:
        """The file of *position* is closed."""
        self.last = position.file
        self._files = [*self._files, Closed(position.file, position.inode, now_s)][-MAX_FILES:]

    def tend(self, now_s: float) -> tuple[bool, list[str]]:
        """Move and delete what is due: (whether the shelf has changed, what to log)."""
        kept: list[Closed] = []
        said: list[str] = []
        for closed in self._files:
            try:
                news = self._tend(closed, now_s)
            except OSError as error:
                kept.append(closed)
                said.append(f"cannot {'move' if self._move_to else 'delete'} {closed.file}: {error.strerror or error}")
                continue
            if news is None:
                kept.append(closed)
            elif news:
                said.append(news)
        changed = len(kept) != len(self._files)
        self._files = kept
        return changed, said

    def _tend(self, closed: Closed, now_s: float) -> str | None:
        """What became of *closed*, "" if somebody else took it; None while it stays.  OSError if the file system refuses."""
        try:
            found = os.lstat(closed.file)
        except FileNotFoundError:
            return ""
        if found.st_ino != closed.inode or not stat.S_ISREG(found.st_mode):
            return ""
        if self._move_to:
            target = next(path for path in _names(Path(self._move_to, os.path.basename(closed.file))) if not os.path.lexists(path))
            os.rename(closed.file, target)
            sync_directory(target.parent)
            sync_directory(Path(closed.file).parent)
            return f"moved {closed.file} to {target}"
        if self._delete_after_s is not None and now_s - closed.closed_s >= self._delete_after_s:
            os.unlink(closed.file)
            return f"deleted {closed.file} after {now_s - closed.closed_s:.0f} s"
        return None


def _names(path: Path) -> Iterator[Path]:
    """*path*, then others like it: nothing is ever replaced."""
    yield path
    number = 1
    while True:
        yield path.with_name(f"{path.stem}.{number}{path.suffix}")
        number += 1
