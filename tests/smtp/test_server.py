"""The server core: its handler's part, its states, and properties over any input in any cut."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LocalProtocolError
from engine.mail.reply import Reply, reply
from engine.smtp.extensions import Parameters
from engine.smtp.server import GO_AHEAD, MAX_HELD_BYTES, RECIPIENT_OK, SENDER_OK, Phase, ServerConnection, ServerLimits
from tests.smtp.postbox import QUEUED, Client, Postbox

TO_DATA = b"HELO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
REPLIES = re.compile(rb"(?:[2-5][0-9]{2}(?:-[^\r\n]*\r\n[2-5][0-9]{2})*(?: [^\r\n]*)\r\n)*")
LIMITS = ServerLimits("mx.example.org")


def test_handler_hears_all_of_a_message() -> None:
    client = Client()
    client.exchange(b"EHLO c.example\r\nMAIL FROM:<> SIZE=5 BODY=8BITMIME\r\nRCPT TO:<b@example.net> NOTIFY=NEVER\r\nDATA\r\n")
    client.exchange(b"a: b\r\n\r\n..dot\r\n.\r\n")
    (mail,) = client.postbox.mails
    assert client.postbox.names == [("c.example", True)]
    assert (mail.sender, mail.parameters) == ("", Parameters(size_bytes=5, body="8BITMIME"))
    assert mail.recipients == [("b@example.net", Parameters(notify=1))]
    assert mail.wire == b"a: b\r\n\r\n..dot\r\n", "wire form, without the final dot"


def test_pipelined_commands_wait_for_the_final_dot() -> None:
    postbox = Postbox()
    core = ServerConnection(postbox, LIMITS)
    core.open()
    assert core.receive(TO_DATA + b"text\r\n.\r\nQUI").startswith(b"250 ")
    assert core.phase is Phase.WAITING
    assert core.receive(b"T\r\nNOOP\r\n") == b""
    assert core.answered(QUEUED) == QUEUED.encode() + b"221 2.0.0 mx.example.org says goodbye\r\n", "nothing behind QUIT is answered"
    assert core.closing
    assert core.receive(b"NOOP\r\n") == b""


def test_answered_only_when_owed() -> None:
    core = ServerConnection(Postbox(), LIMITS)
    with pytest.raises(LocalProtocolError):
        core.answered(QUEUED)


def test_what_is_held_while_waiting_is_bounded() -> None:
    core = ServerConnection(Postbox(), LIMITS)
    core.receive(TO_DATA + b".\r\n")
    core.receive(b"x" * MAX_HELD_BYTES)
    with pytest.raises(LocalProtocolError):
        core.receive(b"x")


def test_what_is_held_of_an_endless_line_is_bounded() -> None:
    core = ServerConnection(Postbox(), LIMITS)
    for _ in range(100):
        assert core.receive(b"x" * 5000) == b""
        assert len(core._held) <= LIMITS.max_line_bytes
    assert core.receive(b"\r") == b""
    assert core.receive(b"\nNOOP\r\n") == b"500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n"


class Moody(Postbox):
    """Answers *answers[method]* where that is set."""

    def __init__(self, **answers: Reply) -> None:
        super().__init__()
        self.answers = answers

    def mail(self, sender: str, parameters: Parameters) -> Reply:
        return self.answers.get("mail") or super().mail(sender, parameters)

    def rcpt(self, address: str, parameters: Parameters) -> Reply:
        return self.answers.get("rcpt") or super().rcpt(address, parameters)

    def data(self) -> Reply:
        return self.answers.get("data") or super().data()

    def body(self, chunk: bytes) -> Reply | None:
        return self.answers.get("body") or super().body(chunk)

    def end(self) -> Reply | None:
        super().end()
        return self.answers.get("end")


NO = reply(451, "4.3.0 not now")
GONE = reply(421, "4.3.2 closing")


@pytest.mark.parametrize("method", ["mail", "rcpt", "data"])
def test_refused_by_the_handler(method: str) -> None:
    core = ServerConnection(Moody(**{method: NO}), LIMITS)
    out = core.receive(TO_DATA)
    assert NO.encode() in out
    assert core.phase is Phase.COMMANDS
    assert core.receive(b"RSET\r\nNOOP\r\n").count(b"250 ") == 2
    core = ServerConnection(Moody(**{method: GONE}), LIMITS)
    assert core.receive(TO_DATA + b"NOOP\r\n").endswith(GONE.encode())
    assert core.closing


def test_refused_body_is_thrown_away_and_answered_at_its_dot() -> None:
    postbox = Moody(body=NO)
    core = ServerConnection(postbox, LIMITS)
    core.receive(TO_DATA)
    assert core.receive(b"text\r\n") == b""
    assert (postbox.resets, postbox.open) == (1, None), "told at once, so that nothing is kept"
    assert core.receive(b"NOOP\r\n") == b""
    assert core.receive(b".\r\nMAIL FROM:<a@example.com>\r\n") == NO.encode() + SENDER_OK.encode()
    assert postbox.resets == 1


def test_the_end_may_be_answered_at_once() -> None:
    core = ServerConnection(Moody(end=NO), LIMITS)
    assert core.receive(TO_DATA + b".\r\nNOOP\r\n").endswith(GO_AHEAD.encode() + NO.encode() + b"250 2.0.0 Ok\r\n")
    core = ServerConnection(Moody(end=GONE), LIMITS)
    assert core.receive(TO_DATA + b".\r\nNOOP\r\n").endswith(GONE.encode())
    assert core.closing


@pytest.mark.parametrize(
    ("sent", "resets"), [(b"", 0), (b"HELO c\r\n", 0), (TO_DATA[:-6], 1), (TO_DATA, 1), (TO_DATA + b"text", 1), (TO_DATA + b".\r\n", 0)]
)
def test_connections_end_anywhere(sent: bytes, resets: int) -> None:
    for way in ("lost", "abort"):
        postbox = Postbox()
        core = ServerConnection(postbox, LIMITS)
        core.receive(sent)
        if way == "lost":
            core.lost()
        else:
            assert core.abort(GONE) == GONE.encode()
            assert core.abort(GONE) == b""
        assert core.closing
        assert postbox.resets == resets, way
        assert core.receive(b"NOOP\r\n") == b""


def test_refused_at_the_door() -> None:
    core = ServerConnection(Postbox(), LIMITS)
    assert core.open(reply(521, "5.3.2 no service")) == b"521 5.3.2 no service\r\n"
    assert core.closing
    assert core.receive(b"QUIT\r\n") == b""


def test_recipients_have_a_hard_bound() -> None:
    client = Client(hard_max_rcpt=3, max_commands_without_mail=10)
    client.exchange(b"HELO c\r\nMAIL FROM:<a@example.com>\r\n")
    out = client.exchange(b"RCPT TO:<b@example.net>\r\n" * 50)
    assert out == RECIPIENT_OK.encode() * 3 + b"452 4.5.3 Too many recipients\r\n" * 47, "and asking for more is no offence"


FRAGMENTS = st.sampled_from(
    [
        b"HELO c\r\n",
        b"EHLO c\r\n",
        b"MAIL FROM:<a@example.com>\r\n",
        b"MAIL FROM:<a@example.com> SIZE=50\r\n",
        b"RCPT TO:<b@example.net>\r\n",
        b"RCPT TO:<b@x>\r\n",
        b"DATA\r\n",
        b"text\r\n",
        b"..\r\n",
        b".\r\n",
        b".",
        b"\r",
        b"\n",
        b"\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"BDAT 0\r\n",
        b"BDAT 5\r\n",
        b"BDAT 7 LAST\r\n",
        b"BDAT 2 LAST\r\n..",
        b"BDAT x\r\n",
        b"x" * 300,
        TO_DATA,
        TO_DATA + b"text\r\n.\r\n",
    ]
)
STREAMS = st.lists(FRAGMENTS | st.binary(max_size=8), max_size=25).map(b"".join)


def hold(pieces: list[bytes]) -> tuple[bytes, object, bool]:
    client = Client(max_line_bytes=200, max_errors=5, max_commands_without_mail=20, max_message_size_bytes=400, chunking=1)
    out = b"".join([client.exchange(piece) for piece in pieces])
    return out, client.postbox.mails, client.core.closing


@pytest.mark.usefixtures("loops")
def test_any_input_in_any_cut() -> None:
    @given(STREAMS, st.lists(st.integers(0, 2000), max_size=8))
    @settings(max_examples=250)
    def check(stream: bytes, cuts: list[int]) -> None:
        whole = hold([stream])
        assert REPLIES.fullmatch(whole[0]), "nothing but well-formed replies leaves"
        at = sorted({0, len(stream), *[cut for cut in cuts if cut < len(stream)]})
        assert hold([stream[a:b] for a, b in pairwise(at)] or [b""]) == whole
        assert hold([stream[i : i + 1] for i in range(len(stream))] or [b""]) == whole

    check()


@given(STREAMS)
def test_no_mail_holds_a_bare_line_end_or_an_early_end(stream: bytes) -> None:
    _, mails, _ = hold([TO_DATA, stream])
    assert isinstance(mails, list)
    for mail in mails:
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n", mail.wire)
        assert b"\r\n.\r\n" not in b"\r\n" + mail.wire
