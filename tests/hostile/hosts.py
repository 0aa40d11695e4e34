"""Hostile hosts: each an attack that meets the engine's connections in its own way, once mail for them has been put into the engine."""

from __future__ import annotations

import asyncio
import os
import smtplib
import socket
from collections.abc import Awaitable, Callable

from tests.hostile.field import Field, for_ever, read, reset, send

Say = Callable[[bytes], Awaitable[None]]
GREETING = b"220 mx.hostile.example ESMTP\r\n"
OFFERS = b"250-mx.hostile.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
DRIP_S = 1.0
LARGE_BODY = 1 << 20
LONG_REPLY = b"250-\r\n" * 10_000 + b"250 ok\r\n"  # a little less than what the engine takes as one reply


async def _mail(field: Field, size_bytes: int = 1000) -> None:
    """A message for each host, taken by the engine."""

    content = b"Subject: x\r\n\r\n" + (b"y" * 78 + b"\r\n") * (size_bytes // 80)

    def put() -> None:
        with smtplib.SMTP("127.0.0.1", field.port, timeout=30) as client:
            for number in range(field.count):
                client.sendmail("a@bad.example", [f"u@h{number}.hostile.example"], content)

    await asyncio.get_running_loop().run_in_executor(None, put)


async def _talk(sock: socket.socket, say: Say, *, greeting: bytes = GREETING) -> None:
    """A host that is well-behaved but for how *say* sends its replies; returns at QUIT."""
    await say(greeting)
    held = b""
    while True:
        held += await read(sock)
        while b"\r\n" in held:
            line, _, held = held.partition(b"\r\n")
            verb = line[:4].upper()
            if verb == b"DATA":
                await say(b"354 go ahead\r\n")
                while b"\r\n.\r\n" not in b"\r\n" + held:
                    held = held[-4:] + await read(sock)
                held = (b"\r\n" + held).partition(b"\r\n.\r\n")[2]
                await say(b"250 2.0.0 taken\r\n")
            elif verb == b"QUIT":
                await say(b"221 bye\r\n")
                return
            else:
                await say(OFFERS if verb == b"EHLO" else b"250 ok\r\n")


async def _attack(field: Field, host: Callable[[socket.socket, int], Awaitable[None]], *, at_once: bool = True, size_bytes: int = 1000) -> None:
    """Serve *host* (with the number of the connection) to the mail for all hosts; standing once all have been visited."""
    visits = 0

    async def serve(sock: socket.socket) -> None:
        nonlocal visits
        visits += 1
        field.seen["visits"] = visits
        if visits >= field.count:
            field.standing.set()
        await host(sock, visits - 1)

    field.hosts.serve(serve)
    await _mail(field, size_bytes)
    await for_ever()


async def endless_replies(field: Field) -> None:
    """A multi-line reply without an end, as fast as it is taken: in place of the greeting, or at EHLO, or at MAIL."""

    async def host(sock: socket.socket, number: int) -> None:
        code = (b"220", b"250", b"250")[number % 3]
        said = 0

        async def say(reply: bytes) -> None:
            nonlocal said
            said += 1
            while said > number % 3:
                await send(sock, (code + b"-and on\r\n") * 1000)
            await send(sock, reply)

        await _talk(sock, say)

    await _attack(field, host)


async def single_bytes(field: Field) -> None:
    """Every reply in single bytes, and the one to EHLO has ten thousand lines."""

    async def host(sock: socket.socket, number: int) -> None:
        async def say(reply: bytes) -> None:
            for at in range(len(reply)):
                await send(sock, reply[at : at + 1])
                if not at % 100:
                    await asyncio.sleep(0)

        await say(GREETING)
        await read(sock)
        await say(LONG_REPLY)
        field.seen["whole replies"] += 1
        await _talk(sock, say, greeting=b"")

    await _attack(field, host)


async def slow_replies(field: Field) -> None:
    """Every reply, a byte a second."""

    async def host(sock: socket.socket, number: int) -> None:
        async def say(reply: bytes) -> None:
            for at in range(len(reply)):
                await send(sock, reply[at : at + 1])
                await asyncio.sleep(DRIP_S)

        await _talk(sock, say)

    await _attack(field, host)


async def junk_first(field: Field) -> None:
    """Something else than a greeting first: noise, HTTP, TLS, empty lines, an endless line."""
    kinds = (os.urandom(2000), b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"\r\n\r\n\r\n", b"2" * 1_000_000)

    async def host(sock: socket.socket, number: int) -> None:
        await send(sock, kinds[number % len(kinds)])

        async def say(reply: bytes) -> None:
            await send(sock, reply)

        await _talk(sock, say)

    await _attack(field, host)


async def resetting(field: Field) -> None:
    """A transaction reset after the first byte of the replies, the second, and so on; then behaves, so that every message arrives."""
    whole = len(GREETING + OFFERS) + len(b"250 ok\r\n" * 2 + b"354 go ahead\r\n250 2.0.0 taken\r\n")

    async def host(sock: socket.socket, number: int) -> None:
        left = number if number <= whole else 1 << 60

        async def say(reply: bytes) -> None:
            nonlocal left
            await send(sock, reply[:left])
            left -= len(reply)
            if left <= 0:
                reset(sock)
                raise ConnectionResetError
            if reply.startswith(b"250 2.0.0 taken"):
                field.seen["taken"] += 1

        await _talk(sock, say)

    await _attack(field, host)


async def never_reading(field: Field) -> None:
    """Says go ahead, and takes nothing of a large body."""

    async def host(sock: socket.socket, number: int) -> None:
        for reply in (GREETING, OFFERS, b"250 ok\r\n250 ok\r\n354 go ahead\r\n"):
            await send(sock, reply)
            await read(sock, 400)
        await for_ever()

    await _attack(field, host, size_bytes=LARGE_BODY)


async def unasked(field: Field) -> None:
    """Greets, offers, and then answers without an end what nobody asked."""

    async def host(sock: socket.socket, number: int) -> None:
        await send(sock, GREETING + OFFERS)
        while True:
            await send(sock, b"250 ok\r\n" * 1000)

    await _attack(field, host)


async def silent(field: Field) -> None:
    """Takes the connection and never says a word."""

    async def host(sock: socket.socket, number: int) -> None:
        await for_ever()

    await _attack(field, host)
