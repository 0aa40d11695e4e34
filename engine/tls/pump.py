"""One TLS connection as a pump: ciphertext in, plaintext out, and the other way round (ssl.MemoryBIO).  Knows no socket and no time.

Bounds: of what goes in, at most one record (16 KB and its frame) is kept; what comes out must be fetched after every call.
"""

from __future__ import annotations

import ssl
from typing import Final

from engine.errors import EngineError

_READ_BYTES: Final = 64 * 1024


class TlsError(EngineError):
    """A handshake or a record failed; the text says why, in OpenSSL's words.  What `Pump.to_send` then gives is the alert for the peer."""


class Pump:
    """After every call, what `to_send` gives must be written."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "broken", "ended", "established")

    def __init__(self, context: ssl.SSLContext, *, server_name: str | None = None, session: ssl.SSLSession | None = None) -> None:
        """*context* says which side we are; *server_name* and *session* are a client's: whom it wants, and what it resumes.  TlsError."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name, session)
        except ValueError as error:  # a name that no certificate can be for
            raise TlsError(f"{server_name!r} is no host name: {error}") from error
        self.established = False  # the handshake is done
        self.ended = False  # the peer has said that nothing more comes
        self.broken = ""  # why nothing more can come, where that was found behind plaintext

    def begin(self) -> None:
        """A client's first words are to be sent.  TlsError."""
        self._shake()

    def receive(self, data: bytes) -> bytes:
        """The plaintext that came to an end with *data*; b"" while there is none.  TlsError: the connection is lost.

        What came whole before a record that is bad is given all the same (it may be the 250 to a message), and `broken` says why it is the last.
        """
        self._incoming.write(data)
        if not self.established and not self._shake():
            return b""
        chunks: list[bytes] = []
        try:
            while chunk := self._tls.read(_READ_BYTES):
                chunks.append(chunk)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            if not chunks:
                raise TlsError(words(error)) from error
            self.broken = words(error)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt *data*, which is not empty.  TlsError: the handshake is not done, or the connection is lost."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise TlsError(words(error)) from error

    def to_send(self) -> bytes:
        """Ciphertext to write now: each byte is given once."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> None:
        """Tell the peer that nothing more comes; nobody waits for its answer."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # it has not answered yet, or the handshake is not done: there is nothing to say
            return

    @property
    def protocol(self) -> str:
        """`TLSv1.3`; "" before the handshake."""
        return self._tls.version() or ""

    @property
    def cipher(self) -> str:
        """`TLS_AES_256_GCM_SHA384`; "" before the handshake."""
        found = self._tls.cipher()
        return found[0] if found else ""

    @property
    def resumed(self) -> bool:
        """Whether an earlier session went on."""
        return bool(self._tls.session_reused)

    @property
    def context(self) -> ssl.SSLContext:
        """What it was made of."""
        return self._tls.context

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a client may resume: with TLS 1.3 only once the peer's first words after the handshake have come."""
        return self._tls.session

    @property
    def peer_certificate(self) -> bytes:
        """The peer's certificate in DER; b"" if it showed none."""
        return self._tls.getpeercert(True) or b""

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise TlsError(words(error)) from error
        self.established = True
        return True


def words(error: ssl.SSLError | ssl.CertificateError) -> str:
    """OpenSSL's reason without its file names: `no shared cipher`, `certificate verify failed: self-signed certificate`."""
    verdict = getattr(error, "verify_message", "")
    reason = str(getattr(error, "reason", None) or error.args[-1])
    text = reason.replace("_", " ").lower() if reason.isupper() or "_" in reason else reason
    return f"{text}: {verdict}" if verdict else text
