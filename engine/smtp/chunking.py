"""Content that comes in chunks of a size that is said before (RFC 3030), where nothing has to be looked for and nothing is stuffed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from engine.fastpath import stuff, unstuff
from engine.smtp.newlines import are_strict, normalized

_CHUNK = re.compile(rb"([0-9]{1,18})(?:[ \t]+(LAST))?", re.IGNORECASE)


def read_chunk(argument: bytes) -> tuple[int, bool] | None:
    """(octets that follow, whether they are the last of the message) of BDAT's argument; None if it says no such thing (RFC 3030 §2)."""
    found = _CHUNK.fullmatch(argument)
    return (int(found[1]), found[2] is not None) if found else None


def write_chunk(size_bytes: int, last: bool) -> bytes:
    """`BDAT size [LAST]` with CRLF."""
    return b"BDAT %d LAST\r\n" % size_bytes if last else b"BDAT %d\r\n" % size_bytes


def unstuffed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """*pieces*, content in wire form cut anywhere, as it goes out in chunks: without stuffed dots."""
    at_start = True  # of a line
    for piece in pieces:
        if not piece:
            continue
        at = 0 if at_start else piece.find(b"\n") + 1 or len(piece)
        at_start = piece.endswith(b"\n")
        plain = piece[:at] + unstuff(piece[at:]) if at else unstuff(piece)
        if plain:
            yield plain


class ChunkedText:
    """Turns text that comes in chunks into the wire form in which DATA carries it: dot-stuffed, every line ended by CRLF."""

    def __init__(self, normalizes: bool) -> None:
        """*normalizes*: bare CR and LF are mended instead of refused."""
        self._normalizes = normalizes
        self._cr = b""  # the last byte, if it may become a line end
        self._at_start = True  # of a line

    def feed(self, data: bytes) -> bytes | None:
        """The wire form of *data*, as much as is known; None: it has a bare CR or LF."""
        data = self._cr + data
        self._cr = b""
        if data.endswith(b"\r"):
            data, self._cr = data[:-1], b"\r"
        if not are_strict(data):
            if not self._normalizes:
                return None
            data = normalized(data)
        if not data:
            return b""
        at = 0 if self._at_start else data.find(b"\n") + 1 or len(data)
        self._at_start = data.endswith(b"\n")
        return data[:at] + stuff(data[at:]) if at else stuff(data)

    def finish(self) -> bytes | None:
        """What the last line lacks; None: the text ends in a bare CR."""
        if self._cr and not self._normalizes:
            return None
        return b"" if self._at_start and not self._cr else b"\r\n"
