"""Keys and certificates as the supervisor has read them, shared with those of its children that speak TLS.

Keys are readable by root only, and children are never root; they cannot read a renewed one either.  So the supervisor puts the contents into one
memory file that children inherit, and writes it anew when a file has changed; children look at its version once a second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import msgspec

_HEADER: Final = 16  # version (odd while it is being written), size of what follows: uint64 each
_TRIES: Final = 10


def publish(fd: int, contents: Mapping[str, bytes]) -> None:
    """Make *contents*, by path, what readers of the memory file *fd* find."""
    data = msgspec.msgpack.encode(dict(contents))
    version = int.from_bytes(os.pread(fd, 8, 0).ljust(8, b"\0"), "little")
    if os.fstat(fd).st_size < _HEADER + len(data):
        os.ftruncate(fd, _HEADER + len(data))
    os.pwrite(fd, (version + 1).to_bytes(8, "little"), 0)
    os.pwrite(fd, data, _HEADER)
    os.pwrite(fd, (version + 2).to_bytes(8, "little") + len(data).to_bytes(8, "little"), 0)


class Files:
    """The contents in the memory file *fd*; -1: none, ever."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._version = 0
        self._contents: dict[str, bytes] = {}
        self.changed()

    @classmethod
    def of(cls, contents: Mapping[str, bytes]) -> Files:
        """These contents, which never change."""
        files = cls(-1)
        files._contents = dict(contents)
        return files

    def get(self, path: str) -> bytes | None:
        """What the file *path* holds; None: nobody has read it."""
        return self._contents.get(path)

    def changed(self) -> bool:
        """Whether some content is another than at the last call; costs one system call."""
        if self._fd < 0:
            return False
        for _ in range(_TRIES):
            header = os.pread(self._fd, _HEADER, 0)
            version, size = int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little")
            if version == self._version or version % 2:
                return False  # the next look, if it is being written now
            data = os.pread(self._fd, size, _HEADER)
            if os.pread(self._fd, _HEADER, 0) == header:
                before, self._contents = self._contents, msgspec.msgpack.decode(data, type=dict[str, bytes])
                self._version = version
                return before != self._contents
        return False
