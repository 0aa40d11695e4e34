"""The client core against a scripted peer: every stage by every kind of reply, in any cut, with and without PIPELINING."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LocalProtocolError, RemoteProtocolError
from engine.mail.reply import Reply
from engine.smtp.client import ClientConnection, Event, Finished, Lost, Ready, Refused, SendBody, Stage, Transaction

OFFERS = b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 50000\r\n250-8BITMIME\r\n250 DSN\r\n"
PLAIN = b"250 mx.example\r\n"
ONE = Transaction("a@example.com", ("b@example.net",), 1000, False)
THREE = Transaction("a@example.com", ("b@example.net", "c@example.net", "d@example.net"), 1000, False)


def ready(offers: bytes = OFFERS, **options: bool) -> ClientConnection:
    """A connection at IDLE."""
    client = ClientConnection("me.example", **options)
    assert client.receive(b"220 mx.example\r\n") == []
    assert client.to_send() == b"EHLO me.example\r\n"
    (event,) = client.receive(offers)
    assert isinstance(event, Ready)
    assert client.stage is Stage.IDLE
    return client


def start(client: ClientConnection, transaction: Transaction) -> bytes:
    client.start(transaction)
    return client.to_send()


def fates(event: Event) -> list[tuple[int, Stage]]:
    assert isinstance(event, Finished)
    return [(outcome.reply.code, outcome.stage) for outcome in event.replies]


# --- greeting and EHLO -----------------------------------------------------------------------------------------------------------------


def test_extensions_are_read() -> None:
    client = ready(b"250-mx.example says hi\r\n250-pipelining\r\n250-SIZE  1000\r\n250 AUTH LOGIN PLAIN\r\n")
    assert client.extensions == {"PIPELINING": "", "SIZE": "1000", "AUTH": "LOGIN PLAIN"}


@pytest.mark.parametrize("code", [421, 450, 500, 521, 554])
def test_refused_greeting(code: int) -> None:
    client = ClientConnection("me.example")
    assert client.receive(b"%d-no\r\n%d not here\r\n" % (code, code)) == [Refused(Stage.GREETING, Reply(code, ("no", "not here")))]
    assert client.stage is Stage.CLOSED
    assert client.to_send() == b""
    client.quit()
    assert client.to_send() == b"QUIT\r\n"


@pytest.mark.parametrize("code", [500, 502, 504, 550])
def test_ehlo_refused_then_helo(code: int) -> None:
    client = ClientConnection("me.example")
    client.receive(b"220-mx\r\n220 hi\r\n")
    client.to_send()
    assert client.receive(b"%d what\r\n" % code) == []
    assert (client.to_send(), client.stage) == (b"HELO me.example\r\n", Stage.HELO)
    assert client.receive(b"250 mx\r\n") == [Ready({})]
    assert start(client, ONE) == b"MAIL FROM:<a@example.com>\r\n"


def test_ehlo_and_helo_refused() -> None:
    client = ClientConnection("me.example")
    client.receive(b"220 hi\r\n")
    assert client.receive(b"451 later\r\n") == [Refused(Stage.EHLO, Reply(451, ("later",)))]
    client = ClientConnection("me.example")
    client.receive(b"220 hi\r\n")
    client.receive(b"500 what\r\n")
    assert client.receive(b"550 no\r\n") == [Refused(Stage.HELO, Reply(550, ("no",)))]


# --- what is written -------------------------------------------------------------------------------------------------------------------


def test_pipelined_group_and_parameters() -> None:
    transaction = Transaction("", ("b@example.net", "c@example.net"), 5, True, "HDRS", "id 1", ("NOTIFY=NEVER", ""))
    assert start(ready(), transaction) == (
        b"MAIL FROM:<> SIZE=5 BODY=8BITMIME RET=HDRS ENVID=id+201\r\nRCPT TO:<b@example.net> NOTIFY=NEVER\r\nRCPT TO:<c@example.net>\r\nDATA\r\n"
    )
    assert start(ready(PLAIN), transaction) == b"MAIL FROM:<>\r\n", "nothing that was not offered; 8-bit content goes unchanged"
    assert start(ready(ignore_8bitmime=True, ignore_pipelining=True), ONE) == b"MAIL FROM:<a@example.com> SIZE=1000\r\n"
    assert start(ready(), ONE).startswith(b"MAIL FROM:<a@example.com> SIZE=1000\r\n"), "no BODY= for 7-bit content"


def test_dsn_is_not_asked_for_where_it_is_ignored() -> None:
    transaction = Transaction("a@b", ("b@example.net",), 5, False, "HDRS", "id", ("NOTIFY=NEVER",))
    assert start(ready(ignore_dsn=True), transaction) == b"MAIL FROM:<a@b> SIZE=5\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"


@pytest.mark.parametrize(
    ("greeting", "masked"),
    [
        (b"220 **********\r\n", True),
        (b"220-mx\r\n220 ***2****0**200*********\r\n", True),
        (b"220-a\r\n220 b************\r\n", True),
        (b"220 mx ****\r\n", False),
    ],
)
def test_a_greeting_that_is_starred_out_is_noticed(greeting: bytes, masked: bool) -> None:
    client = ClientConnection("me.example")
    client.receive(greeting)
    assert client.masked is masked


@pytest.mark.parametrize("address", ["a\r\nRSET@b", "a\n@b", "\xe4@b", "a\0@b"])
def test_addresses_that_cannot_stand_in_a_command(address: str) -> None:
    client = ready()
    with pytest.raises(LocalProtocolError):
        client.start(Transaction(address, ("b@c",), 1, False))
    with pytest.raises(LocalProtocolError):
        client.start(Transaction("", (address,), 1, False))
    assert (client.stage, client.to_send()) == (Stage.IDLE, b"")


def test_calls_out_of_order() -> None:
    client = ready()
    with pytest.raises(LocalProtocolError):
        client.end_of_body()
    with pytest.raises(LocalProtocolError):
        client.start(Transaction("", (), 1, False))
    client.start(ONE)
    with pytest.raises(LocalProtocolError):
        client.start(ONE)
    with pytest.raises(LocalProtocolError):
        client.quit()
    with pytest.raises(LocalProtocolError):
        ClientConnection("me.example").start(ONE)


@pytest.mark.parametrize("offers", [OFFERS, b"250-mx\r\n250 SIZE 50000\r\n"], ids=["pipelining", "stepwise"])
def test_message_over_the_announced_size(offers: bytes) -> None:
    client = ready(offers)
    assert start(client, Transaction("a@b", ("c@d", "e@f"), 50001, False)) == b"RSET\r\n"
    (event,) = client.receive(b"250 ok\r\n")
    assert fates(event) == [(552, Stage.MAIL)] * 2
    assert isinstance(event, Finished)
    assert event.replies[0].reply.status == "5.3.4"
    assert start(client, Transaction("a@b", ("c@d",), 50000, False)).startswith(b"MAIL ")


# --- whole transactions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offers", [OFFERS, PLAIN], ids=["pipelining", "stepwise"])
@pytest.mark.usefixtures("loops")
def test_delivered_twice_on_one_connection(offers: bytes) -> None:
    client = ready(offers)
    for _ in range(2):
        talk = Talk(client, [b"250 s", b"250 r", b"550 5.1.1 r", b"251 r", b"354 go", b"250 2.0.0 queued"])
        talk.run(THREE)
        assert talk.accepted == (0, 2)
        assert fates(talk.events[-1]) == [(250, Stage.FINAL_DOT), (550, Stage.RCPT), (250, Stage.FINAL_DOT)]
        assert isinstance(talk.events[-1], Finished)
        assert talk.events[-1].accepted_final
        assert client.stage is Stage.IDLE
    client.quit()
    assert (client.to_send(), client.stage) == (b"QUIT\r\n", Stage.QUIT)
    assert client.receive(b"221 bye\r\n") == []
    assert client.stage is Stage.CLOSED


class Talk:
    """A peer that answers each command with the next of *replies*, whatever it is; "" ends the connection."""

    def __init__(self, client: ClientConnection, replies: list[bytes]) -> None:
        self.client = client
        self.replies = replies
        self.events: list[Event] = []
        self.sent = b""
        self.accepted: tuple[int, ...] = ()
        self.lost: Lost | None = None

    def run(self, transaction: Transaction) -> None:
        self.client.start(transaction)
        unanswered = 0
        while True:
            data = self.client.to_send()
            self.sent += data
            unanswered += data.count(b"\r\n")
            if not unanswered:
                return
            unanswered -= 1
            reply = self.replies.pop(0)
            if not reply:
                self.lost = self.client.lost()
                return
            for event in self.client.receive(reply + b"\r\n"):
                self.events.append(event)
                if isinstance(event, SendBody):
                    self.accepted = event.accepted
                    self.sent += b"BODY" + self.client.end_of_body()
                    unanswered += 1
            if self.client.stage is Stage.CLOSED:
                return


S, R, D, F = Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT
TABLE = [
    # name, replies with PIPELINING, replies without, fates, whether a RSET comes before the next MAIL
    ("mail refused", "550 503 503 503 503", "550", [(550, S)] * 3, False),
    ("mail deferred", "450 503 503 503 503", "450", [(450, S)] * 3, False),
    ("mail refused, recipients accepted all the same", "550 250 250 250 503", "550", [(550, S)] * 3, False),
    ("mail refused, data accepted", "550 503 503 503 354 554", "550", [(550, S)] * 3, False),
    ("mail refused, data and an empty message accepted", "550 250 250 250 354 250", "550", [(550, S)] * 3, False),
    ("recipients refused", "250 550 451 554 554", "250 550 451 554", [(550, R), (451, R), (554, R)], True),
    ("recipients refused, data accepted", "250 550 451 554 354 250", "250 550 451 554", [(550, R), (451, R), (554, R)], None),
    ("some refused", "250 250 450 550 354 250", "250 250 450 550 354 250", [(250, F), (450, R), (550, R)], False),
    ("too many recipients", "250 250 452 452 354 250", "250 250 452 452 354 250", [(250, F), (452, R), (452, R)], False),
    ("too many recipients, 552", "250 250 250 552 354 250", "250 250 250 552 354 250", [(250, F), (250, F), (552, R)], False),
    ("data refused", "250 250 550 250 451", "250 250 550 250 451", [(451, D), (550, R), (451, D)], True),
    ("data refused for good", "250 250 250 250 554", "250 250 250 250 554", [(554, D)] * 3, True),
    ("message refused", "250 250 550 250 354 554", "250 250 550 250 354 554", [(554, F), (550, R), (554, F)], False),
    ("message deferred", "250 250 250 250 354 452", "250 250 250 250 354 452", [(452, F)] * 3, False),
]


@pytest.mark.parametrize(("replies", "stepwise", "expected", "reset"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "stepwise"])
def test_outcomes(pipelining: bool, replies: str, stepwise: str, expected: list[tuple[int, Stage]], reset: bool | None) -> None:
    client = ready(OFFERS, ignore_pipelining=not pipelining)
    talk = Talk(client, [code.encode() + b" text" for code in (replies if pipelining else stepwise).split()])
    talk.run(THREE)
    assert talk.replies == [], "every reply was awaited"
    assert len([event for event in talk.events if isinstance(event, Finished)]) == 1
    final = talk.events[-1]
    assert fates(final) == expected
    assert isinstance(final, Finished)
    assert final.accepted_final == ((250, F) in expected)
    assert (b"BODY" in talk.sent) == any(stage is F for _, stage in expected), "no body where nobody stands"
    assert client.stage is Stage.IDLE
    sent = start(client, ONE)
    assert sent.startswith(b"RSET\r\n") == (not pipelining if reset is None else reset)
    if sent.startswith(b"RSET\r\n"):
        client.receive(b"250 ok\r\n")
        if not pipelining:
            assert client.to_send().startswith(b"MAIL ")
    assert str(client.stage) == "Stage.MAIL", "and the next transaction is under way"


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "stepwise"])
@pytest.mark.parametrize(
    ("before", "stage", "expected"),
    [
        ("", S, [(421, S)] * 3),
        ("250", R, [(421, R)] * 3),
        ("250 550", R, [(550, R), (421, R), (421, R)]),
        ("250 250 550 250", D, [(421, D), (550, R), (421, D)]),
        ("250 250 550 250 354", F, [(421, F), (550, R), (421, F)]),
    ],
)
def test_421_in_place_of_any_reply(pipelining: bool, before: str, stage: Stage, expected: list[tuple[int, Stage]]) -> None:
    client = ready(OFFERS, ignore_pipelining=not pipelining)
    talk = Talk(client, [code.encode() + b" text" for code in [*before.split(), "421"]])
    talk.run(THREE)
    finished, refused = talk.events[-2:]
    assert fates(finished) == expected
    assert refused == Refused(stage, Reply(421, ("text",)))
    assert client.stage is Stage.CLOSED


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "stepwise"])
@pytest.mark.parametrize(
    ("before", "stage", "decided"),
    [
        ("", S, [None] * 3),
        ("250", R, [None] * 3),
        ("250 550", R, [550, None, None]),
        ("250 250 550 250", D, [None, 550, None]),
        ("250 250 550 250 354", F, [None, 550, None]),
    ],
)
def test_lost_at_every_stage(pipelining: bool, before: str, stage: Stage, decided: list[int | None]) -> None:
    client = ready(OFFERS, ignore_pipelining=not pipelining)
    talk = Talk(client, [*[code.encode() + b" text" for code in before.split()], b""])
    talk.run(THREE)
    assert talk.lost is not None
    assert talk.lost.stage is stage
    assert [outcome.reply.code if outcome else None for outcome in talk.lost.replies] == decided
    assert talk.lost.unknown == (stage is F)
    assert client.lost() == Lost(Stage.CLOSED, ()), "said once"


def test_lost_outside_transactions() -> None:
    assert ClientConnection("me").lost() == Lost(Stage.GREETING, ())
    assert ready().lost() == Lost(Stage.IDLE, ())
    client = ready()
    client.start(ONE)
    client.receive(b"550 no\r\n250 ok\r\n354 go\r\n")
    assert client.to_send().endswith(b"\r\n.\r\n")
    lost = client.lost()
    assert (lost.stage, lost.unknown) == (F, False), "the lone dot of a refused transaction leaves nothing open"
    assert [outcome.reply.code if outcome else None for outcome in lost.replies] == [550]


def test_lost_while_the_body_is_sent() -> None:
    client = ready()
    client.start(ONE)
    client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    lost = client.lost()
    assert (lost.stage, lost.unknown) == (Stage.BODY, False), "without a final dot nobody has the message"


@pytest.mark.parametrize("code", [421, 452, 552])
def test_refused_while_the_body_is_sent(code: int) -> None:
    client = ready()
    client.start(ONE)
    client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert client.receive(b"%d" % code) == []
    finished, refused = client.receive(b" enough\r\n")
    assert fates(finished) == [(code, Stage.BODY)]
    assert refused == Refused(Stage.BODY, Reply(code, ("enough",)))
    assert client.stage is Stage.CLOSED


# --- breaches --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reply"),
    [
        (b"", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"", b"250 ok\r\n"),
        (b"", b"220 again\r\n"),
        (b"", b"550 no\r\n"),
        (b"MAIL", b"\r\n"),
        (b"MAIL", b"250-ok\r\n251 ok\r\n"),
        (b"MAIL", b"354 go\r\n"),
        (b"MAIL", b"250 ok\r\n334 x\r\n"),
        (b"MAIL", b"250 ok\r\n250 ok\r\n250 ok\r\n"),
        (b"MAIL", b"250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n"),
        (b"MAIL", b"250 ok\r\n250 ok\r\n354 go\r\n2"),
        (b"BODY", b"250 queued\r\n"),
        (b"BODY", b"354 go\r\n"),
        (b"DOT", b"354 go\r\n"),
    ],
)
def test_breaches(given: bytes, reply: bytes) -> None:
    client = ready()
    if given:
        client.start(ONE)
    if given in (b"BODY", b"DOT"):
        client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    if given == b"DOT":
        client.end_of_body()
    with pytest.raises(RemoteProtocolError):
        client.receive(reply)
    lost = client.lost()
    assert len(lost.replies) == (1 if given else 0), "what was decided can still be asked"
    with pytest.raises(RemoteProtocolError):
        client.receive(b"250 ok\r\n")


def test_a_breach_behind_an_event_does_not_lose_it() -> None:
    client = ready()
    client.start(ONE)
    client.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    client.end_of_body()
    (event,) = client.receive(b"250 queued\r\n250 and again\r\n")
    assert fates(event) == [(250, F)]
    assert client.stage is Stage.CLOSED
    with pytest.raises(RemoteProtocolError):
        client.receive(b"x")


def test_421_at_idle() -> None:
    client = ready()
    assert client.receive(b"42") == []
    assert client.receive(b"1 idle too long\r\n") == [Refused(Stage.IDLE, Reply(421, ("idle too long",)))]
    assert client.receive(b"anything") == [], "what a closed connection hears does not matter"


def test_replies_without_end_are_bounded() -> None:
    client = ready()
    client.start(ONE)
    with pytest.raises(RemoteProtocolError):
        for _ in range(100):
            client.receive(b"250-" + b"x" * 5000)


def test_replies_may_end_in_lf_and_be_empty() -> None:
    client = ready()
    client.start(ONE)
    client.receive(b"250\n250-a\n250\r\n354\r\n")
    client.end_of_body()
    (event,) = client.receive(b"550-first\n550 5.7.1 \xe4\r\n")
    assert isinstance(event, Finished)
    assert event.replies[0].reply == Reply(550, ("first", "5.7.1 \xe4"))


# --- properties ------------------------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [b"250 ok\r\n", b"250-a\r\n", b"550 no\r\n", b"451 later\r\n", b"354 go\r\n", b"421 bye\r\n", b"\r\n", b"25", b"0 x\r\n", b"334 x\r\n"]
)


def hear(pieces: list[bytes], pipelining: bool) -> tuple[list[Event], bytes, object]:
    """(events, bytes that we sent, how it ended) for a peer that says *pieces* regardless."""
    client = ready(OFFERS, ignore_pipelining=not pipelining)
    client.start(THREE)
    events: list[Event] = []
    sent = client.to_send()
    for piece in pieces:
        try:
            heard = client.receive(piece)
        except RemoteProtocolError:
            break
        for event in heard:
            events.append(event)
            if isinstance(event, SendBody):
                sent += client.end_of_body()
        sent += client.to_send()
    finished = [event for event in events if isinstance(event, Finished)]
    lost = client.lost()
    assert len(finished) + bool(lost.replies) == 1, "exactly one end"
    for event in finished:
        assert len(event.replies) == 3
        assert event.accepted_final == any(outcome.reply.positive for outcome in event.replies)
        assert all(outcome.stage is F for outcome in event.replies if outcome.reply.positive), "only the final dot delivers"
    return events, sent, lost.replies


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "stepwise"])
@given(st.lists(PIECES | st.binary(max_size=3), max_size=12), st.integers(0, 100))
@settings(max_examples=200)
def test_any_peer_leaves_one_end(pipelining: bool, replies: list[bytes], cut: int) -> None:
    hear(replies, pipelining)
    stream = b"".join(replies)
    hear([stream[:cut], stream[cut:]], pipelining)
    hear([stream[i : i + 1] for i in range(len(stream))], pipelining)


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
@pytest.mark.usefixtures("loops")
def test_replies_may_come_in_any_cut(row: tuple[str, str, str, object, object]) -> None:
    # a peer may not answer the body before it has it: that reply comes by itself
    codes = row[1].split()
    group = b"".join(code.encode() + b"-more\r\n" + code.encode() + b" text\r\n" for code in codes[:5])
    last = [code.encode() + b" text\r\n" for code in codes[5:]]
    whole = hear([group, *last], True)
    assert hear([group[i : i + 1] for i in range(len(group))] + last, True) == whole
    for at in range(1, len(group)):
        assert hear([group[:at], group[at:], *last], True) == whole
