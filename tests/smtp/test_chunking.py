"""BDAT (RFC 3030): what is taken, how it is kept, and properties over any content in any chunks and any cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LocalProtocolError, RemoteProtocolError
from engine.fastpath import stuff, unstuff
from engine.smtp.chunking import ChunkedText, read_chunk, unstuffed, write_chunk
from engine.smtp.client import ClientConnection, Finished, Refused, SendBody, Stage, Transaction
from engine.smtp.newlines import are_strict, normalized
from engine.smtp.server import Phase, ServerConnection, ServerLimits
from engine.smtp.traced import TracedConnection
from tests.smtp.postbox import QUEUED, Client, Postbox
from tests.smtp.test_client import OFFERS, ONE, THREE, fates, ready, start

ENVELOPE = b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n"
BINARY = ENVELOPE.replace(b"com>", b"com> BODY=BINARYMIME")
CONTENT = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"\0", b"x", b"\r\n.\r\n", b"a: b\r\n"]) | st.binary(max_size=3), max_size=20).map(
    b"".join
)
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [
        (b"0", (0, False)),
        (b"86 LAST", (86, True)),
        (b"86\tlast", (86, True)),
        (b"999999999999999999", (10**18 - 1, False)),
        (b"9999999999999999999", None),
        (b"", None),
        (b"LAST", None),
        (b"-1", None),
        (b"+1", None),
        (b"1 2", None),
        (b"1 LAST x", None),
        (b"1LAST", None),
        ("\u0661".encode(), None),
    ],
)
def test_arguments(argument: bytes, chunk: tuple[int, bool] | None) -> None:
    assert read_chunk(argument) == chunk
    if chunk is not None:
        line = write_chunk(*chunk)
        assert line.startswith(b"BDAT ") and read_chunk(line[5:-2]) == chunk


def chunks_of(content: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(content[:size])
        content = content[size:]
    return [*pieces, content]


def in_chunks(pieces: list[bytes]) -> bytes:
    return b"".join(write_chunk(len(piece), at == len(pieces) - 1) + piece for at, piece in enumerate(pieces))


def cut(data: bytes, step: int) -> list[bytes]:
    return [data[at : at + step] for at in range(0, len(data), step)]


@given(CONTENT, st.lists(st.integers(0, 12), max_size=6), st.integers(1, 40))
def test_binary_content_is_kept_octet_by_octet(content: bytes, sizes: list[int], step: int) -> None:
    client = Client(chunking=1)
    client.exchange(BINARY)
    said = b"".join([client.exchange(piece) for piece in cut(in_chunks(chunks_of(content, sizes)), step)])
    assert said == b"250 2.0.0 Chunk taken\r\n" * len(sizes) + QUEUED.encode()
    assert [mail.wire for mail in client.postbox.mails] == [content]


@given(CONTENT, st.lists(st.integers(0, 12), max_size=6), st.integers(1, 40))
def test_text_becomes_what_data_would_have_carried_or_is_refused(content: bytes, sizes: list[int], step: int) -> None:
    client = Client(chunking=1)
    client.exchange(ENVELOPE)
    stream = in_chunks(chunks_of(content, sizes)) + b"NOOP\r\n"
    said = b"".join([client.exchange(piece) for piece in cut(stream, step)])
    assert said.endswith(b"250 2.0.0 Ok\r\n"), "every octet of the chunks was taken, and none more"
    if BARE.search(content):
        assert b"550 5.6.0 " in said and not client.postbox.mails and client.postbox.resets == 1
        return
    (mail,) = client.postbox.mails
    ended = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    assert unstuff(mail.wire) == ended
    assert b"\r\n.\r\n" not in b"\r\n" + mail.wire and not BARE.search(mail.wire)


@given(CONTENT, st.lists(st.integers(0, 12), max_size=6))
def test_what_normalizes_makes_text_of_anything(content: bytes, sizes: list[int]) -> None:
    text = ChunkedText(True)
    wire = b"".join([text.feed(piece) or b"" for piece in chunks_of(content, sizes)]) + (text.finish() or b"")
    assert not BARE.search(wire) and b"\r\n.\r\n" not in b"\r\n" + wire and (not wire or wire.endswith(b"\r\n"))
    if not content.endswith(b"\r"):
        mended = normalized(content)
        assert unstuff(wire) == (mended if mended.endswith(b"\r\n") or not mended else mended + b"\r\n")


@given(CONTENT)
def test_strict(content: bytes) -> None:
    assert are_strict(content) == (BARE.search(content) is None)
    assert are_strict(normalized(content))
    assert normalized(normalized(content)) == normalized(content)


def test_many_chunks_are_no_offence_but_empty_ones_are_commands() -> None:
    client = Client(chunking=1, max_commands_without_mail=10)
    client.exchange(ENVELOPE)
    assert client.exchange(b"BDAT 1\r\nx" * 500) == b"250 2.0.0 Chunk taken\r\n" * 500
    said = client.exchange(b"BDAT 0\r\n" * 20)
    assert said.endswith(b"421 4.7.0 Too many commands without mail\r\n") and client.core.closing
    assert client.postbox.resets == 1


def test_a_chunk_is_not_held() -> None:
    core = ServerConnection(Postbox(), ServerLimits("mx.example.org", chunking=True))
    core.receive(BINARY + b"BDAT 1000000 LAST\r\n")
    for _ in range(100):
        assert core.phase is Phase.CHUNK
        assert core.receive(b"x" * 10_000) == b"" and not core._held
    assert core.answered(QUEUED) == QUEUED.encode()


def test_a_connection_that_ends_within_a_chunk_leaves_nothing() -> None:
    for chunks in (b"BDAT 10\r\nxx", b"BDAT 2\r\nxx", b"BDAT 2\r\nxxBDAT 5 LAST\r\ny"):
        postbox = Postbox()
        core = ServerConnection(postbox, ServerLimits("mx.example.org", chunking=True))
        core.receive(ENVELOPE + chunks)
        core.lost()
        assert postbox.resets == 1 and not postbox.mails and postbox.open is None


def test_what_a_trace_shows_of_chunks() -> None:
    shown: list[tuple[str, bytes]] = []
    core = TracedConnection(
        Postbox(), ServerLimits("m", chunking=True), lambda direction, line: shown.append((direction, line)), commands=True, data=True
    )
    core.receive(ENVELOPE)
    del shown[:]
    core.receive(b"BDAT 3\r\na\r\nBDAT 0\r\nBDAT 1 LAST\r\nb")
    core.answered(QUEUED)
    core.receive(b"BDAT 1 LAST\r\nx")
    assert shown == [
        (">>>", b"BDAT 3"),
        ("data", b"a"),
        ("<<<", b"250 2.0.0 Chunk taken"),
        (">>>", b"BDAT 0"),
        ("<<<", b"250 2.0.0 Chunk taken"),
        (">>>", b"BDAT 1 LAST"),
        ("data", b"b"),
        ("<<<", QUEUED.encode()[:-2]),
        (">>>", b"BDAT 1 LAST"),
        ("<<<", b"503 5.5.1 Send MAIL first"),
    ]


# --- what goes out ----------------------------------------------------------------------------------------------------------------------

OFFERED = OFFERS.replace(b"250 DSN", b"250-DSN\r\n250-BINARYMIME\r\n250 CHUNKING")
TEXT = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"x", b"\r\n.", b"\r\n.\r\n"]), max_size=20).map(b"".join)


def begun(*, pipelining: bool = True, transaction: Transaction = ONE) -> ClientConnection:
    """A connection whose peer waits for the content of *transaction*."""
    client = ready(OFFERED, ignore_pipelining=not pipelining)
    assert start(client, transaction).endswith(b"RCPT TO:<b@example.net>\r\n" if pipelining else b"SIZE=1000\r\n"), "and no DATA"
    events = client.receive(b"250 ok\r\n")
    if not pipelining:
        assert client.to_send() == b"RCPT TO:<b@example.net>\r\n"
    assert events == [] and client.receive(b"250 ok\r\n") == [SendBody((0,))]
    assert client.by_chunks and client.to_send() == b""
    return client


@pytest.mark.parametrize("pipelining", [True, False])
def test_one_chunk(pipelining: bool) -> None:
    client = begun(pipelining=pipelining)
    assert client.chunk(9, True) == b"BDAT 9 LAST\r\n"
    assert client.stage is Stage.FINAL_DOT
    (finished,) = client.receive(b"250 2.0.0 taken\r\n")
    assert fates(finished) == [(250, Stage.FINAL_DOT)] and isinstance(finished, Finished) and finished.accepted_final
    assert start(client, ONE).startswith(b"MAIL FROM:"), "and the next"


def test_several_chunks_at_once() -> None:
    client = begun()
    assert client.chunk(9, False) + client.chunk(9, False) + client.chunk(0, True) == b"BDAT 9\r\nBDAT 9\r\nBDAT 0 LAST\r\n"
    assert client.receive(b"250 one\r\n250 two\r\n") == []
    (finished,) = client.receive(b"250 2.0.0 taken\r\n")
    assert fates(finished) == [(250, Stage.FINAL_DOT)]


def test_one_after_the_other_without_pipelining() -> None:
    client = begun(pipelining=False)
    client.chunk(9, False)
    assert client.chunk_waits
    with pytest.raises(LocalProtocolError):
        client.chunk(9, True)
    assert client.receive(b"250 one\r\n") == [] and not client.chunk_waits
    client.chunk(9, True)
    assert fates(client.receive(b"250 taken\r\n")[0]) == [(250, Stage.FINAL_DOT)]


def test_a_chunk_that_is_refused_ends_the_connection_and_the_last_one_does_not() -> None:
    client = begun()
    client.chunk(9, False)
    client.chunk(9, True)
    finished, refused = client.receive(b"552 5.3.4 too big\r\n552 5.3.4 too big\r\n")
    assert fates(finished) == [(552, Stage.FINAL_DOT)] and isinstance(refused, Refused) and client.stage is Stage.CLOSED
    client = begun()
    client.chunk(9, False)
    finished, refused = client.receive(b"451 4.3.0 no\r\n")
    assert fates(finished) == [(451, Stage.BODY)] and isinstance(refused, Refused)
    client = begun()
    client.chunk(9, True)
    (finished,) = client.receive(b"554 5.6.0 no\r\n")
    assert fates(finished) == [(554, Stage.FINAL_DOT)] and client.stage is Stage.IDLE
    assert start(client, ONE).startswith(b"RSET\r\n"), "what is left of the message at the peer"


def test_no_content_for_nobody() -> None:
    client = ready(OFFERED)
    start(client, THREE)
    (finished,) = client.receive(b"250 ok\r\n550 no\r\n450 not now\r\n550 no\r\n")
    assert fates(finished) == [(550, Stage.RCPT), (450, Stage.RCPT), (550, Stage.RCPT)]
    assert start(client, THREE).startswith(b"RSET\r\nMAIL FROM:")
    client = ready(OFFERED)
    start(client, THREE)
    (finished,) = client.receive(b"550 no\r\n503 no\r\n503 no\r\n503 no\r\n")
    assert fates(finished) == [(550, Stage.MAIL)] * 3
    assert start(client, ONE).startswith(b"MAIL FROM:")


def test_replies_that_nobody_asked_for() -> None:
    client = begun()
    with pytest.raises(RemoteProtocolError):
        client.receive(b"250 what\r\n")
    client = begun()
    client.chunk(1, False)
    assert client.receive(b"250 one\r\n") == []
    with pytest.raises(RemoteProtocolError):
        client.receive(b"250 two\r\n")


def test_it_can_be_ignored_and_binary_says_so() -> None:
    assert start(ready(OFFERED, ignore_chunking=True), ONE).endswith(b"DATA\r\n")
    binary = Transaction("a@example.com", ("b@example.net",), 1000, True, binary=True)
    assert start(ready(OFFERED), binary).startswith(b"MAIL FROM:<a@example.com> SIZE=1000 BODY=BINARYMIME\r\n")


@given(TEXT, st.lists(st.integers(0, 9), max_size=9))
def test_what_goes_out_in_chunks_has_no_stuffed_dots(text: bytes, sizes: list[int]) -> None:
    wire = stuff(text)
    assert b"".join(unstuffed(chunks_of(wire, sizes))) == text
