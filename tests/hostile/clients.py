"""Hostile clients: each an attack that holds `field.count` connections to the engine in its own way until it is cancelled."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from tests.hostile.field import Field, for_ever, read, reset, send, vanish

HELLO = b"EHLO bad.example\r\n"
OPEN = HELLO + b"MAIL FROM:<a@bad.example>\r\nRCPT TO:<b@d0.good.example>\r\n"
MESSAGE = b"MAIL FROM:<a@bad.example>\r\nRCPT TO:<b@d0.good.example>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"
WHOLE = HELLO + MESSAGE + b"QUIT\r\n"
ANSWERED = (b"EHLO", b"MAIL", b"RCPT", b"DATA", b"QUIT")
DRIP_S = 1.0
BLOCK = 64 * 1024


async def idle(field: Field) -> None:
    """Greeted, and then silence."""

    async def one(sock: socket.socket) -> None:
        field.seen["greeted" if (await read(sock)).startswith(b"220") else "turned away"] += 1
        await for_ever()

    await field.crowd(one)


async def slow_commands(field: Field) -> None:
    """Commands, a byte a second."""

    async def one(sock: socket.socket) -> None:
        while True:
            for at in range(len(WHOLE)):
                await send(sock, WHOLE[at : at + 1])
                await asyncio.sleep(DRIP_S)

    await field.crowd(one)


async def slow_content(field: Field) -> None:
    """A message, a byte a second."""

    async def one(sock: socket.socket) -> None:
        await send(sock, OPEN + b"DATA\r\n")
        while True:
            for byte in (b"x", b"y", b"\r", b"\n"):
                await send(sock, byte)
                await asyncio.sleep(DRIP_S)

    await field.crowd(one)


async def endless_line(field: Field) -> None:
    """One command line without an end, as fast as it is taken."""

    async def one(sock: socket.socket) -> None:
        while True:
            await send(sock, b"x" * BLOCK)

    await field.crowd(one)


async def endless_content(field: Field) -> None:
    """One message without an end, far past max-message-size, as fast as it is taken; its first lines are one header field."""
    block = b" endless\r\n" * (BLOCK // 10)

    async def one(sock: socket.socket) -> None:
        await send(sock, OPEN + b"DATA\r\nX-Endless:\r\n")
        while True:
            await send(sock, block)

    await field.crowd(one)


async def many_recipients(field: Field) -> None:
    """One transaction, and recipients without an end."""

    async def one(sock: socket.socket) -> None:
        await send(sock, OPEN)
        number = 0
        while True:
            await send(sock, b"".join(b"RCPT TO:<u%d@d0.good.example>\r\n" % (number + each) for each in range(500)))
            number += 500
            await read(sock)

    await field.crowd(one)


async def never_reads(field: Field) -> None:
    """Messages, one behind the other, and no reply is ever read."""

    async def one(sock: socket.socket) -> None:
        await send(sock, HELLO)
        while True:
            await send(sock, MESSAGE.replace(b"RCPT TO:<b@d0.good.example>\r\n", b"RCPT TO:<no>\r\n" * 90))

    await field.crowd(one, receive_bytes=4096)


async def floods(field: Field) -> None:
    """Thousands of commands in a write, over and over, on connection after connection."""
    block = HELLO + b"NOOP\r\nRSET\r\nVRFY x\r\nXYZZY\r\n" * 2000

    async def one(sock: socket.socket) -> None:
        await send(sock, block)
        with suppress(OSError):
            while True:
                await read(sock)

    await field.crowd(one, again=True)


async def junk(field: Field) -> None:
    """Something else than SMTP, before the greeting is read: TLS, HTTP, zeros, noise."""
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300)
    kinds = (tls, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(5000), os.urandom(5000), b"\r\n" * 2000)

    async def one(sock: socket.socket) -> None:
        field.seen["junk"] += 1
        await send(sock, kinds[field.seen["junk"] % len(kinds)])
        sock.shutdown(socket.SHUT_WR)
        while True:
            await read(sock)

    await field.crowd(one, again=True)


async def resets(field: Field) -> None:
    """A whole transaction, reset after its first byte, its second, and so on, over and over; every other one in step with the replies."""

    async def one(sock: socket.socket) -> None:
        number = field.seen["resets"] = field.seen["resets"] + 1
        cut = WHOLE[: number // 2 % (len(WHOLE) + 1)]
        if number % 2:
            await send(sock, cut)
        else:
            await read(sock)
            for line in cut.splitlines(keepends=True):
                await send(sock, line)
                if line.endswith(b"\n") and line[:4] in ANSWERED:
                    await read(sock)
        reset(sock)

    await field.crowd(one, again=True)


async def half_open(field: Field) -> None:
    """Gone without FIN or RST, a third each greeted, within a transaction and within a message."""
    starts = (b"", OPEN, OPEN + b"DATA\r\nSubject: x\r\n")

    async def one(sock: socket.socket) -> None:
        await read(sock)
        number = field.seen["vanished"] = field.seen["vanished"] + 1
        if data := starts[number % 3]:
            await send(sock, data)
            await read(sock)
        if not vanish(sock):
            field.seen["no CAP_NET_ADMIN: held in silence"] += 1
        await for_ever()

    await field.crowd(one)


async def half_closed(field: Field) -> None:
    """The sending side closed, at every point of a session, and the rest never read."""

    async def one(sock: socket.socket) -> None:
        number = field.seen["closed"] = field.seen["closed"] + 1
        await send(sock, WHOLE[: number % len(WHOLE)])
        sock.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.5)

    await field.crowd(one, again=True)


async def knocks(field: Field) -> None:
    """Connections that are reset as soon as they are there."""

    async def one(sock: socket.socket) -> None:
        reset(sock)
        await asyncio.sleep(0.002)

    await field.crowd(one, again=True)
