"""`python -m tests.chaos.client SEED PORT SESSIONS RATE`: the load, in a process that nobody kills.

Sessions send messages of one and of many recipients to the destinations of `temper`, each recipient once in its life, and remember what was
acknowledged.  Commands on standard input, a line each: `stop` (begin nothing more), `count` (answered by messages begun and acknowledged),
`report` (answered by all that was sent), `end`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
import zlib

import uvloop

from tests.chaos.account import SENDERS, Sent
from tests.chaos.sink import send
from tests.chaos.temper import TEMPERS

REPLY_S = 20.0  # a spool process that stands still is replaced sooner
DESTINATIONS = tuple(name for name in TEMPERS if name not in ("senders", "never"))
SIZES = ((0.7, 300, 2_000), (0.995, 2_000, 30_000), (1.0, 260_000, 400_000))  # up to this point of chance: so many bytes
RECIPIENTS = ((0.6, 1, 1), (0.9, 2, 5), (1.0, 6, 30))
NEVER = 0.02  # of all recipients go where they are put off for ever
COUNTED = ((0.05, "", ""), (0.1, "", " NOTIFY=NEVER"), (0.15, "s", " NOTIFY=SUCCESS,FAILURE"), (1.0, "s", ""))  # sender or none, NOTIFY


class Failed(Exception):
    """The engine did not take it; the text says what it said."""


def pick(table: tuple[tuple[float, int, int], ...], chance: random.Random) -> int:
    """A number from the row that chance falls on."""
    point = chance.random()
    low, high = next((low, high) for upto, low, high in table if point < upto)
    return chance.randint(low, high)


def body(size: int, chance: random.Random) -> bytes:
    """About *size* bytes in wire form: lines, some of which begin with a dot."""
    line = bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz ", k=70))
    lines = [b"..a line that begins with a dot" if chance.random() < 0.1 else line[chance.randrange(60) :] + line for _ in range(max(1, size // 100))]
    return b"\r\n".join(lines) + b"\r\n"


ENDS = (Failed, OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, RuntimeError)  # the last is uvloop's for a dead socket


class Load:
    """What all sessions share."""

    def __init__(self, seed: int, port: int, interval_s: float) -> None:
        self.sent: list[Sent] = []
        self.begun = 0
        self.stopping = False
        self._seed, self._port, self._interval_s = seed, port, interval_s

    async def session(self, index: int) -> None:
        """Connections one after the other, until told to stop."""
        chance = random.Random(self._seed * 1_000_003 + index)
        while not self.stopping:
            with contextlib.suppress(*ENDS):
                await self._connection(chance)
            await asyncio.sleep(chance.uniform(0.02, 0.2))  # a client that was refused does not knock at once

    async def _connection(self, chance: random.Random) -> None:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self._port), REPLY_S)
        try:
            await expect(reader, b"220")
            writer.write(b"EHLO client.example\r\n")
            await expect(reader, b"250")
            for _ in range(chance.randint(1, 20)):
                if self.stopping:
                    break
                await self._message(reader, writer, chance)
                await asyncio.sleep(chance.expovariate(1 / self._interval_s))
            writer.write(b"QUIT\r\n")
            await expect(reader, b"221")
        finally:
            writer.close()

    async def _message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random) -> None:
        number, self.begun = self.begun, self.begun + 1
        point = chance.random()
        letter, notify = next((letter, notify) for upto, letter, notify in COUNTED if point < upto)
        sender = f"s{number}@{SENDERS}" if letter else ""
        homes = chance.sample(DESTINATIONS, k=chance.randint(1, len(DESTINATIONS)))
        recipients = [
            f"r{number}-{index}@{'never' if chance.random() < NEVER else chance.choice(homes)}.example"
            for index in range(pick(RECIPIENTS, chance))
        ]
        text = body(pick(SIZES, chance), chance)
        head = f"Subject: {number}\r\nX-Chaos: {len(text)} {zlib.crc32(text)}\r\n\r\n".encode()
        commands = [f"MAIL FROM:<{sender}>\r\n", *(f"RCPT TO:<{recipient}>{notify}\r\n" for recipient in recipients), "DATA\r\n"]
        accepted = recipients
        acknowledged_s, said = 0.0, ""
        try:
            accepted = await self._envelope(reader, writer, commands, recipients, pipelined=chance.random() < 0.5)
            writer.write(head + text + b".\r\n")
            if chance.random() < 0.01:
                raise Failed("we hang up without waiting for the reply")
            said = await expect(reader, b"250")
            acknowledged_s = time.monotonic()
        finally:
            wants_report, wants_success = (bool(sender) and asked for asked in ("NEVER" not in notify, "SUCCESS" in notify))
            self.sent.append(Sent(number, sender, wants_report, accepted, acknowledged_s, said, wants_success))

    async def _envelope(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: list[str], recipients: list[str], pipelined: bool
    ) -> list[str]:
        """The recipients that were accepted, once DATA was; Failed."""
        if pipelined:
            writer.write("".join(commands).encode())
        said = []
        for command in commands:
            if not pipelined:
                writer.write(command.encode())
            said.append(await answer(reader))
        if not said[0].startswith("250") or not said[-1].startswith("354"):
            raise Failed(said[-1])
        return [recipient for recipient, word in zip(recipients, said[1:-1], strict=True) if word.startswith("25")]


async def answer(reader: asyncio.StreamReader) -> str:
    """The next whole reply, its last line."""
    while True:
        line = await asyncio.wait_for(reader.readuntil(b"\r\n"), REPLY_S)
        if line[3:4] != b"-":
            return line.decode("ascii", "replace").rstrip()


async def expect(reader: asyncio.StreamReader, code: bytes) -> str:
    """The next reply; Failed if its code is another."""
    said = await answer(reader)
    if not said.startswith(code.decode()):
        raise Failed(said)
    return said


async def main(seed: int, port: int, sessions: int, rate: float) -> None:
    """Send until told to stop, answer until told to end."""
    load, loop, ended = Load(seed, port, sessions / rate), asyncio.get_running_loop(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    def commanded() -> None:
        words = os.read(0, 4096).decode().split()
        for word in words:
            if word == "stop":
                load.stopping = True
            elif word == "count":
                send((load.begun, sum(1 for message in load.sent if message.acknowledged_s), sum(not task.done() for task in tasks)))
            elif word == "report":
                send(load.sent)
            else:
                ended.set()
        if not words:
            ended.set()

    send([])
    loop.add_reader(0, commanded)
    tasks += [loop.create_task(load.session(index)) for index in range(sessions)]
    await ended.wait()
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
