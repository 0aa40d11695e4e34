"""The asking side, for the command line: blocking sockets, every wait with a deadline."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from engine.control import protocol
from engine.errors import EngineError, RemoteProtocolError

# The spool process's socket speaks frames (a length of four bytes, then MessagePack), opened by a hello of role "control".
_LENGTH = struct.Struct(">I")
_HELLO = [1, "control", 0, [], False]
_MAX_FRAME_BYTES = 64 << 20


class NotRunning(EngineError):
    """Nobody answers on the socket."""


class HungUp(NotRunning):
    """Somebody was there, and closed the connection before the answer."""


def ask(path: str, command: str | protocol.Request, timeout_s: float = 10.0) -> Any:
    """The answer to *command*, as its row in COMMANDS says.  NotRunning; EngineError with the reason it refused."""
    with _connected(path, timeout_s) as connection:
        return _exchange(connection, protocol.Request(command) if isinstance(command, str) else command)


def wait_until_closed(path: str, command: str, timeout_s: float) -> bool:
    """Ask *command* ("stop") and wait until the engine has ended: whether it did within *timeout_s*."""
    with _connected(path, timeout_s) as connection:
        _exchange(connection, protocol.Request(command))
        try:
            while connection.recv(4096):
                continue
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        return True


@contextlib.contextmanager
def spool_conversation(path: str, timeout_s: float = 10.0) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """What answers one question to the spool process after the other, as `ask_spool` does."""
    with _connected(path, timeout_s) as connection:
        connection.sendall(_frame(_HELLO))

        def put(question: dict[str, Any]) -> dict[str, Any]:
            connection.sendall(_frame(question))
            (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
            if length > _MAX_FRAME_BYTES:
                raise RemoteProtocolError(f"the spool process answers with {length} bytes")
            answer = msgspec.msgpack.decode(_read(connection, length))
            if not isinstance(answer, dict):
                raise RemoteProtocolError("the spool process answers in another language: are both of the same version?")
            return answer

        yield put


def ask_spool(path: str, question: dict[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
    """The spool process's answer to *question* (`{"q": "show", "id": bytes}`, `{"q": "counts"}`).  NotRunning."""
    with spool_conversation(path, timeout_s) as put:
        return put(question)


def tell_spool(path: str, question: dict[str, Any]) -> bool:
    """Leave *question* at the spool process's door and wait for nothing: whether it could be left.  A spool process that restarts finds it there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            connection.connect(path)
            return connection.send(data := _frame(_HELLO) + _frame(question)) == len(data)
        except OSError:
            return False


def _exchange(connection: socket.socket, request: protocol.Request) -> Any:
    connection.sendall(protocol.encode_line(request))
    response = protocol.decode_response(_read_line(connection))
    if response.error:
        raise EngineError(response.error)
    return protocol.decode_answer(request.command, response)


@contextlib.contextmanager
def _connected(path: str, timeout_s: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"no engine is running here: nothing answers on {path}") from error
        except PermissionError as error:
            raise EngineError(f"may not connect to {path}: ask as root or as the engine's user") from error
        except OSError as error:
            raise EngineError(f"cannot connect to {path}: {error.strerror or error}") from error
        try:
            yield connection
        except ConnectionError as error:
            raise HungUp("the engine closed the connection before it answered") from error
        except TimeoutError as error:
            raise EngineError(f"no answer on {path} within {timeout_s:g} s") from error


def _read_line(connection: socket.socket) -> bytes:
    buffer = bytearray()
    deadline_s = time.monotonic() + (connection.gettimeout() or 10.0)
    while b"\n" not in buffer:
        data = connection.recv(65536)
        if not data:
            raise HungUp("the engine closed the connection before it answered")
        buffer += data
        if len(buffer) > protocol.MAX_LINE_BYTES:
            raise RemoteProtocolError("the answer is too long")
        if time.monotonic() > deadline_s:
            raise TimeoutError
    return bytes(buffer.partition(b"\n")[0])


def _read(connection: socket.socket, size: int) -> bytes:
    buffer = bytearray()
    while len(buffer) < size:
        data = connection.recv(min(size - len(buffer), 65536))
        if not data:
            raise NotRunning("the spool process closed the connection before it answered")
        buffer += data
    return bytes(buffer)


def _frame(message: object) -> bytes:
    data = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(data)) + data
