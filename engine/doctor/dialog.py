"""One SMTP conversation, line by line, each wait with a deadline."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from typing import NamedTuple

from engine.doctor.ports import State
from engine.log import escape

MAX_LINES = 100  # of one reply
MAX_LINE_BYTES = 2_048
_SHOWN = 160

_STATES: dict[int, State] = {errno.ECONNREFUSED: "refused", errno.EADDRNOTAVAIL: "no-source", errno.ETIMEDOUT: "timeout"}


class Reply(NamedTuple):
    """A reply's code and the texts of its lines."""

    code: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return escape(f"{self.code} {' '.join(self.lines)}"[:_SHOWN])


class Failure(Exception):
    """The conversation cannot go on: *state* as in `ports.Try`."""

    def __init__(self, state: State, text: str = "") -> None:
        super().__init__(text or state)
        self.state: State = state
        self.text = text


class Dialog:
    """A connection to an SMTP server; `close` when done."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._reader, self._writer, self._timeout_s = reader, writer, timeout_s

    @classmethod
    async def open(cls, address: str, port: int, source: str, timeout_s: float, context: ssl.SSLContext | None = None, name: str = "") -> Dialog:
        """Connect from *source* ("": as the kernel likes), with TLS at once if *context* is given; raises Failure."""
        try:
            async with asyncio.timeout(timeout_s):
                local = (source, 0) if source else None
                reader, writer = await asyncio.open_connection(address, port, local_addr=local, limit=MAX_LINE_BYTES)
        except TimeoutError:
            raise Failure("timeout") from None
        except OSError as error:
            raise Failure(_STATES.get(error.errno or 0, "unreachable"), _words(error)) from None
        dialog = cls(reader, writer, timeout_s)
        if context is not None:
            try:
                await dialog.start_tls(context, name)
            except Failure:
                dialog.close()
                raise
        return dialog

    @property
    def client(self) -> str:
        """Our end's address."""
        return str(self._writer.get_extra_info("sockname")[0])

    @property
    def certificate(self) -> bytes | None:
        """What the peer showed, in DER; None without TLS."""
        secured = self._writer.get_extra_info("ssl_object")
        shown: bytes | None = secured.getpeercert(binary_form=True) if secured is not None else None
        return shown

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """The handshake; raises Failure "no-tls"."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._writer.start_tls(context, server_hostname=name or None, ssl_handshake_timeout=self._timeout_s)
        except ssl.SSLCertVerificationError as error:
            raise Failure("no-tls", error.verify_message) from None
        except TimeoutError:
            raise Failure("no-tls", f"no handshake within {self._timeout_s:g} s") from None
        except (OSError, ValueError) as error:
            raise Failure("no-tls", _words(error)) from None

    async def reply(self) -> Reply:
        """The next reply; raises Failure "silent" or "closed"."""
        lines: list[str] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                while len(lines) < MAX_LINES:
                    line = (await self._reader.readuntil(b"\n")).rstrip(b"\r\n").decode("latin-1")
                    if len(line) < 3 or not line[:3].isdigit():
                        raise Failure("closed", f"not SMTP: {escape(line[:_SHOWN])}")
                    lines.append(line[4:])
                    if line[3:4] != "-":
                        return Reply(int(line[:3]), tuple(lines))
        except TimeoutError:
            raise Failure("silent") from None
        except asyncio.IncompleteReadError:
            raise Failure("closed") from None
        except (OSError, asyncio.LimitOverrunError) as error:
            raise Failure("closed", _words(error)) from None
        raise Failure("closed", "a reply without an end")

    async def say(self, command: str) -> Reply:
        """The reply to *command*."""
        try:
            self._writer.write(f"{command}\r\n".encode("latin-1"))
        except OSError as error:
            raise Failure("closed", _words(error)) from None
        return await self.reply()

    async def quit(self) -> None:
        """Part in good manners, as far as the peer lets us; then close."""
        try:
            await self.say("QUIT")
        except Failure:
            pass
        self.close()

    def close(self) -> None:
        self._writer.transport.abort()


def unverified() -> ssl.SSLContext:
    """A context that looks at a certificate without an opinion on it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return escape(str(error)[:_SHOWN]) or type(error).__name__
