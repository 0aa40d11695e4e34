"""The content of messages: where a body ends, and what fields its header section has."""

from __future__ import annotations

from engine import _reference, fastpath
from engine.fastpath import BARE_EOL, BODY_START, NEED_DATA
from tests.fuzz.cuts import cuts


def body(data: bytes) -> object:
    """`scan_body` in several cuts against one walk over the whole; stuffing and unstuffing."""
    expected = _walk(data)
    for pieces in cuts(data):
        assert _scan(pieces) == expected, "the end and the verdict do not depend on how the bytes came"
    stuffed = fastpath.stuff(data)
    assert stuffed == _reference.stuff(data) and fastpath.unstuff(stuffed) == data
    assert fastpath.unstuff(data) == _reference.unstuff(data)
    assert fastpath.has_8bit(data) == _reference.has_8bit(data)
    return expected, fastpath.unstuff(data)


def _walk(data: bytes) -> tuple[int, bool]:
    """(offset past the final dot line or -1, whether a bare CR or LF comes before it): by the RFC's words, a byte at a time."""
    bare = False
    for at, byte in enumerate(data):
        before = data[at - 1 : at] if at else b""
        behind = data[at + 1 : at + 2]
        if byte == 0x2E and data[at + 1 : at + 3] == b"\r\n" and (at == 0 or data[max(0, at - 2) : at] == b"\r\n"):
            return at + 3, bare
        bare = bare or (byte == 0x0D and behind not in (b"\n", b"")) or (byte == 0x0A and before != b"\r")
    return -1, bare


def _scan(pieces: list[bytes]) -> tuple[int, bool]:
    state, bare, done = BODY_START, False, 0
    for piece in pieces:
        end, state = _both(piece, state)
        if end == BARE_EOL:
            bare = True
            end, state = _both(piece, state)
            assert end != BARE_EOL, "said once"
        if end >= 0:
            return done + end, bare
        assert end == NEED_DATA
        done += len(piece)
    return -1, bare


def _both(piece: bytes, state: int) -> tuple[int, int]:
    found = fastpath.scan_body(piece, 0, state)
    assert found == _reference.scan_body(piece, 0, state)
    return found


FIELDS = (b"received", b"x-virtual-mta", b"a")


def headers(data: bytes) -> object:
    """`find_fields` against a reading line by line."""
    found = fastpath.find_fields(data, FIELDS)
    assert found == _reference.find_fields(data, FIELDS)
    end, fields = found
    section, lines = _section(data)
    assert end == section
    assert fields == _named(lines)
    for index, start, stop in fields:
        assert data[start : start + len(FIELDS[index])].lower() == FIELDS[index] and 0 <= start < stop <= end
    return found


def _section(data: bytes) -> tuple[int, list[bytes]]:
    """(length of the header section with its blank line, its lines without that)."""
    pieces = data.split(b"\r\n")
    lines = [line + b"\r\n" for line in pieces[:-1]] + [line for line in pieces[-1:] if line]
    if b"\r\n" in lines:
        lines = lines[: lines.index(b"\r\n")]
        return sum(map(len, lines)) + 2, lines
    return len(data), lines


def _named(lines: list[bytes]) -> list[tuple[int, int, int]]:
    at, fields = 0, []
    open_field = False
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if open_field:
                index, start, _ = fields[-1]
                fields[-1] = (index, start, at + len(line))
        else:
            name = line.split(b":")[0].rstrip(b" \t").lower()
            open_field = b":" in line and name in FIELDS
            if open_field:
                fields.append((FIELDS.index(name), at, at + len(line)))
        at += len(line)
    return fields
