"""Micro-benchmarks of engine.fastpath and of the protocol cores on top of it: one per function, on what mail really looks like.

pytest bench/test_fastpath.py --benchmark-only        ENGINE_FASTPATH=off for the plain twins
"""

from __future__ import annotations

import mmap

from pytest_benchmark.fixture import BenchmarkFixture

from engine import fastpath
from engine.mail.reply import Reply
from engine.smtp.client import ClientConnection, Finished, Transaction
from engine.smtp.extensions import Parameters
from engine.smtp.server import GO_AHEAD, RECIPIENT_OK, SENDER_OK, ServerConnection, ServerLimits

HEADER = (
    b"Received: from client.example.com (client.example.com [192.0.2.1])\r\n"
    b"\tby mx.example.org with ESMTP id 0123456789; Tue, 24 Nov 2026 10:00:00 +0000\r\n"
    b"From: Sender <sender@example.com>\r\nTo: Rcpt <rcpt@example.net>\r\nSubject: a benchmark\r\nMessage-ID: <1@example.com>\r\n"
    b"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\nx-virtual-mta: mta1\r\n\r\n"
)
BODY = HEADER + b"a line of text, as long as lines of text in mail are when somebody wraps them\r\n" * 120
WIRE = BODY + b".\r\n"
DOTS = b".\r\n" * 3400
QUEUED = Reply(250, ("2.6.0 message queued as 0123456789abcdef0123",))


def test_read_command(benchmark: BenchmarkFixture) -> None:
    assert benchmark(fastpath.read_command, b"RCPT TO:<recipient@example.net>\r\n", 0) == (33, b"RCPT", b"TO:<recipient@example.net>")


def test_scan_body(benchmark: BenchmarkFixture) -> None:
    assert benchmark(fastpath.scan_body, WIRE, 0, fastpath.BODY_START) == (len(WIRE), fastpath.BODY_START)


def test_scan_body_of_dots(benchmark: BenchmarkFixture) -> None:
    dots = fastpath.stuff(DOTS) + b".\r\n"
    assert benchmark(fastpath.scan_body, dots, 0, fastpath.BODY_START)[0] == len(dots)


def test_stuff(benchmark: BenchmarkFixture) -> None:
    assert benchmark(fastpath.stuff, BODY) == BODY


def test_stuff_dots(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(fastpath.stuff, DOTS)) == len(DOTS) // 3 * 4


def test_unstuff(benchmark: BenchmarkFixture) -> None:
    assert benchmark(fastpath.unstuff, BODY) == BODY


def test_has_8bit(benchmark: BenchmarkFixture) -> None:
    assert not benchmark(fastpath.has_8bit, BODY)


def test_find_fields(benchmark: BenchmarkFixture) -> None:
    end, fields = benchmark(fastpath.find_fields, BODY, (b"received", b"x-virtual-mta", b"date", b"message-id"))
    assert (end, len(fields)) == (len(HEADER), 4)


def test_parse_path(benchmark: BenchmarkFixture) -> None:
    assert benchmark(fastpath.parse_path, b"FROM:<sender@example.com> SIZE=1000", b"FROM:") == (b"sender@example.com", b"SIZE=1000")


def test_scan_reply(benchmark: BenchmarkFixture) -> None:
    assert benchmark(fastpath.scan_reply, b"250-mx.example.org\r\n250-PIPELINING\r\n250 8BITMIME\r\n", 0) == 50


def test_shared_add(benchmark: BenchmarkFixture) -> None:
    with mmap.mmap(-1, 256) as counters:
        assert benchmark(fastpath.shared_add, counters, 3, 0) == 0


class Sink:
    """A handler that takes everything."""

    def hello(self, name: str, extended: bool) -> None:
        pass

    def mail(self, sender: str, parameters: Parameters) -> Reply:
        return SENDER_OK

    def rcpt(self, address: str, parameters: Parameters) -> Reply:
        return RECIPIENT_OK

    def no_address(self) -> Reply | None:
        return None

    def data(self) -> Reply:
        return GO_AHEAD

    def body(self, chunk: bytes) -> Reply | None:
        return None

    def end(self) -> Reply | None:
        return None

    def reset(self) -> None:
        pass


def test_server_takes_one_message(benchmark: BenchmarkFixture) -> None:
    """A whole connection without PIPELINING: HELO, MAIL, RCPT, DATA, 10 KB in two reads, QUIT."""
    sink, limits = Sink(), ServerLimits("mx.example.org")
    first, second = WIRE[:5000], WIRE[5000:]

    def session() -> bool:
        core = ServerConnection(sink, limits)
        core.open()
        core.receive(b"HELO client.example.com\r\n")
        core.receive(b"MAIL FROM:<sender@example.com>\r\n")
        core.receive(b"RCPT TO:<recipient@example.net>\r\n")
        core.receive(b"DATA\r\n")
        core.receive(first)
        core.receive(second)
        core.answered(QUEUED)
        core.receive(b"QUIT\r\n")
        return core.closing

    assert benchmark(session)


def test_client_sends_one_message(benchmark: BenchmarkFixture) -> None:
    """A transaction with PIPELINING on an open connection."""
    client = ClientConnection("me.example.org")
    client.receive(b"220 mx\r\n")
    client.receive(b"250-mx\r\n250-PIPELINING\r\n250-SIZE 100000\r\n250 8BITMIME\r\n")
    client.to_send()

    def transaction() -> bool:
        client.start(Transaction("sender@example.com", ("recipient@example.net",), len(BODY), False))
        client.to_send()
        client.receive(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n")
        client.end_of_body()
        (event,) = client.receive(b"250 2.0.0 Ok: queued as 12345\r\n")
        return isinstance(event, Finished) and event.accepted_final

    assert benchmark(transaction)
