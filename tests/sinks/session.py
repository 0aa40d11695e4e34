"""One connection of a scripted peer: a well-behaved receiver (RFC 5321) whose single answers a behaviour overrides."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_LINE = 1 << 20
MAX_BODY = 256 << 20


class Hangup(Exception):
    """Raised in an answer: close the connection now, with nothing more said."""


@dataclass(frozen=True, slots=True)
class Message:
    """One accepted message, as it came."""

    sender: str
    recipients: tuple[str, ...]  # those that were accepted
    raw: bytes  # wire form: dot-stuffed, without the final dot
    ehlo: str
    peer: tuple[str, int]  # the client's address and port
    mail_parameters: str
    connection: int  # index in sink.connections
    chunked: bool = False  # it came by BDAT: raw is what came

    @property
    def content(self) -> bytes:
        """The message itself: dots unstuffed, CRLF line ends."""
        if self.chunked:
            return self.raw
        return self.raw[1:].replace(b"\r\n.", b"\r\n") if self.raw.startswith(b".") else self.raw.replace(b"\r\n.", b"\r\n")

    @property
    def body(self) -> bytes:
        """The content after the header section."""
        return self.content.partition(b"\r\n\r\n")[2]

    @property
    def header(self) -> bytes:
        """The header section, its last CRLF included, without the empty line."""
        return self.content.partition(b"\r\n\r\n")[0] + b"\r\n"


@dataclass(slots=True)
class Dialog:
    """What a connection has seen so far: for assertions, and for the session itself."""

    peer: tuple[str, int]
    index: int
    ehlo: str = ""
    commands: list[str] = field(default_factory=list)
    tls: str = ""  # "TLSv1.3", once it is up
    tls_resumed: bool = False
    tls_error: str = ""  # what its handshake failed of, in our eyes
    client_certificate: bytes = b""  # in DER
    ended: str = ""  # "quit", "closed by peer", "dropped", "timeout", "sink stopped": "" while it lives


class Session:
    """Answers stage by stage; keyword arguments replace attributes of the class.

    A behaviour overrides `answer` (what is said), `take_body` (how a body is read) or `write` (how bytes leave).
    """

    name = "accept-all"
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES")
    timeout_s: float = 60.0
    receive_buffer_bytes: int = 0  # 0: the system's

    def __init__(self, sock: socket.socket, dialog: Dialog, delivered: Callable[[Message], None], **options: object) -> None:
        for option, value in options.items():
            setattr(self, option, value)
        self.sock, self.dialog, self._delivered = sock, dialog, delivered
        self.pending = b""
        self.sender: str | None = None
        self.mail_parameters = ""
        self.recipients: list[str] = []
        self.asked = 0  # RCPT commands of this transaction
        self.chunks = b""
        sock.settimeout(self.timeout_s)

    # what a behaviour overrides

    def answer(self, stage: str, argument: str) -> bytes:
        """The reply, CRLF included, at *stage*: greeting, ehlo, helo, mail, rcpt, data, dot, or another verb in lower case."""
        if stage == "greeting":
            return b"220 sink.example ESMTP\r\n"
        if stage == "ehlo":
            lines = ["sink.example", *self.extensions]
            return "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode()
        if stage in ("helo", "noop", "rset", "bdat"):
            return b"250 2.0.0 ok\r\n"
        if stage == "mail":
            return b"250 2.1.0 sender ok\r\n"
        if stage == "rcpt":
            return b"250 2.1.5 recipient ok\r\n" if self.sender is not None else b"503 5.5.1 MAIL first\r\n"
        if stage == "data":
            return b"354 go ahead\r\n" if self.recipients else b"554 5.5.1 no valid recipients\r\n"
        if stage == "dot":
            return b"250 2.0.0 taken\r\n"
        return b"221 2.0.0 bye\r\n" if stage == "quit" else b"502 5.5.1 not here\r\n"

    def take_body(self) -> bytes:
        """The body in wire form, read up to the final dot."""
        self.pending = b"\r\n" + self.pending  # an empty body is a dot right away
        searched = 0
        while (end := self.pending.find(b"\r\n.\r\n", max(0, searched - 4))) < 0:
            searched = len(self.pending)
            if searched > MAX_BODY:
                raise Hangup
            self.pending += self.read()
        body, self.pending = self.pending[2 : end + 2], self.pending[end + 5 :]
        return body

    def write(self, data: bytes) -> None:
        """Send it all."""
        self.sock.sendall(data)

    # the dialog

    def read(self, size: int = 1 << 18) -> bytes:
        """Some bytes; Hangup at the end of the connection."""
        if not (data := self.sock.recv(size)):
            self.dialog.ended = "closed by peer"
            raise Hangup
        return data

    def run(self) -> None:
        """The whole connection, until either side ends it."""
        try:
            self.write(self.answer("greeting", ""))
            while not self.dialog.ended:
                self.command(self.read_line())
        except Hangup:
            self.dialog.ended = self.dialog.ended or "dropped"
        except TimeoutError:
            self.dialog.ended = self.dialog.ended or "timeout"
        except OSError:
            self.dialog.ended = self.dialog.ended or "closed by peer"

    def read_line(self) -> str:
        """One command line without its end."""
        while b"\n" not in self.pending:
            if len(self.pending) > MAX_LINE:
                raise Hangup
            self.pending += self.read()
        line, _, self.pending = self.pending.partition(b"\n")
        return line.rstrip(b"\r").decode("latin-1")

    def command(self, line: str) -> None:
        """Answer one command and keep what it changes."""
        self.dialog.commands.append(line)
        verb, _, argument = line.partition(" ")
        stage = verb.lower()
        if stage == "bdat":
            self.take_chunk(argument)
            return
        reply = self.answer(stage, argument)
        if stage in ("ehlo", "helo") and reply.startswith(b"2"):
            self.dialog.ehlo = argument
        if stage == "mail" and reply.startswith(b"2"):
            self.sender, self.mail_parameters = _path(argument)
            self.recipients, self.asked = [], 0
        elif stage == "rcpt":
            self.asked += 1
            if reply.startswith(b"2"):
                self.recipients.append(_path(argument)[0])
        elif stage in ("rset", "ehlo", "helo"):
            self.sender, self.recipients = None, []
        self.write(reply)
        if stage == "data" and reply.startswith(b"354"):
            self.finish(self.take_body())
        elif stage == "quit":
            self.dialog.ended = "quit"
        elif reply.startswith(b"421"):
            raise Hangup

    def take_chunk(self, argument: str) -> None:
        """A chunk of BDAT; the last one ends the message as a final dot does."""
        size, _, last = argument.partition(" ")
        while len(self.pending) < int(size):
            self.pending += self.read()
        self.chunks += self.pending[: int(size)]
        self.pending = self.pending[int(size) :]
        if not last:
            self.write(self.answer("bdat", argument))
            return
        content, self.chunks = self.chunks, b""
        self.finish(content, True)

    def finish(self, raw: bytes, chunked: bool = False) -> None:
        """Answer the final dot; keep the message if the answer accepts it."""
        dialog = self.dialog
        message = Message(
            self.sender or "", tuple(self.recipients), raw, dialog.ehlo, dialog.peer, self.mail_parameters, dialog.index, chunked
        )
        reply = self.answer("dot", "")
        self.sender, self.recipients = None, []
        if reply.startswith(b"250") and message.recipients:
            self._delivered(message)
        self.write(reply)
        if reply.startswith(b"421"):
            raise Hangup


def _path(argument: str) -> tuple[str, str]:
    """(address, parameters) of `FROM:<a@b> SIZE=1`."""
    address, _, parameters = argument.partition("<")[2].rpartition(">") if ">" in argument else (argument, "", "")
    return address, parameters.strip()
