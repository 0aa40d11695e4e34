"""asyncio transports over plain non-blocking sockets, for the many short connections that an MTA has: the definition, in plain Python.

A `Streams` has an epoll of its own that the process's event loop watches like one descriptor: one callback of the loop serves every socket that is
ready, and accepts drain in a burst.  To the protocols these are ordinary transports; what they save is the loop's own bookkeeping per connection
and per read, which costs more than our whole protocol core (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol

RECEIVE_BYTES = 64 * 1024
EVENTS_AT_ONCE = 128
ACCEPTS_AT_ONCE = 64
HIGH_WATER_BYTES = 64 * 1024
ACCEPT_AGAIN_S = 0.1  # after an accept that failed (no descriptor left, say)

_IN, _OUT, _BROKEN = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR
_NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

_NOW_WITH_MORE = _NOW | socket.MSG_MORE


class StreamProtocol(Protocol):
    """Whom a stream tells what happens: what asyncio.Protocol is, without having to be one."""

    def connection_made(self, transport: Any, /) -> None:
        """The stream is open."""

    def data_received(self, data: bytes, /) -> None:
        """Bytes came."""

    def eof_received(self) -> bool | None:
        """Nothing more comes; false: close."""

    def pause_writing(self) -> None:
        """The peer reads slowly."""

    def resume_writing(self) -> None:
        """It has caught up."""

    def connection_lost(self, exc: Exception | None, /) -> None:
        """The stream is closed, because of *exc* unless we wanted it so; always the last call."""


MakeProtocol = Callable[[], StreamProtocol]


class Streams:
    """All streams of one event loop; `close` when done with them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._fresh: set[int] = set()  # descriptors that came in this turn: an event for one is of a closed stream that had it before
        loop.add_reader(self._epoll.fileno(), self._turn)

    def close(self) -> None:
        """Serve nothing any more; sockets that are still open are their owners' to close."""
        if not self._epoll.closed:
            self.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._handlers.clear()

    def open(self, sock: socket.socket, peername: Any, protocol: StreamProtocol) -> Stream:
        """A transport over *sock*, which is connected and from now on the stream's; `protocol.connection_made` has been called."""
        stream = Stream(self, sock, peername, protocol)
        self.watch(stream.fd, _IN, stream.ready)
        try:
            protocol.connection_made(stream)
        except Exception:
            stream.abort()
            raise
        return stream

    def listen(self, sock: socket.socket, make_protocol: MakeProtocol, on_error: Callable[[OSError], None]) -> Callable[[], None]:
        """Accept connections on *sock*, which is the streams' from now on; returns what ends that.

        *on_error*: an accept failed; the next try is ACCEPT_AGAIN_S later.
        """
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it

        def again() -> None:
            if descriptor in self._handlers:
                self.change(descriptor, _IN)

        def ready(_mask: int) -> None:
            for _ in range(ACCEPTS_AT_ONCE):
                if descriptor not in self._handlers:  # ended meanwhile
                    return
                try:
                    connection, peername = sock.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    return
                except OSError as error:
                    self.change(descriptor, 0)  # the socket stays ready: without a pause we would spin
                    self.loop.call_later(ACCEPT_AGAIN_S, again)
                    on_error(error)
                    return
                try:
                    protocol = make_protocol()
                except Exception:
                    connection.close()
                    raise
                self.open(connection, peername, protocol)

        descriptor = sock.fileno()
        self.watch(descriptor, _IN, ready)
        return lambda: self.forget(descriptor)

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call *handler* with the events of *fd* that are in *mask*."""
        self._handlers[fd] = handler
        self._fresh.add(fd)
        self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        """Watch *fd* for other events."""
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Watch *fd* no longer; to be called before it is closed."""
        if fd in self._handlers:
            self._epoll.unregister(fd)
            del self._handlers[fd]  # which may close it

    def _turn(self) -> None:
        handlers, fresh = self._handlers, self._fresh
        fresh.clear()
        for fd, mask in self._epoll.poll(0, EVENTS_AT_ONCE):
            handler = handlers.get(fd)
            if handler is None or fd in fresh:  # closed by an event before it
                continue
            try:
                handler(mask)
            except Exception as error:  # noqa: BLE001 - a fault of one protocol must not cost the others their turn
                self._fault(error, handler)

    def _fault(self, error: Exception, handler: Callable[[int], None]) -> None:
        """A protocol raised: a fault of ours, which costs it its connection and the others nothing."""
        stream = getattr(handler, "__self__", None)
        context: dict[str, Any] = {"message": "fault in a protocol", "exception": error}
        if isinstance(stream, Stream):
            context |= {"protocol": stream.protocol, "transport": stream}
            stream.abort()
        self.loop.call_exception_handler(context)


