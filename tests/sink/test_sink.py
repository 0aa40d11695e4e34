"""The sink: what it answers, what it counts, its latency; and the command, with a real process."""

from __future__ import annotations

import asyncio
import json
import signal
import smtplib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from engine.sink.behaviour import Behaviour, BehaviourError, Counts, Session, read_blacklist, read_replies
from engine.sink.listening import Sink
from engine.smtp.server import ServerConnection

MESSAGE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\nDATA\r\n"
BODY = b"Subject: x\r\n\r\nhello\r\n.\r\n"


def talk(behaviour: Behaviour, *said: bytes, seed: int = 1) -> tuple[list[str], Counts]:
    """(codes of the replies, counts) after these bytes."""
    counts = Counts()
    core = ServerConnection(Session(behaviour, counts, Random(seed)), behaviour.limits())
    out = core.open(behaviour.replies.get("greeting")) + b"".join(core.receive(part) for part in said)
    return [line[:3] for line in out.decode().splitlines() if line[3:4] == " "], counts


# --- what it answers --------------------------------------------------------------------------------------------------------------------------


def test_it_takes_everything_and_counts() -> None:
    codes, counts = talk(Behaviour(), b"EHLO me\r\n" + MESSAGE, BODY, MESSAGE, BODY, b"QUIT\r\n")
    assert codes == ["220", "250", *["250", "250", "250", "354", "250"] * 2, "221"]
    assert (counts.messages, counts.recipients, counts.refused, counts.bytes) == (2, 4, 0, 2 * (len(BODY) - 3))


@pytest.mark.parametrize(
    ("replies", "codes", "refused", "taken"),
    [
        (["mail=451 4.3.0 later"], ["220", "250", "451", "503", "503", "503"], 1, 0),
        (["rcpt=550 5.1.1 no"], ["220", "250", "250", "550", "550", "554"], 2, 0),
        (["data=421 4.3.2 bye"], ["220", "250", "250", "250", "250", "421"], 1, 0),
        (["dot=552 5.2.2 full"], ["220", "250", "250", "250", "250", "354", "552"], 1, 0),
        (["greeting=554 5.7.1 no"], ["554"], 0, 0),
        ([], ["220", "250", "250", "250", "250", "354", "250"], 0, 1),
    ],
)
def test_replies_as_told(replies: list[str], codes: list[str], refused: int, taken: int) -> None:
    said, counts = talk(Behaviour(replies=read_replies(replies)), b"EHLO me\r\n", MESSAGE, *([BODY] if not replies or "dot" in replies[0] else []))
    assert said == codes and (counts.refused, counts.messages) == (refused, taken)


@pytest.mark.parametrize("text", ["rcpt", "body=550 no", "rcpt=abc no", "rcpt=354 no", "rcpt=55 no", "rcpt=550 \xe4", "data=250 ok", "rcpt=550 a\rb"])
def test_replies_that_are_none(text: str) -> None:
    with pytest.raises(BehaviourError):
        read_replies([text])


def test_it_never_tires_of_refusing() -> None:
    behaviour = Behaviour(replies=read_replies(["rcpt=550 5.1.1 no"]))
    codes, counts = talk(behaviour, b"EHLO me\r\n", *[MESSAGE + b"RSET\r\n"] * 300)
    assert "421" not in codes and counts.refused == 600


def test_pipelining_is_offered_as_told() -> None:
    for offered in (True, False):
        assert (b"PIPELINING" in Behaviour(pipelining=offered).limits().ehlo) is offered


def test_chunking_is_offered_as_told() -> None:
    chunks = b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\nRCPT TO:<c@d.example>\r\nBDAT 6\r\n.\r\nQUIBDAT 3 LAST\r\nT\r\n"
    offering = Behaviour(chunking=True)
    assert offering.limits().ehlo.endswith(b"250-CHUNKING\r\n250 BINARYMIME\r\n")
    codes, counts = talk(offering, b"EHLO me\r\n" + chunks, MESSAGE, BODY)
    assert codes == ["220", "250", "250", "250", "250", "250", "250", "250", "250", "354", "250"]
    assert (counts.messages, counts.recipients, counts.bytes) == (2, 3, 9 + len(BODY) - 3)
    assert b"CHUNKING" not in Behaviour().limits().ehlo
    assert talk(Behaviour(), b"EHLO me\r\nBDAT 3 LAST\r\n")[0] == ["220", "250", "502"]


# --- the blacklist ----------------------------------------------------------------------------------------------------------------------------


def test_the_blacklist_holds_addresses_and_domains() -> None:
    listed = read_blacklist("# comment\n\nBad@One.example\n@two.example\r\nthree.example\n")
    behaviour = Behaviour(blacklist=listed)
    for address, on_it in [
        ("BAD@one.example", True),
        ("good@one.example", False),
        ("x@two.EXAMPLE", True),
        ("x@three.example", True),
        ("x@b", False),
    ]:
        assert behaviour.is_blacklisted(address) is on_it, address
    with pytest.raises(BehaviourError):
        read_blacklist("a b\n")


def test_so_many_percent_of_those_on_it_bounce() -> None:
    some = Behaviour(blacklist=frozenset({"d.example"}), bounce_percent=30.0)
    codes, counts = talk(some, b"EHLO me\r\nMAIL FROM:<>\r\n", b"RCPT TO:<u@d.example>\r\n" * 2000, b"RCPT TO:<u@e.example>\r\n" * 100)
    assert 500 < codes.count("550") < 700 and codes.count("550") == counts.refused
    every, _ = talk(
        Behaviour(blacklist=frozenset({"d.example"}), bounce_percent=100.0), b"EHLO me\r\nMAIL FROM:<>\r\n", b"RCPT TO:<u@d.example>\r\n" * 50
    )
    assert every.count("550") == 50
    everybody, _ = talk(Behaviour(bounce_percent=50.0), b"EHLO me\r\nMAIL FROM:<>\r\n", b"RCPT TO:<u@d.example>\r\n" * 200)
    assert 70 < everybody.count("550") < 130


