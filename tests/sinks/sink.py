"""A scripted peer that listens: one thread accepts, one serves each connection, and leaving the `with` ends them all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.sinks.behaviours import BEHAVIOURS
from tests.sinks.secure import SECURE
from tests.sinks.session import Dialog, Message, Session

Connection = Dialog
REFUSE = "refuse-connection"


class Sink:
    """`with Sink("dot-4xx") as sink:` listens at sink.host, sink.port until the block ends.

    *behaviour* is a name of BEHAVIOURS, a Session class, or "refuse-connection" (the port is held, and nobody listens); *options* replace
    attributes of its class.  `messages` and `connections` grow while it runs; `behave` changes what the next connections meet.
    """

    def __init__(self, behaviour: str | type[Session] = "accept-all", *, host: str = "127.0.0.1", port: int = 0, **options: object) -> None:
        self.host = host
        self.messages: list[Message] = []
        self.connections: list[Connection] = []
        self._wanted_port, self._stopping = port, threading.Event()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._session, self._options = Session, options
        self._refuse = behaviour == REFUSE
        if not self._refuse:
            self.behave(behaviour, **options)

    def behave(self, behaviour: str | type[Session], **options: object) -> None:
        """What connections meet from now on; KeyError for an unknown name, TypeError for an option that it does not have."""
        session = {**BEHAVIOURS, **SECURE}[behaviour] if isinstance(behaviour, str) else behaviour
        if unknown := [option for option in options if not hasattr(session, option)]:
            raise TypeError(f"{session.name} has no option {', '.join(unknown)}")
        self._session, self._options = session, options

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if size := int(getattr(self._session, "receive_buffer_bytes", 0)):
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)  # connections inherit it
        self._listener.bind((self.host, self._wanted_port))
        self.port: int = self._listener.getsockname()[1]
        if not self._refuse:
            self._listener.listen(256)
            self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with self._changed:
            doomed = [self._listener, *self._sockets]
        for sock in doomed:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
            except OSError:
                continue  # not connected any more
        for thread in self._threads:
            thread.join(timeout=10)
        self._listener.close()

    def _spawn(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return  # shut down
            with self._changed:
                dialog = Dialog((peer[0], peer[1]), len(self.connections))
                self.connections.append(dialog)
                self._sockets.add(sock)
                self._changed.notify_all()
            self._spawn(lambda sock=sock, dialog=dialog: self._serve(sock, dialog))  # type: ignore[misc]

    def _serve(self, sock: socket.socket, dialog: Dialog) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = self._session(sock, dialog, self._delivered, **self._options)
        for wait in ("stall", "pause"):
            if hasattr(session, wait):
                setattr(session, wait, self._stopping.wait)
        session.run()
        with self._changed:
            self._sockets.discard(sock)
            if self._stopping.is_set() and dialog.ended != "quit":
                dialog.ended = "sink stopped"
            self._changed.notify_all()
        sock.close()

    def _delivered(self, message: Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def wait(self, true: Callable[[Sink], object], timeout_s: float = 20, what: str = "the sink's state") -> None:
        """Return once *true*(self), looked at whenever something happens; AssertionError at the deadline."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not true(self):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{what}: not within {timeout_s:.0f} s ({len(self.messages)} messages, {len(self.connections)} connections)")
                self._changed.wait(min(left, 0.1))

    def wait_for_messages(self, count: int, timeout_s: float = 20) -> list[Message]:
        """The messages once there are at least *count*."""
        self.wait(lambda sink: len(sink.messages) >= count, timeout_s, f"{count} messages")
        return self.messages

    def wait_for_connections(self, count: int, timeout_s: float = 20) -> list[Connection]:
        """The connections once there are at least *count*."""
        self.wait(lambda sink: len(sink.connections) >= count, timeout_s, f"{count} connections")
        return self.connections
