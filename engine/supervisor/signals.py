"""Signals as messages of the supervisor's loop, their names, and how one is sent to a child."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


def into(selector: selectors.BaseSelector, handle: Callable[[int], None]) -> tuple[socket.socket, socket.socket]:
    """Make signals readable like messages: the interpreter writes their numbers into a socket of the loop."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)

    def read(_events: int) -> None:
        try:
            numbers = reading.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            handle(number)

    selector.register(reading, selectors.EVENT_READ, read)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    return reading, writing


def block() -> None:
    """Let every signal wait: for `unblock`, perhaps by the program that we execute meanwhile."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock() -> None:
    """Hear what came meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def name(number: int) -> str:
    """`SIGKILL`; real-time signals have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def send(pid: int, number: int) -> None:
    """Signal a child that we have not waited for yet, so its pid is still its own."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # gone: the next turn waits for it
        return
