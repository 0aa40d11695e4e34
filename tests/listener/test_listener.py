"""The listener on loopback: what clients of all manners meet."""

from __future__ import annotations

import socket

import pytest

from engine.listener import connection
from engine.listener.connection import CLOSING_S, plain_ip
from engine.listener.refusals import LINES_PER_TICK, RefusalLog
from engine.reception.intake import MEMORY_SHORT_BYTES
from engine.reception.reception import MEMORY_FULL_BYTES
from engine.smtp.handler import Phase
from tests.listener.live import Live
from tests.policy.test_access import TRICKS
from tests.reception.fakes import FakeLog, client, config

MESSAGE = b"From: a@b.example\r\nSubject: x\r\n\r\n..dots\r\nbody\r\n"


def test_a_message_comes_in() -> None:
    with Live() as live, live.client() as peer:
        assert peer.greet().startswith("354")
        peer.send(MESSAGE + b".\r\n")
        answer = peer.reply()
        assert answer.startswith("250 2.6.0 message received, queued as ")
        assert list(live.segments.bodies.values()) == [MESSAGE]
        assert f"id={answer.rpartition(' ')[2]} " in live.log.text("accepted")
        (message,) = live.link.messages()
        assert b"from client.example ([127.0.0.1])" in message.prefix
        assert b" with ESMTP id " in message.prefix
        assert peer.say("QUIT").startswith("221")
        assert peer.reply() == ""


