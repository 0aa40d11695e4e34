"""The event log: one line per thing that happened, batched, shared by all processes.

A line is `2026-11-24 03:40:12.345+0100 listener/0 accepted id=...`.  Every process appends whole lines to the same file with one write each
(O_APPEND), so lines of several processes never mix.  A file that was renamed or removed, by us at midnight or by anybody, is left within a
second: nobody has to be told.  Logging never raises into the mail flow: what could not be written is counted, and the
count is the first thing written once writing works again.
"""

from __future__ import annotations

import os
import time

FLUSH_AT_CHARS = 64 * 1024
OPEN_AGAIN_S = 1.0
ESCAPED_MAX_CHARS = 1000

_MILLISECONDS = [f"{number:03d}" for number in range(1000)]
_ESCAPES = {byte: f"\\x{byte:02x}" for byte in range(256) if byte < 32 or byte > 126} | {9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}


def escape(text: str | bytes, limit_chars: int = ESCAPED_MAX_CHARS) -> str:
    r"""*text* that a peer chose, safe inside a log line or a record: printable ASCII, at most *limit_chars* long.

    Control characters, line ends and bytes over 126 become `\xNN` (`\r`, `\n`, `\t`), a backslash is doubled; what is cut ends in `...`.
    """
    if isinstance(text, str):
        if len(text) <= limit_chars and text.isascii() and text.isprintable() and "\\" not in text:
            return text
        data = text[: limit_chars + 1].encode("utf-8", "surrogateescape" if _is_escaped_bytes(text) else "backslashreplace")
    else:
        data = bytes(text[: limit_chars + 1])
    safe = data.decode("latin-1").translate(_ESCAPES)
    return safe if len(safe) <= limit_chars else safe[: limit_chars - 3] + "..."


def _is_escaped_bytes(text: str) -> bool:
    """Whether every lone surrogate in *text* stands for one undecodable byte."""
    return all(not 0xD800 <= ord(char) <= 0xDFFF or 0xDC80 <= ord(char) <= 0xDCFF for char in text)


class EventLog:
    """Appends events of one process to the file at *path*; with an empty path, or while the file cannot be opened, to standard error.

    Opening is tried again with later flushes, at most once in OPEN_AGAIN_S.
    """

    def __init__(self, path: str, role: str, owner: tuple[int, int] = (-1, -1), mode: int = 0o640) -> None:
        """*owner*, uid and gid, and *mode* are those of a file that this process makes; -1: its own."""
        self.path = path
        self.role = role
        self._owner = owner
        self._mode = mode
        self.lost_lines = 0  # since the last time a write succeeded
        self._fd = -1
        self._open_at_s = 0.0  # not before; 0: it was never tried in vain
        self._lines: list[str] = []
        self._chars = 0
        self._second = -1
        self._before_ms = ""
        self._after_ms = ""
        self._torn = False  # our last write ended inside a line

    def event(self, kind: str, text: str) -> None:
        """Add one line to the buffer; *text* from a peer goes through `escape` first.  Never raises, never waits unless the buffer is full."""
        now_s = time.time()
        second = int(now_s)
        if second != self._second:
            self.reopen()
            self._enter_second(second)
        if "\n" in text or "\r" in text:
            text = escape(text, 4 * len(text))
        self._lines.append(f"{self._before_ms}{_MILLISECONDS[int((now_s - second) * 1000)]}{self._after_ms}{kind} {text}\n")
        self._chars += len(text) + 50
        if self._chars > FLUSH_AT_CHARS:
            self.flush()

    def flush(self) -> None:
        """Hand the buffered lines to the kernel in one write; never raises."""
        if not self._lines:
            return
        head = "\n" if self._torn else ""
        if self.lost_lines:
            self._enter_second(int(time.time()))
            head += f"{self._before_ms}000{self._after_ms}log lost {self.lost_lines} lines that could not be written\n"
        lines, self._lines, self._chars = self._lines, [], 0
        data = (head + "".join(lines)).encode("utf-8", "backslashreplace")
        try:
            written = os.write(self._descriptor(), data)
        except OSError:  # counted; said by the next write that succeeds
            self.lost_lines += len(lines)
            return
        self._torn = written < len(data) and data[written - 1 : written] != b"\n"
        if written == len(data):
            self.lost_lines = 0
        else:
            self.lost_lines += data.count(b"\n", written)

    def close(self) -> None:
        """Flush and give the descriptor back."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _descriptor(self) -> int:
        """The open file; standard error while there is none."""
        if self._fd < 0 and self.path and time.monotonic() >= self._open_at_s:
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                if os.geteuid() == 0:  # the directory is the children's: they must not lead us elsewhere
                    flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # nor make us wait at a pipe
                self._fd = os.open(self.path, flags, self._mode)
                self._adopt(self._fd)
            except OSError as error:
                if not self._open_at_s:
                    reason = f"engine: cannot write the log {self.path}: {error.strerror}; it goes to standard error until that is mended\n"
                    os.write(2, reason.encode("utf-8", "backslashreplace"))
                self._open_at_s = time.monotonic() + OPEN_AGAIN_S
        return self._fd if self._fd >= 0 else 2

    def reopen(self) -> None:
        """Leave the file if its name means another one by now, or none."""
        if self._fd >= 0:
            try:
                found, own = os.stat(self.path), os.fstat(self._fd)
                if (found.st_ino, found.st_dev) == (own.st_ino, own.st_dev):
                    return
            except OSError:
                pass
            self.flush()
            os.close(self._fd)
            self._fd, self._torn, self._open_at_s = -1, False, 0.0

    def _adopt(self, descriptor: int) -> None:
        """An empty log of our own is for everybody who writes to it, whatever our umask and whoever was first to make it."""
        found = os.fstat(descriptor)
        if found.st_size == 0 and found.st_uid == os.geteuid() and found.st_nlink == 1:  # no second name of another file of ours
            os.fchmod(descriptor, self._mode)
            if self._owner[0] >= 0 and found.st_uid == 0:
                os.fchown(descriptor, *self._owner)

    def _enter_second(self, second: int) -> None:
        local = time.localtime(second)
        self._second = second
        self._before_ms = time.strftime("%Y-%m-%d %H:%M:%S.", local)
        self._after_ms = f"{time.strftime('%z', local)} {self.role} "
