"""The compiled loops against their plain twins, and both against themselves in other cuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import _fastpath, _reference
from engine.fastpath import BARE_EOL, BODY_START, NEED_DATA

Both = Callable[..., Any]


def made_of(*pieces: bytes, most: int = 30) -> st.SearchStrategy[bytes]:
    """Bytes that are rich in what matters."""
    return st.lists(st.sampled_from(pieces) | st.binary(max_size=2), max_size=most).map(b"".join)


LINES = made_of(b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\r\n.\r\n", b"\r\n.", b"x" * 600)
HEADERS = made_of(b"\r\n", b"to", b"TO", b":", b" ", b"\t", b"to:", b"cc:", b"\r\n\r\n", b"\n")
PATHS = made_of(b"<", b">", b"@", b".", b"-", b"a", b"b1", b" ", b"a" * 32, b'"', b"a@b.c")
REPLIES = made_of(b"250", b"-", b" ", b"\r\n", b"\n", b"\r", b"2", b"5", b"354 ", b"250-x\r\n", b"ok", most=12)


@given(LINES)
@settings(max_examples=400)
def test_lines(both: Both, data: bytes) -> None:
    both("read_command", data)
    both("read_command", data.replace(b"\n", b"\t").replace(b"\r", b" ") + b"\r\n")
    both("has_8bit", data)
    assert both("unstuff", both("stuff", data)) == data
    for state in (0, 1, 2, 3, 4, 8, 9, 10, 11, 12):
        both("scan_body", data, 0, state)


@given(HEADERS)
@settings(max_examples=300)
def test_headers(both: Both, data: bytes) -> None:
    both("find_fields", data, (b"to", b"cc", b"t"))


@given(PATHS)
@settings(max_examples=300)
def test_paths(both: Both, data: bytes) -> None:
    both("parse_path", b"TO:" + data, b"TO:")
    both("parse_path", b"TO:<" + data + b"> x", b"TO:")
    both("parse_path", b"TO:<a@" + data + b">", b"TO:")


@given(REPLIES)
@settings(max_examples=300)
def test_replies(both: Both, data: bytes) -> None:
    whole = both("scan_reply", data)
    for stop in range(len(data)):
        part = both("scan_reply", data[:stop])
        assert part in (NEED_DATA, whole), "what a prefix is found to be, the whole is too"


def scan(module: Any, pieces: list[bytes]) -> tuple[int, bool]:
    """(offset of the end over all *pieces* or NEED_DATA, whether a bare CR or LF came before it)."""
    state, before, bare = BODY_START, 0, False
    for piece in pieces:
        end, state = module.scan_body(piece, 0, state)
        if end == BARE_EOL:
            assert not bare, "reported once"
            bare = True
            end, state = module.scan_body(piece, 0, state)
        if end >= 0:
            return before + end, bare
        before += len(piece)
    return NEED_DATA, bare


@pytest.mark.parametrize("module", [_fastpath, _reference], ids=["compiled", "reference"])
@given(data=LINES)
@settings(max_examples=150)
def test_a_body_ends_where_it_ends_in_every_cut(module: Any, data: bytes) -> None:
    data = data[:700]
    whole = scan(module, [data])
    strict = (b"\r\n" + data).find(b"\r\n.\r\n")
    assert whole[0] == (strict + 3 if strict >= 0 else NEED_DATA)
    assert scan(module, [data[i : i + 1] for i in range(len(data))]) == whole
    for at in range(len(data)):
        assert scan(module, [data[:at], data[at:]]) == whole


@given(LINES, st.integers(0, 40))
def test_offsets_count_from_the_start_of_the_buffer(both: Both, data: bytes, start: int) -> None:
    if start <= len(data):
        end, state = both("scan_body", data, start, BODY_START)
        assert (end - start if end >= 0 else end, state) == _reference.scan_body(data[start:], 0, BODY_START)
        both("read_command", data, start)
        both("scan_reply", data, start)


@given(LINES)
def test_any_buffer_will_do(data: bytes) -> None:
    for name, rest in (("read_command", ()), ("scan_body", (0, 0)), ("stuff", ()), ("find_fields", ((b"to",),)), ("scan_reply", ())):
        function = getattr(_fastpath, name)
        assert function(bytearray(data), *rest) == function(memoryview(data), *rest) == function(data, *rest)
