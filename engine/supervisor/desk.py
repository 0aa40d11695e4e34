"""The control socket's serving side inside the supervisor's loop: never blocks, bounded in connections, bytes and time."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Mapping

from engine.clock import monotonic_s
from engine.control import protocol
from engine.errors import RemoteProtocolError

MAX_CONNECTIONS = 32
IDLE_S = 10.0
ACCEPT_AGAIN_S = 0.5  # after an accept that failed (no descriptor left, say): without a pause we would spin

Answer = Callable[[], tuple[object, bool]]  # -> (data, whether the connection stays open until the engine has ended)


class Desk:
    """Answers the requests of `engine status` and `engine stop`."""

    def __init__(self, selector: selectors.BaseSelector, listening: socket.socket, answers: Mapping[str, Answer]) -> None:
        self._selector = selector
        self._listening = listening
        self._answers = answers
        self._visitors: set[_Visitor] = set()
        self._deaf_until_s = 0.0  # nobody is let in until then
        self._open()

    def _open(self) -> None:
        self._deaf_until_s = 0.0
        self._selector.register(self._listening, selectors.EVENT_READ, lambda _events: self._accept())

    def close_idle(self, now_s: float) -> None:
        """Send away who neither asked nor read in time."""
        if self._deaf_until_s and now_s > self._deaf_until_s:
            self._open()
        for visitor in [visitor for visitor in self._visitors if visitor.until_s <= now_s]:
            visitor.close()

    def close(self) -> None:
        """Everybody's connection and the socket are gone: those who waited for the end see it."""
        for visitor in list(self._visitors):
            visitor.close()
        if not self._deaf_until_s:
            self._selector.unregister(self._listening)
        self._listening.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it went before we came
            return
        except OSError:
            self._selector.unregister(self._listening)
            self._deaf_until_s = monotonic_s() + ACCEPT_AGAIN_S
            return
        connection.setblocking(False)
        if len(self._visitors) >= MAX_CONNECTIONS:
            connection.close()
            return
        self._visitors.add(_Visitor(self._selector, connection, self._answers, self._visitors.discard))


class _Visitor:
    """One connection: a request line, its answer, the end."""

    def __init__(
        self, selector: selectors.BaseSelector, connection: socket.socket, answers: Mapping[str, Answer], gone: Callable[[_Visitor], None]
    ) -> None:
        self.until_s = monotonic_s() + IDLE_S
        self._selector = selector
        self._connection = connection
        self._answers = answers
        self._gone = gone
        self._in = bytearray()
        self._out = b""
        self._stays = False
        selector.register(connection, selectors.EVENT_READ, self._turn)

    def close(self) -> None:
        self._selector.unregister(self._connection)
        self._connection.close()
        self._gone(self)

    def _turn(self, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                data = self._connection.recv(65536)
                if not data:
                    self.close()
                    return
                self._hear(data)
            if self._out:
                self._out = self._out[self._connection.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._out:
            self._selector.modify(self._connection, selectors.EVENT_WRITE, self._turn)
        elif self._stays:
            self._selector.modify(self._connection, selectors.EVENT_READ, self._turn)

    def _hear(self, data: bytes) -> None:
        self._in += data
        if b"\n" not in self._in:
            if len(self._in) > protocol.MAX_LINE_BYTES:
                raise ConnectionAbortedError
            return
        line, _, rest = bytes(self._in).partition(b"\n")
        self._in = bytearray(rest[: protocol.MAX_LINE_BYTES])
        try:
            command = protocol.decode_request(line).command
            if command not in self._answers:
                raise RemoteProtocolError(f"the supervisor does not answer {command!r}: ask a delivery process")
            data_out, stays = self._answers[command]()
            response = protocol.answered(data_out)
        except RemoteProtocolError as error:
            response, stays = protocol.Response(error=str(error)), False
        self._out += protocol.encode_line(response)
        if stays:
            self._stays, self.until_s = True, float("inf")
        else:
            self.until_s = max(self.until_s, monotonic_s() + IDLE_S) if not self._stays else self.until_s
