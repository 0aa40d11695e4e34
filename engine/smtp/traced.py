"""A server connection that shows its dialogue: for the few clients that log-commands or log-data is set for, so that all others pay nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from engine.mail.content import SECRET_FIELDS, FieldCutter
from engine.mail.reply import Reply
from engine.smtp.authentication import Outcome
from engine.smtp.server import Handler, ServerConnection, ServerLimits

SHOWN_BODY_BYTES: Final = 64 * 1024  # of one message
_KNOWN = frozenset(b"HELO EHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT STARTTLS BDAT EXPN ETRN XCLIENT".split())

Show = Callable[[str, bytes], None]  # (">>>" from the client, "<<<" to it or "data", one line without its end): not escaped yet


class TracedConnection(ServerConnection):
    """Tells *show* of commands and replies, of message contents, or both."""

    def __init__(self, handler: Handler, settings: ServerLimits, show: Show, *, commands: bool, data: bool) -> None:
        super().__init__(handler, settings)
        self._show = show
        self._shows_commands = commands
        self._shows_data = data
        self._authenticating = False  # AUTH was said: a command that we do not know may be a password
        self._within = False  # a command, or a piece of a chunk: its replies are shown together
        self._shown_bytes = 0  # of the open message
        self._line = b""  # of its contents, begun
        self._cutter = FieldCutter(SECRET_FIELDS)

    def open(self, refusal: Reply | None = None) -> bytes:
        return self._said(super().open(refusal))

    def abort(self, reply: Reply) -> bytes:
        return self._said(super().abort(reply))

    def _command(self, verb: bytes, argument: bytes, size_bytes: int) -> bytes:
        if self._shows_commands:
            self._show(">>>", self._shown(verb, argument))
        if not self._chunked:
            self._shown_bytes = 0
            self._cutter = FieldCutter(SECRET_FIELDS)
        self._within = True
        replies = super()._command(verb, argument, size_bytes)
        self._within = False
        return self._said(replies)

    def _read_chunk(self, data: bytes, at: int, out: list[bytes]) -> int:
        before = len(out)
        self._within = True
        end = super()._read_chunk(data, at, out)
        self._within = False
        for reply in out[before:]:
            self._said(reply)
        return end

    def _authentication(self, outcome: Outcome) -> bytes:
        reply = super()._authentication(outcome)
        return reply if self._within else self._said(reply)

    def _judged(self, reply: Reply) -> bytes:
        return self._said(super()._judged(reply))

    def _read_part(self, data: bytes, at: int, bare: bool, out: list[bytes]) -> None:
        before = len(out)
        super()._read_part(data, at, bare, out)
        for reply in out[before:]:
            self._said(reply)

    def _conclude(self, reply: Reply) -> bytes:
        if self._line:
            self._show("data", self._line)
            self._line = b""
        said = super()._conclude(reply)
        return said if self._within else self._said(said)

    def _take(self, chunk: bytes) -> None:
        if self._shows_data and self._shown_bytes <= SHOWN_BODY_BYTES:
            self._contents(chunk[: SHOWN_BODY_BYTES + 1 - self._shown_bytes])
        super()._take(chunk)

    def _contents(self, chunk: bytes) -> None:
        self._shown_bytes += len(chunk)
        *whole, self._line = (self._line + self._cutter.feed(chunk)).split(b"\r\n")
        for line in whole:
            self._show("data", line)
        if self._shown_bytes > SHOWN_BODY_BYTES:
            self._line = b""
            self._show("data", b"(%d KB shown, the rest is not)" % (SHOWN_BODY_BYTES >> 10))

    def _shown(self, verb: bytes, argument: bytes) -> bytes:
        if self._overlong:  # only its end has come here
            return b"(a line that is too long)"
        if verb == b"AUTH" or (verb not in _KNOWN and b"AUTH" in (verb + argument[:8]).upper()):  # AUTH=PLAIN, a blank before it ...
            self._authenticating = True
            return b"AUTH (not shown)"
        if self._authenticating and verb not in _KNOWN:
            return b"(not shown, it follows AUTH)"
        return verb + b" " + argument if argument else verb

    def _said(self, replies: bytes) -> bytes:
        if self._shows_commands and replies:
            for line in replies.split(b"\r\n")[:-1]:
                self._show("<<<", b"334 (not shown)" if line.startswith(b"334 ") else line)
        return replies
