"""One connection of the spool process: bytes in, frames out, never blocking."""

from __future__ import annotations

import select
import socket

from engine.spool import wire

READ_BYTES = 256 << 10
MAX_INBOX_BYTES = 4 << 20  # read no further ahead of the groups than this (a longer frame is read whole)
MAX_ANNOUNCE_BYTES = 64 << 10  # with more than this unsent, announcements become one "look again"


class Session:
    """A connected worker, or whoever asks questions."""

    def __init__(self, connection: socket.socket, stranger: bool = False) -> None:
        self.connection = connection
        self.stranger = stranger  # another user's process: it may ask, no more
        self.fd = connection.fileno()
        self.inbox = bytearray()
        self.outgoing = bytearray()
        self.role = ""  # "" until its hello came
        self.index = 0
        self.virtual_mtas: tuple[str, ...] = ()
        self.fallback = False
        self.epoch = 0  # 0 until it is durable
        self.opening = False  # its epoch is in the making
        self.after: Session | None = None  # its hello waits until this one, whose work it takes over, has ended
        self.resumed = -1  # number of the last operation of the epoch that it resumed
        self.last = 0  # number of the last operation read
        self.upto = 0  # all up to this one are answered
        self.answered = 0  # ... and it has heard of those up to this one
        self.refused: list[tuple[int, str]] = []  # refusals that it may not have heard of
        self.look_again = False
        self.ended = False  # nothing more will come
        self.mask = 0  # what the poller watches it for; -1: no longer

    @property
    def name(self) -> str:
        """`delivery/0`."""
        return f"{self.role}/{self.index}" if self.role else f"connection {self.fd}"

    def read(self) -> None:
        """Take what has come, up to READ_BYTES; `ended` at its end or its failure."""
        try:
            data = self.connection.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self.inbox += data
        else:
            self.ended = True

    @property
    def hung_up(self) -> bool:
        """Whether its process is gone, though not all that it sent may have been read."""
        if self.ended:
            return True
        poller = select.poll()
        poller.register(self.fd, select.POLLRDHUP)
        return bool(poller.poll(0))

    @property
    def wants_more(self) -> bool:
        """Whether it may be read now."""
        if len(self.inbox) < MAX_INBOX_BYTES:
            return not self.ended
        return not self.ended and len(self.inbox) < 4 + wire.LENGTH.unpack_from(self.inbox)[0]

    @property
    def holds_frame(self) -> bool:
        """Whether `take_frame` would return one."""
        inbox = self.inbox
        return len(inbox) >= 4 and len(inbox) >= 4 + wire.LENGTH.unpack_from(inbox)[0]

    def take_frame(self) -> bytes | None:
        """The next whole frame; RemoteProtocolError for one that is too long."""
        return next(wire.take_frames(self.inbox), None)

    def give_back(self, data: bytes) -> None:
        """`take_frame` will return *data* once more."""
        self.inbox[:0] = wire.LENGTH.pack(len(data)) + data

    def tell(self, message: object) -> None:
        """Queue a frame; `flush` sends."""
        self.outgoing += wire.frame(message)

    def announce(self, numbers: list[int], stamp_ms: int) -> None:
        """Queue an announcement, or remember to say "look again" if it does not read."""
        if len(self.outgoing) > MAX_ANNOUNCE_BYTES:
            self.look_again = True
        elif not self.look_again:
            self.tell(wire.Announce(numbers, stamp_ms))

    def flush(self, stamp_ms: int) -> None:
        """Send what the peer takes."""
        while self.outgoing:
            try:
                sent = self.connection.send(self.outgoing)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # its end is seen when it is read
                self.outgoing.clear()
                return
            del self.outgoing[:sent]
            if not self.outgoing and self.look_again:
                self.look_again = False
                self.tell(wire.Announce([], stamp_ms))

    def hear(self, answered: int) -> None:
        """It has heard the answers up to *answered*."""
        if answered > self.answered:
            self.answered = answered
            if self.refused:
                self.refused = [entry for entry in self.refused if entry[0] > answered]
