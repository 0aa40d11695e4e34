"""The answering side inside a child with an asyncio loop: bounded in connections, bytes and time, so that an asker costs next to nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from engine.control import protocol
from engine.errors import EngineError

MAX_CONNECTIONS = 16
MAX_REQUEST_BYTES = 256 << 10  # a thousand queues by name
EXCHANGE_S = 10.0  # from the connection to its end, whatever is slow

Answer: TypeAlias = Callable[[protocol.Request], Awaitable[object]]


class Serving:
    """Answers on the Unix socket *path*, one request a connection.  Whoever may enter its directory and is of its group may ask."""

    def __init__(self, path: str, answers: Mapping[str, Answer]) -> None:
        self._path = path
        self._answers = answers
        self._open = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, in place of a predecessor; OSError if that cannot be."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        self._server = await asyncio.get_running_loop().create_unix_server(self._protocol, self._path, backlog=MAX_CONNECTIONS)
        os.chmod(self._path, 0o660)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES)
        return asyncio.StreamReaderProtocol(reader, self._connected)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            async with asyncio.timeout(EXCHANGE_S):
                response = await self._answer(await reader.readline())
                writer.write(protocol.encode_line(response))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, ValueError):  # too slow, gone, or a line without an end
            pass
        finally:
            writer.transport.abort()
            self._open -= 1

    async def _answer(self, line: bytes) -> protocol.Response:
        try:
            request = protocol.decode_request(line)
            answer = self._answers.get(request.command)
            if answer is None:
                return protocol.Response(error=f"this process does not answer {request.command!r}")
            return protocol.answered(await answer(request))
        except EngineError as error:
            return protocol.Response(error=str(error))
