"""Peers that offer STARTTLS, one named misbehaviour each; `context` is an option that all of them need (tests.certificates.server_context)."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable

from tests.sinks.session import Hangup, Session

READY = b"220 2.0.0 ready to start TLS\r\n"


class Secure(Session):
    """Speaks TLS once it is asked to, and takes everything."""

    name = "tls"
    context: ssl.SSLContext | None = None
    _tls: ssl.SSLObject | None = None

    def answer(self, stage: str, argument: str) -> bytes:
        """STARTTLS stands first, until it has been said."""
        if stage == "ehlo" and self._tls is None:
            return super().answer(stage, argument).replace(b"sink.example\r\n", b"sink.example\r\n250-STARTTLS\r\n", 1)
        return super().answer(stage, argument)

    def command(self, line: str) -> None:
        """STARTTLS besides the others."""
        if line.upper() == "STARTTLS" and self._tls is None:
            self.dialog.commands.append(line)
            self.starttls()
        else:
            super().command(line)

    def starttls(self) -> None:
        """Say 220 and shake hands."""
        self.write(READY)
        self.shake()

    def shake(self, before: Callable[[], None] = lambda: None) -> None:
        """A server's handshake, with *before* ahead of every piece that it sends."""
        assert self.context is not None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                before()
                self._send()
                self._receive()
                continue
            except ssl.SSLError as error:
                self.dialog.tls_error = str(error.reason)
                self._send()
                raise Hangup from error
            break
        before()
        self._send()
        self._tls = tls
        self.pending = b""
        self.dialog.tls = tls.version() or ""
        self.dialog.tls_resumed = bool(tls.session_reused)
        self.dialog.client_certificate = tls.getpeercert(True) or b""

    def _send(self) -> None:
        if data := self._outgoing.read():
            self.sock.sendall(data)

    def _receive(self) -> None:
        self._incoming.write(super().read())

    def read(self, size: int = 1 << 18) -> bytes:
        """Plaintext, however it came."""
        while self._tls is not None:
            try:
                if data := self._tls.read(size):
                    return data
                raise Hangup
            except ssl.SSLWantReadError:
                self._receive()
            except ssl.SSLZeroReturnError:
                self.dialog.ended = "closed by peer"
                raise Hangup from None
        return super().read(size)

    def write(self, data: bytes) -> None:
        """The same."""
        if self._tls is None:
            super().write(data)
            return
        self._tls.write(data)
        self._send()


class Refuses(Secure):
    """Offers STARTTLS, and will not have it."""

    name = "tls-refused"

    def starttls(self) -> None:
        """454."""
        self.write(b"454 4.7.0 TLS not available due to temporary reason\r\n")


class Closes(Secure):
    """Closes when the handshake has begun."""

    name = "tls-closes"

    def starttls(self) -> None:
        """220, and the end."""
        self.write(READY)
        self.read()
        raise Hangup


class Garbage(Secure):
    """Answers the handshake in plain words."""

    name = "tls-garbage"

    def starttls(self) -> None:
        """220, and no TLS."""
        self.write(READY)
        self.read()
        self.write(b"250-sink.example\r\n250 I speak no TLS\r\n")
        self.read()


class Injects(Secure):
    """Somebody on the way puts a reply behind the 220, where it would be taken for the first one in TLS."""

    name = "tls-injects"

    def starttls(self) -> None:
        """220 and more."""
        self.write(READY + b"250-evil.example\r\n250 SIZE 1\r\n")
        self.shake()


class Silent(Secure):
    """Says 220 and no more."""

    name = "tls-silent"

    def starttls(self) -> None:
        """Read on."""
        self.write(READY)
        while True:
            self.read()


class Dribbles(Secure):
    """Sends its part of the handshake a byte at a time, and takes longer than anybody should wait."""

    name = "tls-dribbles"
    pause: Callable[[float], object] = time.sleep
    interval_s = 0.02

    def starttls(self) -> None:
        """220, and then slowly."""
        self.write(READY)
        self.shake()

    def _send(self) -> None:
        data = self._outgoing.read()
        for at in range(len(data)):
            self.sock.sendall(data[at : at + 1])
            if self.pause(self.interval_s):
                raise Hangup


class ClosesAfterwards(Secure):
    """Shakes hands, and then will not go on: as one that refuses a client's certificate in TLS 1.3."""

    name = "tls-closes-afterwards"

    def starttls(self) -> None:
        """220, TLS, and the end."""
        super().starttls()
        raise Hangup


SECURE: dict[str, type[Session]] = {
    each.name: each for each in (Secure, Refuses, Closes, Garbage, Injects, Silent, Dribbles, ClosesAfterwards)
}