class Stream(asyncio.Transport):
    """One connected socket.  Writes go out at once as far as the kernel takes them; `connection_lost` always comes in a later turn of the loop."""

    __slots__ = ("_choked", "_closing", "_high", "_mask", "_pending", "_said_all", "_size", "_sock", "_streams", "fd", "peername", "protocol")

    def __init__(self, streams: Streams, sock: socket.socket, peername: Any, protocol: StreamProtocol) -> None:
        self._streams = streams
        self._sock = sock
        self.fd = sock.fileno()
        self.peername = peername
        self.protocol = protocol
        self._pending: list[memoryview] = []  # not taken by the kernel yet
        self._size = 0  # bytes in it
        self._high = HIGH_WATER_BYTES
        self._choked = False  # the protocol was told to pause
        self._closing = False
        self._said_all = False  # write_eof was called
        self._mask = _IN

    # --- asyncio.Transport -----------------------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername`, `sockname` or `socket`."""
        if name == "peername":
            return self.peername
        if name == "socket":
            return self._sock
        if name == "sockname" and self.fd >= 0:
            return self._sock.getsockname()
        return default

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the protocol over *high* bytes; it resumes when all are gone (*low* is not used)."""
        self._high = HIGH_WATER_BYTES if high is None else high

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*, or keep what the kernel does not take."""
        self._write(data, _NOW)

    def _write(self, data: bytes | bytearray | memoryview, flags: int) -> None:
        if self._closing or self._said_all:
            return
        if self._pending:
            self._keep(memoryview(data))
            return
        try:
            sent = self._sock.send(data, flags)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        if sent < len(data):
            self._keep(memoryview(data)[sent:])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of them in one system call, as far as the kernel takes them."""
        if self._closing or self._said_all:
            return
        parts = list(list_of_data)
        sent = 0
        if not self._pending:
            try:
                sent = self._sock.sendmsg(parts, (), _NOW)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._fail(error)
                return
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            else:
                self._keep(memoryview(part)[sent:])
                sent = 0

    def pause_reading(self) -> None:
        """Let what comes wait in the kernel."""
        self._watch(self._mask & ~_IN)

    def resume_reading(self) -> None:
        """Read again."""
        if not self._closing:
            self._watch(self._mask | _IN)

    def is_reading(self) -> bool:
        """Whether it reads."""
        return bool(self._mask & _IN)

    def can_write_eof(self) -> bool:
        """Yes."""
        return True

    def write_eof(self) -> None:
        """Tell the peer, behind what was written, that nothing more comes; what it still sends is read."""
        if not self._closing and not self._said_all:
            self._said_all = True
            if not self._pending:
                self._shut()

    def close(self) -> None:
        """Close once everything that was written is sent; nothing more is read."""
        if not self._closing:
            self._closing = True
            self._watch(self._mask & ~_IN)
            if not self._pending:
                self._streams.loop.call_soon(self._lost, None)

    def finish(self, data: bytes) -> None:
        """`write` and `close`: where the kernel takes *data* whole, one segment carries it and the end, and the peer wakes once."""
        if data:
            self._write(data, _NOW_WITH_MORE)
        self.close()

    def abort(self) -> None:
        """Close now."""
        self._fail(None)

    # --- inside ----------------------------------------------------------------------------------------------------------------------

    def ready(self, mask: int) -> None:
        """The socket can be read or written, or is broken."""
        if mask & _OUT:
            self._send_pending()
        if mask & _IN and self._mask & _IN:
            self._receive()
        elif mask & _BROKEN and self.fd >= 0:
            self._fail(ConnectionResetError("connection reset by peer"))

    def _receive(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES, _NOW)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if data:
            self.protocol.data_received(data)
        elif self.protocol.eof_received():
            self.pause_reading()
        else:
            self.close()

    def _keep(self, data: memoryview) -> None:
        self._pending.append(data)
        self._size += len(data)
        self._watch(self._mask | _OUT)
        if self._size > self._high and not self._choked:
            self._choked = True
            self.protocol.pause_writing()

    def _send_pending(self) -> None:
        pending = self._pending
        try:
            sent = self._sock.sendmsg(pending[:64], (), _NOW)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        self._size -= sent
        while pending and sent >= len(pending[0]):
            sent -= len(pending.pop(0))
        if sent:
            pending[0] = pending[0][sent:]
        if pending:
            return
        self._watch(self._mask & ~_OUT)
        if self._said_all and not self._closing:
            self._shut()
        if self._closing:
            self._lost(None)
        elif self._choked:
            self._choked = False
            self.protocol.resume_writing()

    def _shut(self) -> None:
        with contextlib.suppress(OSError):  # reset already: the next event says so
            self._sock.shutdown(socket.SHUT_WR)

    def _watch(self, mask: int) -> None:
        if mask != self._mask and self.fd >= 0:
            self._mask = mask
            self._streams.change(self.fd, mask)

    def _fail(self, error: Exception | None) -> None:
        """Close at once, and tell the protocol in a later turn."""
        if self.fd >= 0:
            self._closing = True
            self._release()
            self._streams.loop.call_soon(self.protocol.connection_lost, error)

    def _lost(self, error: Exception | None) -> None:
        if self.fd >= 0:
            self._release()
            self.protocol.connection_lost(error)

    def _release(self) -> None:
        self._streams.forget(self.fd)
        self.fd = -1
        self._pending.clear()
        self._size = 0
        self._sock.close()
