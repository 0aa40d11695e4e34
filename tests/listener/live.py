"""A Listener in a thread of its own, on loopback, with fakes behind its reception; and a client that speaks to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import uvloop

from engine.door import Door
from engine.listener.listener import Listener
from engine.listener.proxied import proxies_of
from engine.listener.tls import ListenerTls
from engine.process import ListenSocket, SharedCount
from engine.reception import Reception
from engine.tls.files import Files
from tests.reception.fakes import FakeLink, FakeLog, FakeSegments, config

TIMEOUT_S = 10.0


class LateLink(FakeLink):
    """Answers after `submit` has returned, as the real one does."""

    def submit(self, operation: Any, done: Callable[[str | None], None]) -> None:
        loop = asyncio.get_running_loop()
        super().submit(operation, done if self.holding else lambda reply: loop.call_soon(done, reply) and None)


class Live:
    """Context manager; `do` runs something in the listener's loop and returns what it returned."""

    def __init__(
        self,
        settings: Any = None,
        *,
        total: int = 0,
        max_connections: int = 100,
        address: str = "127.0.0.1",
        files: Files | None = None,
        **changes: Any,
    ) -> None:
        """*files*: what the TLS of *settings* needs."""
        self.link, self.segments, self.log = LateLink(), FakeSegments(), FakeLog()
        self.config = settings if settings is not None else config(**changes)
        self.count = SharedCount(memoryview(bytearray(4)), 0, total)
        self.max_connections = max_connections
        self.address = address
        self.listening = socket.create_server((address, 0))
        self.port: int = self.listening.getsockname()[1]
        self.files = files or Files(-1)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failures: list[str] = []

    def __enter__(self) -> Live:
        self._thread.start()
        assert self._started.wait(TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.listener.stop)
        self.join()
        assert not self.failures

    def join(self) -> None:
        """Wait until the listener has ended."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def do(self, action: Callable[[], Any]) -> Any:
        async def act() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self.loop).result(TIMEOUT_S)

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until *condition*, asked in the listener's loop between other things, holds."""

        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        asyncio.run_coroutine_threadsafe(asyncio.wait_for(wait(), TIMEOUT_S), self.loop).result(TIMEOUT_S + 1)

    def client(self, source: str = "127.0.0.1") -> Client:
        return Client(self.address, self.port, source)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.failures.append(repr(context)))
        reception = Reception(self.config, self.link, self.segments, self.log)
        sockets = [ListenSocket(self.listening.detach(), self.address, self.port)]
        tls = ListenerTls(self.config, sockets, self.files, self.port - 25)
        proxies = proxies_of(self.config, sockets, self.port - 25)
        door = Door.alone(self.config.source_groups)
        self.listener = Listener(
            reception, self.log, sockets, self.count, self.max_connections, door, tls=tls, proxies=proxies  # type: ignore[arg-type]
        )
        self.listener.open()
        self._started.set()
        await self.listener.ended
        await asyncio.sleep(0)


class Client:
    """Speaks SMTP and reads whole replies."""

    def __init__(self, address: str, port: int, source: str) -> None:
        self.socket = socket.create_connection((address, port), TIMEOUT_S, (source, 0) if source else None)
        self._buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> str:
        """The next reply, its lines joined by `\\n`; "" at the end of the connection."""
        lines = []
        while True:
            while b"\r\n" not in self._buffer:
                data = self.socket.recv(65536)
                if not data:
                    return ""
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            lines.append(line.decode("latin-1"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    def say(self, *commands: str) -> str:
        """The reply to the last of *commands*, sent one at a time."""
        answer = ""
        for command in commands:
            self.send(command.encode("latin-1") + b"\r\n")
            answer = self.reply()
        return answer

    def greet(self, recipient: str = "r@one.example") -> str:
        """Everything up to 354."""
        assert self.reply().startswith("220 ")
        return self.say("EHLO client.example", "MAIL FROM:<s@sender.example>", f"RCPT TO:<{recipient}>", "DATA")

    def starttls(self, context: ssl.SSLContext, name: str = "mx.example.org") -> ssl.SSLSocket:
        """Say STARTTLS and shake hands; from then on everything goes by TLS."""
        assert self.say("STARTTLS").startswith("220 ") and not self._buffer
        return self.secure(context, name)

    def secure(self, context: ssl.SSLContext, name: str = "mx.example.org") -> ssl.SSLSocket:
        """Shake hands."""
        secured = context.wrap_socket(self.socket, server_hostname=name)
        self.socket = secured
        return secured

    def abort(self) -> None:
        """Close with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        self.socket.close()