# --- connections ------------------------------------------------------------------------------------------------------------------------------


def served(behaviour: Behaviour, client: Callable[[asyncio.StreamReader, asyncio.StreamWriter, Sink], object]) -> tuple[Sink, bytes]:
    """*client* talks to a sink over loopback, within ten seconds; the sink when it has closed, and its last words."""

    async def run() -> tuple[Sink, bytes]:
        async with asyncio.timeout(10):
            bound = socket.create_server(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            sink = Sink(behaviour)
            sink.listen([bound])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await client(reader, writer, sink)  # type: ignore[misc]
            sink.close()
            try:
                last = await reader.read()
            except ConnectionResetError:  # it had left something unread
                last = b""
            writer.close()
            return sink, last

    return asyncio.run(run())


def test_latency_delays_every_reply_and_keeps_their_order() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sink: Sink) -> None:
        began_s = sink.loop.time()
        writer.write(b"NOOP\r\n")
        assert (await reader.readline()).startswith(b"220") and await reader.readline() == b"250 2.0.0 Ok\r\n"
        assert sink.loop.time() - began_s >= 0.05
        for part in (b"HELO me\r\n", MESSAGE, BODY, b"QUIT\r\n"):
            writer.write(part)
            await asyncio.sleep(0)
        codes = [(await reader.readline())[:3] for _ in range(7)]
        assert codes == [b"250", b"250", b"250", b"250", b"354", b"250", b"221"]

    sink, last = served(Behaviour(latency_s=0.05), client)
    assert sink.counts.messages == 1 and last == b""


def test_a_client_that_floods_under_latency_is_read_no_more() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sink: Sink) -> None:
        for _ in range(2_000):
            writer.write(b"NOOP\r\n")
            await asyncio.sleep(0)
        (connection,) = sink._connections
        assert len(connection._held) <= 100

    served(Behaviour(latency_s=30.0), client)


def test_at_its_end_connections_hear_421() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sink: Sink) -> None:
        assert (await reader.readline()).startswith(b"220")

    sink, last = served(Behaviour(), client)
    assert sink.counts.connections == 1 and last == b"421 4.3.2 Shutting down\r\n"


def test_a_full_sink_answers_421() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sink: Sink) -> None:
        sink.most = 1
        assert (await reader.readline()).startswith(b"220")
        second, out = await asyncio.open_connection(*writer.get_extra_info("peername"))
        assert await second.read() == b"421 4.3.2 Too many connections\r\n"
        out.close()

    served(Behaviour(), client)


def test_clients_wait_for_a_slot_in_order_and_not_for_ever() -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sink: Sink) -> None:
        sink.most, sink.waiting_most = 1, 3
        assert (await reader.readline()).startswith(b"220")
        where = writer.get_extra_info("peername")
        peers = []
        for number in range(1, 4):
            peers.append(await asyncio.open_connection(*where))
            while len(sink._waiting) < number:
                await asyncio.sleep(0)
        more, out = await asyncio.open_connection(*where)
        assert await more.read() == b"421 4.3.2 Too many connections\r\n", "there is a bound to those who wait, too"
        out.close()
        second, third, fourth = peers
        second[1].write(b"NOOP\r\n")  # it is not read before its turn
        third[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        third[1].close()  # a reset: one that is not read shows nothing less
        while len(sink._waiting) > 2:
            await asyncio.sleep(0)
        writer.write(b"QUIT\r\n")
        assert (await second[0].readline()).startswith(b"220") and await second[0].readline() == b"250 2.0.0 Ok\r\n"
        assert len(sink._waiting) == 1
        for connection in sink._waiting:
            connection.tick(sink.now_s + 299.0)
            assert not connection._ending
            connection.tick(sink.now_s + 301.0)
        assert (await fourth[0].read()) == b"421 4.3.2 Too many connections\r\n"
        second[1].close()
        fourth[1].close()

    served(Behaviour(await_slot=True), client)


# --- the command ------------------------------------------------------------------------------------------------------------------------------


def test_the_command_says_how_much_came(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("bad.example\n")
    command = [sys.executable, "-m", "engine", "sink", "--listen", "127.0.0.1:0", "--json", "--chunking", "--blacklist", str(tmp_path / "bad")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().rpartition(":")[2])
            with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
                assert client.ehlo()[0] == 250 and client.has_extn("chunking")
                assert list(client.sendmail("a@b.example", ["x@good.example", "y@bad.example"], "Subject: x\r\n\r\nhello\r\n")) == ["y@bad.example"]
            process.send_signal(signal.SIGTERM)
            counts = json.loads(process.communicate(timeout=10)[0])
        finally:
            process.kill()
    assert process.returncode == 0
    assert {name: counts[name] for name in ("connections", "messages", "recipients", "refused")} == {
        "connections": 1, "messages": 1, "recipients": 1, "refused": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["--listen", "nowhere"], ["--listen", "host:25"], ["--reply", "x=1"], ["--blacklist", "/no/such/file"], ["--bounce-percent", "101"]]
)
def test_the_command_refuses_what_makes_no_sense(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "engine", "sink", *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 78 and done.stderr.startswith("engine: sink: ")
