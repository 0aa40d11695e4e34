"""What an attack sees: the engine's port, how many connections it is to hold, a host of its own that the engine delivers to, and its deadline."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

STANDING_S = 60.0  # for an attack to be in place
ATTACKER_NICE = 10  # attackers do not share the engine's machine: they are to take only what it leaves
CONNECTS_AT_ONCE = 100
TCP_REPAIR = 19

Host = Callable[[socket.socket], Awaitable[None]]


@dataclass
class Field:
    """One attack's world; `standing` is set once the attack is in place."""

    port: int  # the engine's
    count: int  # connections at once
    hosts: Hosts
    standing: threading.Event = field(default_factory=threading.Event)
    seen: Counter[str] = field(default_factory=Counter)  # for the table's notes

    async def connect(self, *, receive_bytes: int = 0) -> socket.socket:
        """A connection to the engine; OSError."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            async with asyncio.timeout(STANDING_S):  # not wait_for, which loses a cancellation now and then
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        self.seen["connections"] += 1
        return sock

    async def crowd(self, one: Callable[[socket.socket], Awaitable[None]], *, again: bool = False, receive_bytes: int = 0) -> None:
        """`count` clients doing *one* at once, each over and over with *again*.

        The attack stands once all have connected; with *again*, once each has been there.
        """
        turn = asyncio.Semaphore(CONNECTS_AT_ONCE)
        left = self.count

        def ready() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.standing.set()

        async def client() -> None:
            first = True
            while first or again:
                try:
                    async with turn:
                        sock = await self.connect(receive_bytes=receive_bytes)
                    with sock:
                        if first and not again:
                            ready()
                        await one(sock)
                except OSError as error:
                    self.seen[f"ended: {error.strerror or type(error).__name__}"] += 1
                if first and again:
                    ready()
                first = False
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.count):
                group.create_task(client())


class Attackers:
    """A loop in a thread of its own, where attacks run; at exit nothing of them is left."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ATTACKER_NICE)
        self._loop.run_forever()
        self._loop.close()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def call(self, work: Coroutine[Any, Any, Any], timeout_s: float = STANDING_S) -> Any:
        """Run *work* to its end in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def begin(self, attack: Callable[[Field], Awaitable[None]], ground: Field) -> Callable[[], None]:
        """Start *attack* and return what ends it, once it stands; AssertionError if it never does, or what it raised."""

        ended = threading.Event()

        async def run() -> None:
            try:
                await attack(ground)
            finally:
                ended.set()

        running = asyncio.run_coroutine_threadsafe(run(), self._loop)

        def end() -> None:
            running.cancel()
            assert ended.wait(STANDING_S), "the attack has ended"

        deadline = time.monotonic() + STANDING_S
        while not ground.standing.wait(0.05):
            if running.done():
                running.result()
            if time.monotonic() > deadline:
                end()
                raise AssertionError(f"not in place within {STANDING_S:.0f} s: {dict(ground.seen)}")
        return end


class Hosts:
    """Listening sockets at 127.9.x.y, one host of the engine's each; `serve` says how those behave whom connections meet in turn."""

    def __init__(self, attackers: Attackers, count: int) -> None:
        self._attackers = attackers
        self._turns: list[Host] = []
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        for number in range(count):
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            listening.bind((f"127.9.{number // 250}.{number % 250 + 1}", self.port))
            listening.listen(128)
            listening.setblocking(False)
            self.port = self.port or listening.getsockname()[1]
            self._sockets.append(listening)
        attackers.call(self._listen())

    def conf(self) -> str:
        """<domain> stanzas: h0.hostile.example is the first host, and so on."""
        return "".join(
            f"<domain h{number}.hostile.example>\n    smtp-hosts [{listening.getsockname()[0]}]:{self.port}\n</domain>\n"
            for number, listening in enumerate(self._sockets)
        )

    def serve(self, host: Host) -> None:
        """One more misbehaviour from now on; those that are served take turns."""
        self._turns.append(host)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.add_reader(listening.fileno(), self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            sock, _ = listening.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.get_running_loop().create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            if not self._turns:
                reset(sock)
                return
            self._turns.append(host := self._turns.pop(0))
            await host(sock)

    def hang_up(self) -> None:
        """End every connection, and reset whoever comes."""

        async def cancel() -> None:
            self._turns.clear()
            for task in tuple(self._tasks):
                task.cancel()

        self._attackers.call(cancel())

    def close(self) -> None:
        """Listen no more."""
        self.hang_up()

        async def close() -> None:
            for listening in self._sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
                listening.close()

        self._attackers.call(close())


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def vanish(sock: socket.socket) -> bool:
    """Close without a word to the peer, as a cable that is cut; False, and nothing done, without the right to (CAP_NET_ADMIN)."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        return False
    sock.close()
    return True


async def send(sock: socket.socket, data: bytes) -> None:
    """All of *data*, and a turn for the others; OSError."""
    await asyncio.sleep(0)
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def read(sock: socket.socket, size: int = 65536) -> bytes:
    """Some bytes; ConnectionResetError at the end of the connection."""
    data = await asyncio.get_running_loop().sock_recv(sock, size)
    if not data:
        raise ConnectionResetError("closed")
    return data


async def for_ever() -> None:
    """Until the attack is ended."""
    await asyncio.get_running_loop().create_future()
