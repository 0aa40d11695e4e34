"""The smuggling corpus (CVE-2023-51764 and its kin): every trick that ends a message for some and not for others, cut at every place.

Whoever sends one has it refused; where bare line ends are mended it becomes one message, which cannot be cut in two by the laxest reader either.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fastpath import unstuff
from engine.smtp.newlines import Mender
from tests.smtp.postbox import QUEUED, Client

ENDS = {
    "LF . LF": b"\n.\n",
    "LF . CRLF": b"\n.\r\n",
    "CRLF . LF": b"\r\n.\n",
    "CR . CR": b"\r.\r",
    "CR . CRLF": b"\r.\r\n",
    "CRLF . CR": b"\r\n.\r",
    "CR . LF": b"\r.\n",
    "LF . CR": b"\n.\r",
    "CRLF . CR CRLF": b"\r\n.\r\r\n",
    "CRLF . CRLF with a CR before its LF": b"\r\r\n.\r\r\n",
    "LF CR . LF CR": b"\n\r.\n\r",
    "LF LF . LF LF": b"\n\n.\n\n",
    "CRLF . NUL CR LF": b"\r\n.\0\r\n\n",
    "CR NUL LF . CR NUL LF": b"\r\0\n.\r\0\n",
    "LF NUL . NUL LF": b"\n\0.\0\n",
    "two dots behind an LF": b"\n..\n",
}
REST = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nSubject: smuggled\r\n\r\ntext\r\n.\r\n"
ENVELOPE = b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
LAX_END = re.compile(rb"(?:^|[\r\n])\0*\.\0*[\r\n]")  # a line with nothing but a dot, to a reader that takes anything for a line end and drops NULs
BODY = b"Subject: one\r\n\r\n.. a stuffed line\r\ntext"


def held(pieces: list[bytes], mends: bool) -> tuple[bytes, list[bytes]]:
    """(replies behind the envelope's, wire forms of the messages that came of it)."""
    client = Client(mends_newlines=mends)
    client.exchange(ENVELOPE)
    said = b"".join([client.exchange(piece) for piece in pieces])
    return said, [mail.wire for mail in client.postbox.mails]


def cuts(data: bytes) -> list[list[bytes]]:
    return [[data], [data[at : at + 1] for at in range(len(data))], *([data[:at], data[at:]] for at in range(1, len(data)))]


@pytest.mark.parametrize("trick", ENDS)
@pytest.mark.usefixtures("loops")
def test_nothing_is_smuggled(trick: str) -> None:
    true_end = ENDS[trick] + b"x" if ENDS[trick].endswith(b"\r") else ENDS[trick]
    stream = BODY + true_end + REST
    results = [held(pieces, False) for pieces in cuts(stream)]
    assert all(result == results[0] for result in results)
    said, wires = results[0]
    assert said.startswith(b"550 5.6.0 ") and said.count(b"\r\n") == 1 and not wires, "one message, refused at its true end"


@pytest.mark.parametrize("trick", ENDS)
@pytest.mark.usefixtures("loops")
def test_mended_it_is_one_message_to_everybody(trick: str) -> None:
    true_end = ENDS[trick] + b"x" if ENDS[trick].endswith(b"\r") else ENDS[trick]
    stream = BODY + true_end + REST
    results = [held(pieces, True) for pieces in cuts(stream)]
    assert all(result == results[0] for result in results)
    said, (wire,) = results[0]
    assert said == QUEUED.encode()
    assert not BARE.search(wire) and not re.search(rb"(?:^|\r\n)\.\r\n", wire), "strict lines, and no end among them"
    if b"\0" not in wire:
        assert not LAX_END.search(wire), "nor one that a lax reader would see"
    content = unstuff(wire)
    assert content.startswith(b"Subject: one\r\n\r\n. a stuffed line\r\ntext") and content.endswith(REST[:-3])


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"x", b"\0"]), max_size=30).map(b"".join), st.integers(1, 9))
def test_anything_mended_has_strict_lines_and_one_end(data: bytes, step: int) -> None:
    stream = data + b"\r\n.\r\n"
    end = (b"\r\n" + stream).find(b"\r\n.\r\n") + 3  # the true one
    said, wires = held([stream[at : at + step] for at in range(0, end, step)], True)
    assert said.startswith(QUEUED.encode())
    wire = wires[0]
    assert not BARE.search(wire) and b"\r\n.\r\n" not in b"\r\n" + wire
    assert wire.translate(None, b"\r\n .") == stream[: end - 3].translate(None, b"\r\n ."), "and all else is kept"


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"x"]), max_size=30), st.lists(st.integers(0, 9), max_size=9), st.booleans())
def test_mending_does_not_depend_on_cuts(parts: list[bytes], sizes: list[int], at_start: bool) -> None:
    data = b"".join(parts)
    whole, cut = Mender(at_start), Mender(at_start)
    pieces = []
    rest = data + b"x\r\n"
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert b"".join(cut.feed(piece) for piece in [*pieces, rest]) == whole.feed(data + b"x\r\n")


def test_only_what_is_bare_is_mended() -> None:
    said, (wire,) = held([b"a\r\nb\nc\rd\r\n..e\n.f\n..g\n.\r\nh\r\n.\r\n"], True)
    assert said == QUEUED.encode()
    assert wire == b"a\r\nb\r\nc d\r\n..e\r\n.f\r\n..g\r\n..\r\nh\r\n"


def test_commands_stay_strict() -> None:
    client = Client(mends_newlines=True)
    assert client.exchange(b"NOOP\n").endswith(b"521 5.5.2 Bare CR or LF in a command; lines end with CRLF\r\n")