def test_many_pipelined_messages_each_answered_in_order() -> None:
    with Live() as live, live.client() as peer:
        peer.reply()
        one = b"MAIL FROM:<>\r\nRCPT TO:<r@one.example>\r\nDATA\r\n"
        peer.send(b"EHLO x\r\n" + (one + MESSAGE + b".\r\n") * 50 + b"QUIT\r\n")
        peer.reply()
        ids = []
        for _ in range(50):
            assert [peer.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            ids.append(peer.reply().rpartition(" ")[2])
        assert peer.reply().startswith("221")
        assert len(set(ids)) == 50
        assert len(live.link.accepted) == 50


def test_no_answer_before_the_spool_has_spoken() -> None:
    with Live() as live, live.client() as peer:
        live.link.holding = True
        peer.greet()
        peer.send(MESSAGE + b".\r\nNOOP\r\n")
        live.until(lambda: live.link.held)
        peer.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.socket.recv(1)
        peer.socket.settimeout(10)
        live.do(live.link.release)
        assert peer.reply().startswith("250 2.6.0")
        assert peer.reply().startswith("250 2.0.0")


@pytest.mark.parametrize(("reason", "answer"), [("disk low: 1 MB free", "452 4.3.1"), ("sync failed: segment", "451 4.3.0")])
def test_the_spool_refuses(reason: str, answer: str) -> None:
    with Live() as live, live.client() as peer:
        live.link.reply = reason
        peer.greet()
        peer.send(MESSAGE + b".\r\n")
        assert peer.reply().startswith(answer)
        live.link.reply = None
        assert peer.say("MAIL FROM:<>")[:3] == ("452" if answer.startswith("452") else "250")
        live.do(live.listener.reception.tick)
        assert peer.say("RSET", "MAIL FROM:<>", "RCPT TO:<r@one.example>", "DATA").startswith("354")
        peer.send(MESSAGE + b".\r\n")
        assert peer.reply().startswith("250 2.6.0")


def test_a_refusal_known_at_once_is_answered_at_once() -> None:
    with Live() as live, live.client() as peer:
        peer.greet()
        peer.send(b"X-Virtual-MTA: nope\r\n\r\nx\r\n.\r\nNOOP\r\n")
        assert peer.reply() == "550 5.5.0 specified Virtual MTA 'nope' does not exist"
        assert peer.reply().startswith("250")
        assert not live.segments.bodies


def test_large_message_in_small_pieces_of_time() -> None:
    line = b"y" * 4998 + b"\r\n"
    with Live() as live, live.client() as peer:
        peer.greet()
        peer.send(b"A: b\r\n\r\n")
        for _ in range(1000):
            peer.send(line)
        peer.send(b".\r\n")
        assert peer.reply().startswith("250 2.6.0")
        assert list(live.segments.bodies.values()) == [b"A: b\r\n\r\n" + line * 1000]
        assert live.segments.large[0].state == "finished"


@pytest.mark.parametrize("how", ["close", "reset", "bare line feed", "too big"])
def test_large_message_aborted_midway(how: str) -> None:
    with Live(max_message_size_bytes=1_000_000 if how == "too big" else 0) as live, live.client() as peer:
        peer.greet()
        peer.send(b"A: b\r\n\r\n" + b"z" * 400_000)
        live.until(lambda: live.segments.large)
        if how == "close":
            peer.close()
        elif how == "reset":
            peer.abort()
        else:
            peer.send(b"\r\nbare\nline\r\n.\r\n" if how == "bare line feed" else b"z" * 1_000_000 + b"\r\n.\r\n")
            assert peer.reply().startswith("550 5.6.0" if how == "bare line feed" else "552 5.3.4")
        live.until(lambda: live.segments.large[0].state == "aborted")
        assert not live.link.accepted


STAGES = [b"", b"EHLO", b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<r@one.example>\r\n", b"DATA\r\n", b"A: b\r\n\r\npart", b"\r\n."]


@pytest.mark.parametrize("stage", range(len(STAGES)))
@pytest.mark.parametrize("reset", [False, True])
def test_connection_lost_at_each_stage(stage: int, reset: bool) -> None:
    with Live(total=1) as live:
        peer = live.client()
        peer.reply()
        peer.send(b"".join(STAGES[: stage + 1]).replace(b"EHLOEHLO", b"EHLO"))
        if reset:
            peer.abort()
        else:
            peer.close()
        live.until(lambda: live.count.mine() == 0)
        assert not live.link.accepted
        with live.client() as other:
            assert other.greet().startswith("354")


@pytest.mark.parametrize("reset", [False, True])
def test_connection_lost_while_the_spool_works(reset: bool) -> None:
    with Live() as live:
        live.link.holding = True
        peer = live.client()
        peer.greet()
        peer.send(MESSAGE + b".\r\n")
        live.until(lambda: live.link.held)
        if reset:
            peer.abort()
        else:
            peer.close()
        live.do(live.link.release)
        live.until(lambda: live.count.mine() == 0)
        assert live.log.kinds() == ["accepted"]


def test_a_client_that_half_closes_hears_its_answer() -> None:
    with Live() as live, live.client() as peer:
        live.link.holding = True
        peer.greet()
        peer.send(MESSAGE + b".\r\n")
        peer.socket.shutdown(socket.SHUT_WR)
        live.until(lambda: live.link.held)
        live.do(live.link.release)
        assert peer.reply().startswith("250 2.6.0")
        assert peer.reply() == ""


@pytest.mark.parametrize("limit", ["total", "own"])
def test_too_many_connections(limit: str) -> None:
    with Live(total=2 if limit == "total" else 0, max_connections=2 if limit == "own" else 100) as live:
        first, second, third = live.client(), live.client(), live.client()
        assert first.reply().startswith("220")
        assert second.reply().startswith("220")
        assert third.reply().startswith("421 4.3.2")
        assert third.reply() == ""
        first.say("QUIT")
        live.until(lambda: live.count.mine() == 1)
        with live.client() as fourth:
            assert fourth.reply().startswith("220")
        for peer in (first, second, third):
            peer.close()


def test_no_service() -> None:
    with Live(smtp_service=False) as live, live.client() as peer:
        assert peer.reply().startswith("521 5.3.2")
        assert peer.reply() == ""


def test_too_many_recipients() -> None:
    with Live(max_rcpt_per_message=2) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO x", "MAIL FROM:<>")
        assert [peer.say(f"RCPT TO:<u{n}@one.example>")[:9] for n in range(3)] == ["250 2.1.5", "250 2.1.5", "452 4.5.3"]


@pytest.mark.parametrize(
    ("commands", "seconds", "last"),
    [
        ([], 301.0, "421 4.4.2"),
        (["EHLO x"], 301.0, "421 4.4.2"),
        (["EHLO x", "MAIL FROM:<>"], 301.0, "421 4.4.2"),
        (["EHLO x", "MAIL FROM:<>", "RCPT TO:<r@one.example>", "DATA"], 301.0, "421 4.4.2"),
        (["EHLO x"], connection.SESSION_TIME_S + 1, "421 4.4.2"),
    ],
)
def test_deadlines(commands: list[str], seconds: float, last: str) -> None:
    with Live() as live, live.client() as peer:
        peer.reply()
        peer.say(*commands)

        def later() -> None:
            live.listener.now_s += seconds
            live.listener._sweep()

        live.do(later)
        assert peer.reply().startswith(last)
        assert peer.reply() == ""


@pytest.mark.parametrize(("more", "last"), [(0.0, "250"), (connection.MESSAGE_TIME_S, "421 4.4.2")])
def test_a_transaction_outlasts_its_session_but_not_for_ever(more: float, last: str) -> None:
    with Live(smtp_command_timeout_s=1e9) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO x", "MAIL FROM:<>")

        def later() -> None:
            live.listener.now_s += connection.SESSION_TIME_S + more + 1
            live.listener._sweep()

        live.do(later)
        if last == "250":
            peer.send(b"NOOP\r\n")
        assert peer.reply().startswith(last)


def test_a_drip_of_data_ends() -> None:
    with Live(smtp_data_timeout_s=1e9) as live, live.client() as peer:
        peer.greet()

        def later() -> None:
            live.listener.now_s += connection.MESSAGE_TIME_S + 1
            live.listener._sweep()

        live.do(later)
        assert peer.reply().startswith("421 4.4.2")


@pytest.mark.parametrize("line", [b"NOOP", b"NOOP" + b"x" * 4000])
def test_a_drip_of_a_command_ends(line: bytes) -> None:
    """The time to say a command runs to its end: a byte of it now and then wins nothing."""
    with Live() as live, live.client() as peer:
        peer.reply()
        (core,) = live.do(lambda: [each._core for each in live.listener._connections])
        peer.send(line)
        live.until(lambda: core._overlong if len(line) > 100 else core._held)

        def later(seconds: float) -> None:
            live.listener.now_s += seconds
            live.listener._sweep()

        live.do(lambda: later(200.0))
        peer.send(b"\r")
        live.until(lambda: core._held.endswith(b"\r"))
        live.do(lambda: later(101.0))
        assert peer.reply().startswith("421 4.4.2")


def test_the_spool_takes_too_long() -> None:
    with Live() as live, live.client() as peer:
        live.link.holding = True
        peer.greet()
        peer.send(MESSAGE + b".\r\n")
        live.until(lambda: live.link.held)

        def later() -> None:
            live.listener.now_s += connection.SPOOL_WAIT_S + 1
            live.listener._sweep()

        live.do(later)
        assert peer.reply().startswith("451 4.3.0")
        live.do(live.link.release)
        live.link.holding = False
        assert peer.say("MAIL FROM:<>").startswith("250")


def test_drain_lets_transactions_finish() -> None:
    with Live() as live:
        idle, busy, begun = live.client(), live.client(), live.client()
        idle.reply()
        busy.greet()
        begun.reply()
        begun.say("EHLO x", "MAIL FROM:<>")
        live.do(live.listener.drain)
        assert idle.reply().startswith("421 4.3.2")
        with pytest.raises(OSError):
            live.client().reply()
        busy.send(MESSAGE + b".\r\n")
        assert busy.reply().startswith("250 2.6.0")
        assert busy.say("MAIL FROM:<>").startswith("421 4.3.2")
        assert begun.say("RSET").startswith("250")
        live.do(live.listener._sweep)
        assert begun.reply().startswith("421 4.3.2")
        live.join()
        for peer in (idle, busy, begun):
            peer.close()


def test_a_drain_lets_each_client_send_the_message_for_which_it_came() -> None:
    """And says 421 as an answer, where the client reads it: said unasked to one who is about to speak, it would cross his command."""
    with Live() as live, live.client() as fresh, live.client() as busy:
        busy.greet()
        busy.send(MESSAGE + b".\r\n")
        assert busy.reply().startswith("250 2.6.0")
        fresh.reply()
        fresh.say("EHLO x")
        live.do(live.listener.drain)
        live.do(live.listener._sweep)
        assert busy.say("MAIL FROM:<>").startswith("421 4.3.2")
        assert fresh.say("MAIL FROM:<>", "RCPT TO:<r@one.example>", "DATA").startswith("354")
        fresh.send(MESSAGE + b".\r\n")
        assert fresh.reply().startswith("250 2.6.0")
        assert fresh.say("MAIL FROM:<>").startswith("421 4.3.2")
        live.join()


def test_stop_ends_at_once() -> None:
    with Live() as live, live.client() as peer:
        peer.greet()
        live.do(live.listener.stop)
        live.join()
        assert not live.link.accepted


def test_a_client_that_reads_nothing_is_read_no_further() -> None:
    with Live() as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO x", "MAIL FROM:<>")
        peer.socket.settimeout(0.1)
        sent = 0
        flood = b"RCPT TO:<r@one.example>\r\n" * 3000
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                sent += peer.socket.send(flood)
        assert sent < 50 << 20


# --- relaying ---------------------------------------------------------------------------------------------------------------------------

SENDABLE = [address for address in TRICKS if address.isascii() and address.isprintable()]


def test_relay_tricks_over_the_wire() -> None:
    settings = config({"127.0.0.7": client(always_allow_relaying=False)})
    denied = []
    with Live(settings) as live:
        for address in SENDABLE:
            with live.client("127.0.0.7") as peer:
                peer.reply()
                answer = peer.say("EHLO x", "MAIL FROM:<s@sender.example>", f"RCPT TO:<{address}>")
                assert answer[0] == "5" or address == "@evil.example:victim@relay.example", address  # a source route is dropped (RFC 5321 §3.3)
                if answer.startswith("550 5.7.1"):
                    denied.append(address)
        assert len(denied) > 20
        assert "relaying denied" in live.log.text("refused")
        assert not live.link.accepted


def test_strangers_reach_postmaster_and_relay_domains_only() -> None:
    settings = config({"127.0.0.7": client(always_allow_relaying=False)})
    with Live(settings) as live, live.client("127.0.0.7") as peer:
        peer.reply()
        peer.say("HELO x", "MAIL FROM:<s@sender.example>")
        answers = {
            address: peer.say(f"RCPT TO:<{address}>")[:9]
            for address in (
                "postmaster", "Postmaster@mx.engine.example", "postmaster@[127.0.0.1]", "abuse@mx.engine.example", "u@relay.example",
                "u@mx.engine.example", "postmaster@[127.0.0.2]", "u@other.example",
            )
        }  # fmt: skip
        assert list(answers.values()) == ["250 2.1.5"] * 5 + ["550 5.1.1", "550 5.7.1", "550 5.7.1"]
        assert peer.say("DATA").startswith("354")
        peer.send(MESSAGE + b".\r\n")
        assert peer.reply().startswith("250")
        assert sorted(queue for queue, _ in live.link.recipients()) == ["corp.example/{default}", "relay.example/{default}"]
        assert b" with SMTP id " in live.link.messages()[0].prefix


def test_by_smtp_source_ip() -> None:
    settings = config(default_virtual_mta="by-smtp-source-ip")
    with Live(settings, address="127.0.0.11") as live, live.client() as peer:
        assert peer.reply().startswith("220 a.example ")
        peer.say("EHLO x", "MAIL FROM:<>", "RCPT TO:<r@one.example>", "DATA")
        peer.send(MESSAGE + b".\r\n")
        peer.reply()
        assert live.link.recipients()[0][0] == "one.example/a"


# --- small things -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "plain"), [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("fe80::1%eth0", "fe80::1"), ("2001:db8::1", "2001:db8::1")]
)
def test_plain_ip(ip: str, plain: str) -> None:
    assert plain_ip(ip) == plain


def test_refusals_are_bounded() -> None:
    log = FakeLog()
    refusals = RefusalLog(log)
    for _ in range(LINES_PER_TICK + 7):
        refusals.say("x")
    assert len(log.events) == LINES_PER_TICK
    refusals.tick()
    assert log.events[-1] == ("refused", "7 more, not logged one by one")
    refusals.tick()
    assert len(log.events) == LINES_PER_TICK + 1


@pytest.mark.parametrize(("flood", "last"), [(b"FOO\r\n", "421 4.7.0 Too many errors"), (b"FOO\n", "521 5.5.2 Bare CR or LF")])
def test_a_client_that_is_closed_on_while_it_sends_hears_why(flood: bytes, last: str) -> None:
    """A socket closed with input unread is reset, and a reset may overtake the last reply: so we say that we are done, and wait for the client."""
    with Live() as live, live.client() as peer:
        peer.reply()
        peer.send(flood * 200_000)
        answers = list(iter(peer.reply, ""))
        assert answers[-1].startswith(last)
        live.do(lambda: None)
        assert len(live.listener._connections) == 1
        peer.close()
        live.until(lambda: not live.listener._connections)


def test_a_client_that_never_stops_sending_is_cut_off() -> None:
    with Live() as live, live.client() as peer:
        peer.reply()
        peer.send(b"FOO\n")
        assert peer.reply().startswith("521 ") and peer.reply() == ""
        (connection,) = live.do(lambda: list(live.listener._connections))
        live.do(lambda: connection.tick(live.listener.now_s + CLOSING_S + 1, False))
        live.until(lambda: not live.listener._connections)


def test_a_fault_in_one_connection_costs_the_others_nothing() -> None:
    """Neither the sweep over all of them nor their count may stop at one that raises."""

    with Live(total=10) as live, live.client() as bad, live.client() as good:
        bad.reply()
        bad.say("EHLO x", "MAIL FROM:<>", "RCPT TO:<r@one.example>", "DATA")
        good.reply()
        port = bad.socket.getsockname()[1]
        (faulty,) = live.do(lambda: [each for each in live.listener._connections if each._transport.get_extra_info("peername")[1] == port])
        live.do(lambda: setattr(faulty._session, "client", None))
        live.do(live.listener.drain)
        assert good.reply().startswith("421 ")
        live.join()
        assert live.count.mine() == 0
        assert len(live.failures) == 2  # in its tick, and in its connection_lost
        live.failures.clear()


BODY = b"Subject: x\r\n\r\n" + b"x" * 30_000 + b"\r\n"


@pytest.mark.parametrize("end", ["stored", "refused", "bare", "too big", "closed", "reset", "hello", "large"])
def test_whatever_ends_a_message_gives_its_memory_back(end: str) -> None:
    with Live(config({"127.0.0.1": client(max_message_size_bytes=1 << 20)})) as live, live.client() as peer:
        reception = live.listener.reception
        live.link.reply = "disk" if end == "refused" else None
        peer.reply()
        peer.say("EHLO x", "MAIL FROM:<>", "RCPT TO:<r@one.example>", "RCPT TO:<s@one.example>")
        assert live.do(lambda: reception.held_bytes) > 1000
        if end in ("reset", "hello"):
            peer.say("RSET" if end == "reset" else "EHLO y")
        else:
            peer.say("DATA")
            peer.send(BODY)
            live.until(lambda: reception.held_bytes > 30_000)
            if end == "closed":
                peer.close()
                live.until(lambda: not live.listener._connections)
            else:
                peer.send({"bare": b"\n", "too big": BODY * 40, "large": BODY * 10}.get(end, b"") + b"\r\n.\r\n")
                assert peer.reply()[:3] == {"bare": "550", "refused": "452", "too big": "552"}.get(end, "250")
        assert live.do(lambda: reception.held_bytes) == 0


def test_a_recipient_given_again_holds_nothing_more() -> None:
    with Live() as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO x", "MAIL FROM:<>", "RCPT TO:<r@one.example>")
        held = live.do(lambda: live.listener.reception.held_bytes)
        assert peer.say("RCPT TO:<r@one.example>").startswith("250 ")
        assert live.do(lambda: live.listener.reception.held_bytes) == held


def test_while_memory_is_short_one_message_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.reception.reception.SHARE_BYTES", 1)
    with Live() as live, live.client() as greedy, live.client() as other:
        for peer in (greedy, other):
            peer.reply()
            assert peer.say("EHLO x", "MAIL FROM:<>").startswith("250 ")
        assert greedy.say("RCPT TO:<r@one.example>", "RCPT TO:<s@one.example>").startswith("250 ")
        live.do(lambda: setattr(live.listener.reception, "held_bytes", MEMORY_SHORT_BYTES + 1))
        assert greedy.say("RCPT TO:<t@one.example>").startswith("452 4.3.1")
        assert other.say("RCPT TO:<r@one.example>").startswith("250 ")


def test_recipients_are_held_only_while_there_is_memory() -> None:
    with Live() as live, live.client() as peer:
        peer.reply()
        assert peer.say("EHLO x", "MAIL FROM:<>", "RCPT TO:<r@one.example>").startswith("250 ")
        live.do(lambda: setattr(live.listener.reception, "held_bytes", MEMORY_FULL_BYTES + 10_000))
        assert peer.say("RCPT TO:<s@one.example>").startswith("452 4.3.1")
        assert peer.say("RSET", "MAIL FROM:<>").startswith("452 4.3.1")


def test_a_chunk_that_keeps_coming_is_not_idle() -> None:
    with Live(allow_chunking=True) as live, live.client() as client:
        assert client.reply().startswith("220 ")
        client.say("EHLO client.example", "MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>")
        client.send(b"BDAT 1000 LAST\r\nx")
        live.until(lambda: next(iter(live.listener._connections))._core.phase is Phase.CHUNK)

        def drip() -> None:
            (connection,) = live.listener._connections
            for _ in range(8):
                live.listener.now_s += 200.0
                connection.data_received(b"x")
                connection.tick(live.listener.now_s, False)
                assert not connection._core.closing

        live.do(drip)
        client.send(b"x" * 991)
        assert client.reply().startswith("250 2.6.0 ")
