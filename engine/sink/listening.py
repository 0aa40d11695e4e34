"""The sink's connections: bytes into the protocol's core, its replies out, after the latency that is to be simulated."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from engine.mail.reply import reply
from engine.sink.behaviour import Behaviour, Counts, Session
from engine.smtp.server import Phase, ServerConnection
from engine.stream import Stream, Streams

IDLE_S = 300.0  # a client that says nothing for so long is sent away
TICK_S = 1.0
RESERVED_FDS = 64
WAITING_PART = 8  # of the descriptors, one in so many is for those who wait for a slot, under dummy-smtp-await-slot
AWAIT_SLOT_S = 300.0  # they wait so long
REPLIES_HELD_MOST = 100  # of one connection, under latency: then it is read no more until some are sent
BACKLOG = 4096
BUSY = reply(421, "4.3.2 Too many connections")
TOO_SLOW = reply(421, "4.4.2 Idle for too long")
SHUTTING_DOWN = reply(421, "4.3.2 Shutting down")


class Sink:
    """Serves one behaviour on any number of sockets, within the limit of descriptors; all of it in one loop."""

    def __init__(self, behaviour: Behaviour, random: Random | None = None, on_error: Callable[[OSError], None] = lambda error: None) -> None:
        self.behaviour = behaviour
        self.counts = Counts()
        self.limits = behaviour.limits()
        self.random = random or Random()
        self.loop = asyncio.get_running_loop()
        self.now_s = self.loop.time()  # as of the last tick
        self.on_refused: Callable[[str], None] | None = None  # told each recipient that the blacklist costs
        self._on_error = on_error
        self._streams = Streams(self.loop)
        self._ends: list[Callable[[], None]] = []
        self._connections: dict[_Connection, None] = {}
        self._waiting: dict[_Connection, None] = {}  # of them: for a slot, the oldest first
        most = max(2, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_FDS)
        self.waiting_most = max(1, most // WAITING_PART) if behaviour.await_slot else 0
        self.most = most - self.waiting_most  # connections served at once
        self._ticking = self.loop.call_later(TICK_S, self._tick)

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Accept on *sockets*, which are bound; they are the sink's from now on."""
        for bound in sockets:
            bound.listen(BACKLOG)
            self._ends.append(self._streams.listen(bound, self._connection, self._on_error))

    def close(self) -> None:
        """Accept nothing more, and end every connection with 421."""
        for end in self._ends:
            end()
        self._ends.clear()
        self._ticking.cancel()
        for connection in list(self._connections):
            connection.end(SHUTTING_DOWN.encode())

    def _connection(self) -> _Connection:
        return _Connection(self)

    def enter(self, connection: _Connection) -> bool:
        """False: there are too many, and it must go again at once, unless it `waits`."""
        room = not self._waiting and len(self._connections) < self.most
        self._connections[connection] = None
        self.counts.connections += 1
        if not room and len(self._waiting) < self.waiting_most:
            self._waiting[connection] = None
            connection.waits = True
        return room

    def leave(self, connection: _Connection) -> None:
        """It is closed."""
        self._connections.pop(connection, None)
        self._waiting.pop(connection, None)
        while self._waiting and self._ends and len(self._connections) - len(self._waiting) < self.most:
            first = next(iter(self._waiting))
            del self._waiting[first]
            first.admit()

    def _tick(self) -> None:
        self._ticking = self.loop.call_later(TICK_S, self._tick)
        self.now_s = self.loop.time()
        for connection in list(self._connections):
            connection.tick(self.now_s)


class _Connection:
    """One client."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._core = ServerConnection(Session(sink.behaviour, sink.counts, sink.random, sink.on_refused), sink.limits)
        self._transport: Stream | None = None
        self._held: deque[tuple[bytes, bool]] = deque()  # replies that latency keeps back, and whether each is the last
        self._choked = False
        self._active_s = sink.now_s
        self._ending = False
        self.waits = False  # for a slot

    def connection_made(self, transport: Stream) -> None:
        """Greet."""
        self._transport = transport
        if not self._sink.enter(self):
            if self.waits:
                transport.pause_reading()
            else:
                self.end(BUSY.encode())
            return
        self._greet()

    def admit(self) -> None:
        """It waited for a slot, and now has one."""
        self.waits = False
        self._active_s = self._sink.now_s
        self._greet()
        if self._transport is not None:
            self._transport.resume_reading()

    def _greet(self) -> None:
        refusal = self._sink.behaviour.replies.get("greeting")
        if refusal is not None:
            self._sink.counts.refused += 1
        self._say(self._core.open(refusal))

    def data_received(self, data: bytes) -> None:
        """Answer."""
        if self._ending:
            return
        self._active_s = self._sink.now_s
        out = self._core.receive(data)
        if out or self._core.phase is Phase.CLOSED:
            self._say(out)

    def _say(self, out: bytes) -> None:
        last = self._ending = self._core.phase is Phase.CLOSED
        latency_s = self._sink.behaviour.latency_s
        if not latency_s:
            self._write(out, last)
            return
        self._held.append((out, last))
        self._sink.loop.call_later(latency_s, self._release)
        if len(self._held) >= REPLIES_HELD_MOST and self._transport is not None:
            self._transport.pause_reading()

    def _release(self) -> None:
        """The oldest reply has been kept back long enough."""
        self._write(*self._held.popleft())
        if len(self._held) == REPLIES_HELD_MOST - 1 and self._transport is not None and not self._choked:
            self._transport.resume_reading()

    def _write(self, out: bytes, last: bool) -> None:
        if self._transport is None:
            return
        if last:
            self._transport.finish(out)
        else:
            self._transport.write(out)

    def end(self, last: bytes) -> None:
        """Say *last* and close."""
        self._ending = True
        self._held = deque((b"", True) for _ in self._held)
        if self._transport is not None:
            self._transport.finish(last)

    def tick(self, now_s: float) -> None:
        """Once a second."""
        if self.waits and not self._ending:
            if now_s - self._active_s > AWAIT_SLOT_S:
                self._active_s = now_s
                self.end(BUSY.encode())
        elif now_s - self._active_s > IDLE_S + self._sink.behaviour.latency_s:
            if self._ending and self._transport is not None:
                self._transport.abort()
            else:
                self._active_s = now_s
                self.end(TOO_SLOW.encode())

    def eof_received(self) -> bool:
        """The client has closed its side: so do we, once what is held is said."""
        return bool(self._held)

    def pause_writing(self) -> None:
        """It does not read its replies."""
        self._choked = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._choked = False
        if self._transport is not None and len(self._held) < REPLIES_HELD_MOST:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self._transport = None
        self._core.lost()
        self._sink.leave(self)
