"""A stream over a stream: to the protocol above it is a transport, to the transport below it is a protocol; between them it turns the pump.

So a connection that speaks TLS and one that does not run the same code, and the one that does not pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

from engine.tls.pump import Pump, TlsError

ANSWERS_MOST: Final = 64 * 1024  # a handshake takes some 6 KB, an answer to a request for new keys 27 bytes


class Lower(Protocol):
    """What it uses of the transport below (engine.stream.Stream)."""

    protocol: Any

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...
    def is_closing(self) -> bool: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_reading(self) -> bool: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def finish(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class Upper(Protocol):
    """Whom it tells what happens: a protocol as any transport has, and two calls more, of which exactly one comes unless the stream ends first."""

    def secured(self, layer: Layer) -> None:
        """The handshake is done: `Layer.protocol` and `cipher` say how."""

    def not_secured(self, why: str) -> None:
        """The handshake failed; the stream below is closing."""

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class Layer:
    """Takes the place of *above* under *below*; `begin` starts a client's handshake, a server's begins with the peer's first bytes."""

    __slots__ = ("_above", "_answers_bytes", "_below", "_deaf", "_error", "_told", "pump")

    def __init__(self, below: Lower, above: Upper, pump: Pump) -> None:
        self._below = below
        self._above = above
        self._told = False  # of the end of the handshake
        self._error: Exception | None = None  # what the stream ended of
        self._deaf = False  # whatever still comes is thrown away
        self._answers_bytes = 0  # of TLS itself, since the peer last had taken everything
        self.pump = pump
        below.protocol = self

    def begin(self) -> None:
        """A client's first words go out."""
        self.pump.begin()
        self._flush()

    @property
    def protocol(self) -> str:
        """`TLSv1.3`."""
        return self.pump.protocol

    @property
    def cipher(self) -> str:
        """`TLS_AES_256_GCM_SHA384`."""
        return self.pump.cipher

    # --- what the stream below calls ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Ciphertext, cut anywhere."""
        if self._deaf:
            return
        pump, above = self.pump, self._above
        try:
            plain = pump.receive(data)
        except TlsError as error:
            self._failed(str(error))
            return
        self._answer()
        if self._deaf:
            return
        if not self._told and pump.established:
            self._told = True
            above.secured(self)
        if plain:
            above.data_received(plain)
        if pump.broken and not self._deaf:
            self._failed(pump.broken)
        if pump.ended and not self._deaf:
            self._deaf = True
            if not above.eof_received():
                self.close()

    def eof_received(self) -> bool | None:
        """The peer closed without a word.  SMTP has ends of its own, so nothing is lost by it."""
        return bool(self._told and self._above.eof_received())

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._below.protocol = self._above  # no circle is left for the collector
        self._deaf = True
        self._above.connection_lost(exc or self._error)

    def _failed(self, why: str) -> None:
        self._deaf = True
        self._flush()  # the alert
        if self._told:
            self._error = ConnectionError(f"TLS: {why}")
            self._below.close()
        else:
            self._told = True
            self._above.not_secured(why)
            self._below.close()

    def _answer(self) -> None:
        """Write what TLS itself has to say: the handshake, or new keys, which a peer may ask for as often as it likes and never read."""
        data = self.pump.to_send()
        if data:
            self._answers_bytes = len(data) + (self._answers_bytes if self._below.get_write_buffer_size() else 0)
            self._below.write(data)
            if self._answers_bytes > ANSWERS_MOST:
                self._failed("the peer asks for new keys again and again, and reads nothing")

    def _flush(self) -> None:
        data = self.pump.to_send()
        if data:
            self._below.write(data)

    # --- what the protocol above calls -------------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the stream below."""
        return self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._below.is_closing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of ciphertext."""
        self._below.set_write_buffer_limits(high)

    def get_write_buffer_size(self) -> int:
        """Bytes of ciphertext that the kernel has not taken."""
        return self._below.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if data and not self._below.is_closing():
            self._put(data)
            self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """All of them in one system call."""
        self.write(b"".join(list_of_data))

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self.pump.send(data)
        except TlsError:  # broken by what the peer sent: reading says so, and closes
            self._below.close()

    def pause_reading(self) -> None:
        """Let what comes wait in the kernel."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._below.resume_reading()

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self._below.is_reading()

    def can_write_eof(self) -> bool:
        """Yes: as the end of the whole stream."""
        return True

    def write_eof(self) -> None:
        """Tell the peer that nothing more comes; what it still sends is thrown away unread, so that it can take our last words."""
        self._deaf = True
        self.pump.close()
        self._flush()
        self._below.write_eof()

    def close(self) -> None:
        """Close once everything is sent; the peer's goodbye is not waited for."""
        self.finish(b"")

    def finish(self, data: bytes) -> None:
        """`write` and `close`."""
        self._deaf = True
        if self._below.is_closing():
            return
        if data:
            self._put(data)
        self.pump.close()
        self._below.finish(self.pump.to_send())

    def abort(self) -> None:
        """Close now."""
        self._deaf = True
        self._below.abort()
