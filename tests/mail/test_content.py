"""remove-header over any message, cut anywhere: what `find_fields` finds is gone, and all else is there."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine.fastpath import find_fields
from engine.mail.content import NAME_MAX_BYTES, without_fields

NAMES = (b"x-a", b"received")
FIELDS = (b"X-A: 1\r\n", b"x-a : 2\r\n", b" folded\r\n", b"\tx-a: folded\r\n", b"X-Ab: 3\r\n", b"Received: 4\r\n")
LINES = st.sampled_from((*FIELDS, b"no colon\r\n", b"X-A\r\n", b"\r\n", b": \r\n", b"X-A:"))


def cut_by_the_definition(message: bytes) -> bytes:
    _, found = find_fields(message, NAMES)
    for _, start, stop in reversed(found):
        message = message[:start] + message[stop:]
    return message


@given(st.lists(LINES, max_size=12), st.lists(st.integers(0, 200), max_size=8))
def test_it_is_what_find_fields_finds_in_any_cut(lines: list[bytes], cuts: list[int]) -> None:
    message = b"".join(lines)
    at = sorted({0, len(message), *(cut for cut in cuts if cut < len(message))})
    chunks = [message[start:stop] for start, stop in pairwise(at)]
    assert b"".join(without_fields(chunks, NAMES)) == cut_by_the_definition(message)


def test_a_line_without_an_end_is_not_held() -> None:
    pieces = without_fields([b"x" * 600, b"x" * 600, b"x" * 600], NAMES)
    assert len(next(pieces)) > NAME_MAX_BYTES
    assert next(pieces) == b"x" * 600


def test_a_field_of_any_length_is_cut_while_it_streams() -> None:
    chunks = [b"X-A: ", *[b"y" * 1000] * 50, b"\r\nB: 1\r\n\r\n", b"X-A: body\r\n"]
    assert b"".join(without_fields(chunks, NAMES)) == b"B: 1\r\n\r\nX-A: body\r\n"
