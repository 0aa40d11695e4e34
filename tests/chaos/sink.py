"""`python -m tests.chaos.sink SEED NAME...`: a listener for each temper, in a process that nobody kills.

It remembers what it said to the end of every transaction, for every recipient.  Commands on standard input, a line each: `calm` (behave from now
on), `report` (answered on standard output by a length and the attempts), `end`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import struct
import sys
import time
import zlib

import msgspec
import uvloop

from tests.chaos.account import SENDERS, Attempt, sender_key
from tests.chaos.temper import TEMPERS, Temper

MAX_BODY_BYTES = 1 << 20
IDLE_S = 60.0
STATUS = {"2": "2.0.0", "4": "4.3.0", "5": "5.7.1", "3": ""}
_ADDRESS = re.compile(rb"<([^>]*)>")
_CHECK = re.compile(rb"^X-Chaos: (\d+) (\d+)\r\n", re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^Message-ID: <([^@>]+)@", re.MULTILINE)
_ABOUT = re.compile(rb"^Final-Recipient: rfc822;\s*(\S+)\r\n", re.MULTILINE)


class Over(Exception):
    """The connection ends here."""


def intact(data: bytes) -> bool:
    """Whether the body (in wire form, with its end) is the one that the X-Chaos field was made for."""
    headers, _, body = data.partition(b"\r\n\r\n")
    found = _CHECK.search(headers + b"\r\n")
    return found is not None and (int(found[1]), int(found[2])) == (len(body), zlib.crc32(body))


def reply(code: str) -> bytes:
    """A reply with *code*."""
    status = STATUS[code[0]]
    return f"{code} {status}{' ' * bool(status)}chaos\r\n".encode()


class Sink:
    """What all listeners share."""

    def __init__(self, seed: int) -> None:
        self.attempts: list[Attempt] = []
        self.calm = False
        self._seed = seed
        self._connections = 0

    def chance(self) -> random.Random:
        """A generator of its own for each connection."""
        self._connections += 1
        return random.Random(self._seed * 1_000_003 + self._connections)

    async def serve(self, temper: Temper, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        session = Session(self, temper, reader, writer)
        try:
            await session.run()
        except (Over, OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # every end is as good as another
        finally:
            session.end_transaction("", "")
            with contextlib.suppress(OSError):
                writer.close()


class Session:
    """One connection: the dialogue, with a misbehaviour wherever the temper has one."""

    def __init__(self, sink: Sink, temper: Temper, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sink, self._temper, self._reader, self._writer = sink, temper, reader, writer
        self._chance = sink.chance()
        self._peer: str = writer.get_extra_info("peername")[0]
        self._began_s = self._dot_s = 0.0
        self._accepted: list[str] = []
        self._open = False  # a transaction is
        self._data = b""

    def end_transaction(self, stage: str, said: str, doubt: bool = False) -> None:
        """Note how it ended for every recipient that is still in it."""
        answered_s, data = time.monotonic(), self._data
        for recipient in self._accepted:
            if recipient.endswith("@" + SENDERS):
                found = _MESSAGE_ID.search(data)
                about = [each.decode() for each in _ABOUT.findall(data)]
                self._note(Attempt(recipient, self._peer, self._began_s, self._dot_s, answered_s, stage, said, doubt, bool(about) or not data,
                                   found[1].decode() if found else "", about))  # fmt: skip
            else:
                whole = not self._dot_s or intact(data)
                self._note(Attempt(recipient, self._peer, self._began_s, self._dot_s, answered_s, stage, said, doubt, whole))
        self._accepted = []
        self._open = False
        self._data = b""
        self._dot_s = 0.0

    def _note(self, attempt: Attempt) -> None:
        self._sink.attempts.append(attempt)

    def _one(self, recipient: str, stage: str, said: str) -> None:
        self._note(Attempt(recipient, self._peer, self._began_s, 0.0, time.monotonic(), stage, said))

    async def run(self) -> None:
        """Until it ends, one way or another: by an exception."""
        await self._answer("greeting", "220")
        while True:
            line = await asyncio.wait_for(self._reader.readuntil(b"\r\n"), IDLE_S)
            verb = line[:4].upper()
            if verb in (b"EHLO", b"HELO"):
                await self._answer("ehlo", "250", b"250-chaos\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n")
            elif verb == b"MAIL":
                await self._mail(_address(line))
            elif verb == b"RCPT":
                await self._rcpt(_address(line))
            elif verb == b"DATA":
                await self._body()
            elif verb == b"RSET":
                self.end_transaction("", "")
                self._say(reply("250"))
            elif verb == b"QUIT":
                self._say(reply("221"))
                raise Over
            else:
                self._say(reply("502"))

    def _say(self, data: bytes) -> None:
        """Send it; Over if there is nobody left to hear it, so that nothing counts as said that was not sent."""
        if self._writer.transport.is_closing():
            raise Over
        self._writer.write(data)

    async def _mail(self, sender: str) -> None:
        self._began_s = time.monotonic()
        said = await self._answer("mail", "250")
        self._open = said.startswith("2")
        if not self._open:
            self._one(sender_key(sender), "mail", said)

    async def _rcpt(self, recipient: str) -> None:
        if not self._open:
            self._say(reply("503"))
            return
        self._accepted.append(recipient)  # in it, whatever happens now
        said = await self._answer("rcpt", "250")
        if not said.startswith("2"):
            self._accepted.remove(recipient)
            self._one(recipient, "rcpt", said)

    async def _body(self) -> None:
        if not self._accepted:
            self._say(reply("554"))
            return
        said = await self._answer("data", "354")
        if said != "354":
            self.end_transaction("data", said)
            return
        act = self._act("body")
        if act:
            with contextlib.suppress(TimeoutError):
                if act != "stall":
                    await asyncio.wait_for(self._reader.readexactly(self._chance.randint(1, 2000)), 1.0)
            await self._do(act, "354", b"")
        self._data = (await asyncio.wait_for(self._reader.readuntil(b"\r\n.\r\n"), IDLE_S))[:-3]
        self._dot_s = time.monotonic()
        said = await self._answer("dot", "250")
        self.end_transaction("dot", said)

    # --- behaving, or not ----------------------------------------------------------------------------------------------------------------

    def _act(self, stage: str) -> str:
        return "" if self._sink.calm and self._temper.calms else self._temper.act(stage, self._chance)

    async def _answer(self, stage: str, good: str, text: bytes = b"") -> str:
        """Say what should be said at *stage*, or misbehave; the code that was said.  Over, with the transaction noted, when the connection ended."""
        act = self._act(stage)
        if act:
            return await self._do(act, good, text, stage)
        self._say(text or reply(good))
        return good

    async def _do(self, act: str, good: str, text: bytes, stage: str = "") -> str:
        if act == "stall":
            await asyncio.sleep(self._chance.uniform(0.05, self._temper.longest_stall_s))
            if stage:
                self._say(text or reply(good))
            return good
        if act.isdigit():
            self._say(reply(act))
            if act == "421" or stage == "greeting":
                self.end_transaction(stage, act)
                raise Over
            return act
        self._break(act, good, stage)
        raise Over

    def _break(self, act: str, good: str, stage: str) -> None:
        """End the connection in the way that *act* names; the transaction with it."""
        if act in ("take-close", "take-reset"):
            self._say(reply(good))
            self.end_transaction(stage, good, doubt=act == "take-reset")
        elif act == "half":
            self._say(good[:2].encode())
        elif act == "garbage":
            self._say(self._chance.randbytes(30).replace(b"\n", b"?") + b"\r\n")
        self.end_transaction(stage, "")
        if act in ("reset", "take-reset"):
            peer: socket.socket = self._writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()


def _address(line: bytes) -> str:
    found = _ADDRESS.search(line)
    return found[1].decode("ascii", "replace") if found else ""


async def main(seed: int, names: list[str]) -> None:
    """Serve until told to end."""
    sink, loop, ended = Sink(seed), asyncio.get_running_loop(), asyncio.Event()

    def commanded() -> None:
        words = os.read(0, 4096).decode().split()
        for word in words:
            if word == "calm":
                sink.calm = True
            elif word == "report":
                send(sink.attempts)
            else:
                ended.set()
        if not words:
            ended.set()

    ports = []
    for name in names:

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, temper: Temper = TEMPERS[name]) -> object:
            return sink.serve(temper, reader, writer)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=MAX_BODY_BYTES, backlog=1024)
        ports.append(server.sockets[0].getsockname()[1])
    send(ports)
    loop.add_reader(0, commanded)
    await ended.wait()


def send(value: object) -> None:
    """*value* on standard output, behind its length."""
    data = msgspec.msgpack.encode(value)
    left = memoryview(struct.pack("=Q", len(data)) + data)
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), sys.argv[2:]))
