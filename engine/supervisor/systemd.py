"""What a service manager is told: ready, stopping, alive, and one line of status (sd_notify(3)).  Without one it costs nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from engine.clock import monotonic_s

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Sends datagrams to $NOTIFY_SOCKET, none of which is waited for; `beat` sends again what did not go in."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes NOTIFY_SOCKET and the WATCHDOG variables out of *environment*: they are not for children."""
        self.taken = {name: environment.pop(name) for name in _VARIABLES if name in environment}  # for a program that takes our place
        address, watchdog, pid = (self.taken.get(name, "") for name in _VARIABLES)
        mine = not pid or pid == str(os.getpid())
        self.every_s = int(watchdog) / 2e6 if mine and watchdog.isascii() and watchdog.isdigit() and int(watchdog) else 0.0  # 0: no watchdog
        self._beat_at_s = 0.0
        self._said = ""
        self._owed = ""  # that we are ready, while the manager has too much to read
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) if address else None

    def ready(self, status: str) -> None:
        """Everything works."""
        text = f"READY=1\nSTATUS={status}"
        self._owed = "" if self._send(text) else text

    def reloading(self) -> None:
        """A new configuration or program is being put in force; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic_s() * 1e6)}")

    def stopping(self, within_s: float) -> None:
        """We drain, and may need *within_s* for it."""
        self._owed = ""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}\nSTATUS=draining")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; what has been said already is not repeated."""
        if text != self._said:
            self._said = text
            self._send(f"STATUS={text}")

    def beat(self, now_s: float) -> None:
        """The supervisor's loop has come round; tell the watchdog if it is time."""
        if self._owed and self._send(self._owed):
            self._owed = ""
        if self.every_s and now_s >= self._beat_at_s and self._send("WATCHDOG=1"):
            self._beat_at_s = now_s + self.every_s

    def _send(self, text: str) -> bool:
        """Whether that is done with: it went in, or nobody listens."""
        if self._socket is not None:
            try:
                self._socket.sendto(text.encode(), self._address)
            except BlockingIOError:
                return False
            except OSError:
                return True
        return True
