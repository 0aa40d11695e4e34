"""Answers 421 on the listening sockets of a slot that has no working listener: a socket that nobody accepts from hangs its share of all clients."""

from __future__ import annotations

import errno
import os
import selectors
import socket

from engine.process import ListenSocket

ACCEPTS_AT_ONCE = 64
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
ANSWER = b"421 4.3.2 Service not available, please try again later\r\n"


class Takeover:
    """The sockets that the supervisor answers itself for now."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.answered = 0  # clients sent away, ever
        self._selector = selector
        self._held: dict[str, list[socket.socket]] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # given up where no other descriptor is left to accept with

    def holds(self, name: str) -> bool:
        """Whether the sockets of slot *name* are answered here."""
        return name in self._held

    def begin(self, name: str, sockets: list[ListenSocket]) -> None:
        """Answer for slot *name* until `end`."""
        held = []
        for listening in sockets:
            duplicate = socket.socket(fileno=socket.dup(listening.fd))
            duplicate.setblocking(False)
            self._selector.register(duplicate, selectors.EVENT_READ, lambda _events, door=duplicate: self._answer(door))
            held.append(duplicate)
        self._held[name] = held

    def end(self, name: str) -> None:
        """A listener serves the slot again."""
        for door in self._held.pop(name, []):
            self._selector.unregister(door)
            door.close()

    def _answer(self, door: socket.socket) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                client, _peer = door.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR and self._spare >= 0:
                    self._hang_up(door)
                return  # nobody waits, or who did has gone already
            with client:
                client.setblocking(False)
                try:
                    client.send(ANSWER)
                    client.shutdown(socket.SHUT_WR)
                except OSError:  # the client went first
                    continue
                self.answered += 1

    def _hang_up(self, door: socket.socket) -> None:
        """No descriptor is left: close one client's connection unanswered, or it would wake us again and again."""
        os.close(self._spare)
        self._spare = -1
        try:
            door.accept()[0].close()
        except OSError:  # the whole system has none
            pass
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # somebody was faster
            return
