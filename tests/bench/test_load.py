"""The load pair counts exactly: what was sent, what arrived, how often, from where; and it does as it is told while it runs."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
from array import array
from pathlib import Path

import pytest

from bench.load import Load, Sent, Sink, Source, balance, percentiles


def run(load: Load, sink: Sink, directory: Path, **options: object) -> Sent:
    return Source(load, sink.port, directory, **options).finish(60)  # type: ignore[arg-type]


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize(("recipients", "domains", "per_connection", "size"), [(1, 1, 1, 10_240), (20, 3, 1, 100), (3, 2, 7, 1), (1, 1, 50, 200_000)])
def test_every_recipient_arrives_once(tmp_path: Path, pipeline: bool, recipients: int, domains: int, per_connection: int, size: int) -> None:
    load = Load(
        messages=100,
        sessions=8,
        recipients=recipients,
        domains=domains,
        pipeline=pipeline,
        per_connection=per_connection,
        size_bytes=size,
        deadline_s=60,
    )
    with Sink(tmp_path) as sink:
        sent = run(load, sink, tmp_path)
        assert sink.received() == (100, 100 * recipients, 100 * recipients)
        summary = sink.summary()
        found = balance(load, sent, sink.counts(), sink.times_us())
    assert (sent.accepted, sent.failed, sent.errors) == (100, 0, {})
    assert (found.lost, found.duplicate, found.unacknowledged) == (0, 0, 0)
    assert sink.counts() == b"\1" * (100 * recipients)
    assert (summary["without_bench_header"], summary["protocol_faults"], summary["unnumbered_recipients"]) == (0, 0, 0)
    assert summary["body_bytes"] >= 100 * size
    assert summary["peers"] == [{"ip": "127.0.0.1", "hello": "source.example", "connections": summary["connections"], "messages": 100}]


def test_what_comes_twice_is_counted_twice(tmp_path: Path) -> None:
    load = Load(messages=10, sessions=2, deadline_s=60)
    with Sink(tmp_path) as sink:
        run(load, sink, tmp_path)
        sent = run(load, sink, tmp_path)
        assert sink.summary()["duplicate_recipients"] == 10
        assert balance(load, sent, sink.counts(), sink.times_us()).duplicate == 10


def test_peers_are_told_apart_by_address_and_name(tmp_path: Path) -> None:
    with Sink(tmp_path, listen=("127.0.0.1:0", "127.0.0.2:0")) as sink:
        for number, address in enumerate(("127.0.0.11", "127.0.0.12")):
            run(Load(messages=5, sessions=1, deadline_s=60), sink, tmp_path, bind=[address], first=number * 5)
        run(Load(messages=5, sessions=1, deadline_s=60), sink, tmp_path, first=10)
        assert {(peer["ip"], peer["messages"]) for peer in sink.summary()["peers"]} == {("127.0.0.11", 5), ("127.0.0.12", 5), ("127.0.0.1", 5)}
        with socket.create_connection(("127.0.0.2", sink.ports[1]), timeout=10) as other:
            assert other.recv(100).startswith(b"220 ")


@pytest.mark.parametrize(
    ("stage", "error"),
    [("greeting", "greeting 451"), ("ehlo", "ehlo 451"), ("mail", "mail 451"), ("rcpt", "rcpt 451"), ("data", "data 451"), ("body", "body 451")],
)
def test_refusals_at_each_stage(tmp_path: Path, stage: str, error: str) -> None:
    with Sink(tmp_path, replies={stage: "451 4.3.0 later"}) as sink:
        sent = run(Load(messages=5, sessions=1, deadline_s=60), sink, tmp_path)
        assert sink.received()[0] == 0
        assert sink.summary()["refused_commands"] >= 5
    assert (sent.accepted, sent.failed) == (0, 5)
    assert sent.errors == {error: 5}


def send_one(sink: Sink) -> bool:
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as peer:
        try:
            peer.sendmail("a@b.example", ["u7@d0.example"], b"A: b\r\n\r\n.\r\n..\r\nlast\r\n")
        except smtplib.SMTPRecipientsRefused as refused:
            assert refused.recipients["u7@d0.example"][0] == 451
            return False
        return True


def test_sigusr2_and_the_fifo_turn_refusal_on_and_off(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        assert send_one(sink)
        os.kill(sink.pid, signal.SIGUSR2)
        sink.summary()  # answered behind the signal
        assert not send_one(sink)
        sink.command("accept")
        sink.command("report")
        assert send_until(sink)


def send_until(sink: Sink) -> bool:
    return any(send_one(sink) for _ in range(100))


def test_dots_and_binary_end_where_they_should(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink, socket.create_connection(("127.0.0.1", sink.port), timeout=10) as peer:
        stream = b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u1@d>\r\nDATA\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u2@d>\r\nDATA\r\n"
        stream += b"x\r\n..\r\n.x\r\n\n.\r\n\xff\r\n.\r\nQUIT\r\n"
        for value in stream:
            peer.sendall(bytes([value]))
        said = b""
        while data := peer.recv(4096):
            said += data
        assert said.endswith(b"354 go\r\n250 2.0.0 taken\r\n221 2.0.0 bye\r\n")
        sink.summary()
        assert sink.counts() == b"\0\1\1"


def test_too_many_connections_are_told_so(tmp_path: Path) -> None:
    with Sink(tmp_path, max_connections=1) as sink, socket.create_connection(("127.0.0.1", sink.port), timeout=10) as first:
        first.recv(100)
        with socket.create_connection(("127.0.0.1", sink.port), timeout=10) as second:
            assert second.recv(100).startswith(b"421 ")
        assert sink.summary()["refused_connections"] == 1


def test_a_delayed_reply_comes_late_and_whole(tmp_path: Path) -> None:
    with Sink(tmp_path, delays_ms={"body": 50}) as sink:
        sent = run(Load(messages=10, sessions=10, deadline_s=60), sink, tmp_path)
    assert sent.accept_us is not None
    assert sent.accept_us["p50"] >= 45_000


def test_retry_goes_on_with_new_numbers(tmp_path: Path) -> None:
    with Sink(tmp_path, replies={"body": "451 4.3.0 later"}) as sink:
        source = Source(Load(messages=5, sessions=1, retry=True, deadline_s=60), sink.port, tmp_path)
        while sink.summary()["refused_commands"] < 2:
            assert source.running()
        sink.command("accept")
        sent = source.finish(60)
        sink.summary()
        counts = sink.counts()
    assert sent.accepted == 5
    assert sent.accept_times_us is not None
    assert list(counts[: len(sent.accept_times_us)]) == [1 if time_us else 0 for time_us in sent.accept_times_us]
    assert counts.startswith(b"\0\0")


def test_balance_by_recipient() -> None:
    load = Load(messages=3, recipients=2)
    sent = Sent(2, 1, 1.0, 0, {}, {}, array("q", [100, 0, 300]))
    found = balance(load, sent, bytes([1, 2, 1, 0, 1, 0]), [150, 110, 90, 0, 900, 0])
    assert (found.lost, found.duplicate, found.unacknowledged) == (1, 1, 1)
    assert found.latency_us == {"p50": 50, "p99": 600, "max": 600}


def test_percentiles() -> None:
    assert percentiles([]) == {}
    assert percentiles(list(range(1, 101))) == {"p50": 51, "p99": 99, "max": 100}


def test_a_rate_makes_no_connections_that_carry_nothing(tmp_path: Path) -> None:
    with Sink(tmp_path) as sink:
        sent = run(Load(messages=100, size_bytes=100, sessions=50, rate=400, deadline_s=60), sink, tmp_path)
        assert (sent.accepted, sent.failed) == (100, 0)
        assert sink.summary()["connections"] == 100
    assert sent.seconds >= 0.24  # the last of them is due after 99/400 s
