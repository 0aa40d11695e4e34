"""The server's half of SMTP without I/O: bytes in, replies out, and a handler that decides (RFC 5321, 1870, 2920, 3207, 3461, 3463, 6152).

Line ends are CRLF and nothing else.  A bare CR or LF in a command ends the connection; in a message it refuses the message, whose end is still
only CRLF . CRLF: no two parties can see different ends (smuggling); where `mends_newlines` says so strict lines are made of it instead.  Replies
never depend on how the bytes were cut into reads, but for one: what comes in one read with STARTTLS, behind it, ends the session (what comes later
is the handshake's).

Bounds: a command line is at most `ServerLimits.max_line_bytes`, longer ones are thrown away up to their CRLF; body bytes are handed on and never
kept (but for a dot that may be the last); while the reply to a final dot is owed, at most `MAX_HELD_BYTES` are held.  What comes out of one
`receive` is a small multiple of what went in, so a caller stays bounded if it stops reading while `phase` is WAITING and while its write
buffer is full.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import cast

from engine.errors import LocalProtocolError
from engine.fastpath import BARE_EOL, BODY_CR, BODY_DOT, BODY_DOT_CR, BODY_LENIENT, BODY_LINE, BODY_START, read_command, scan_body
from engine.mail.envelope import NEEDS_BINARYMIME, NEEDS_SMTPUTF8
from engine.mail.reply import Reply
from engine.smtp import replies as say
from engine.smtp.auth import Answer
from engine.smtp.authentication import MAX_RESPONSE_BYTES, Authentication, AuthHandler, Outcome
from engine.smtp.chunking import ChunkedText, read_chunk
from engine.smtp.command import NO_ADDRESS, complete, read_mail, read_rcpt
from engine.smtp.grammar import is_hello_name
from engine.smtp.handler import GO_AHEAD, RECIPIENT_OK, SENDER_OK, Handler, Phase
from engine.smtp.limits import ServerLimits
from engine.smtp.newlines import Mender

__all__ = ["GO_AHEAD", "MAX_HELD_BYTES", "RECIPIENT_OK", "SENDER_OK", "Handler", "Phase", "ServerConnection", "ServerLimits"]

MAX_HELD_BYTES = 1 << 20

_GO_AHEAD = GO_AHEAD.encode()
_encoded = lru_cache(maxsize=256)(Reply.encode)  # of replies that a handler gives again and again

_COMMANDS, _BODY, _CHUNK, _AUTH, _WAITING, _CLOSED = Phase.COMMANDS, Phase.BODY, Phase.CHUNK, Phase.AUTH, Phase.WAITING, Phase.CLOSED
_STARTTLS = Phase.STARTTLS


class ServerConnection:
    """One client's connection: `open`, then `receive` what it sends, `answered` for each message that `Handler.end` left open, `lost` at last."""

    __slots__ = (
        "_auth", "_chunk_left", "_chunk_reply", "_chunked", "_commands_left", "_errors_left", "_handler", "_held", "_hello", "_judging",
        "_last_chunk", "_limits", "_mail", "_mender", "_needs", "_overlong", "_recipients", "_refusal", "_scan", "_size", "_text", "_too_many",
        "_verifying", "phase", "quit", "secure",
    )  # fmt: skip

    def __init__(self, handler: Handler, settings: ServerLimits) -> None:
        self._handler = handler
        self._limits = settings
        self.phase = _COMMANDS
        self.quit = False  # the client said QUIT: it sends no more
        self.secure = False  # what it says and hears is encrypted
        self._auth: Authentication | None = None  # since its first AUTH
        self._verifying = False  # WAITING is for the handler's word on AUTH, not on a message
        self._judging = False  # or on MAIL
        self._held = b""  # received, not consumed
        self._overlong = False  # throwing a line away up to its CRLF
        self._hello = False
        self._mail = False  # MAIL was accepted: a transaction is open
        self._recipients = 0  # accepted ones
        self._too_many = False  # more were named than the limit allows, and said yes to: the message will be refused
        self._needs = 0  # bits NEEDS_* that MAIL asked for
        self._scan = BODY_START
        self._size = 0  # of the content so far, on the wire
        self._mender: Mender | None = None  # since the content had a bare CR or LF
        self._refusal: Reply | None = None  # of the content that is being thrown away
        self._chunked = False  # the content comes by BDAT, and has begun to
        self._chunk_left = 0  # octets of the open chunk that are still to come
        self._last_chunk = False  # it is the message's last
        self._chunk_reply = b""  # it is thrown away, and belongs to no message: its answer
        self._text: ChunkedText | None = None  # what makes wire form of chunks; None: BINARYMIME
        self._errors_left = settings.max_errors
        self._commands_left = settings.max_commands_without_mail

    @property
    def closing(self) -> bool:
        """Whether the connection is to be closed once all returned bytes are sent."""
        return self.phase is _CLOSED

    @property
    def recipients(self) -> int:
        """How many recipients the open transaction has."""
        return self._recipients

    def open(self, refusal: Reply | None = None) -> bytes:
        """The greeting; or *refusal* (421, 521, 554) in its place, and the connection is over."""
        if refusal is None:
            return self._limits.greeting
        self.phase = _CLOSED
        return refusal.encode()

    def receive(self, data: bytes) -> bytes:
        """The replies to send now; b"" while nothing is complete, or a reply to a final dot is owed.

        LocalProtocolError: more than MAX_HELD_BYTES were fed while it is owed; whoever reads must pause.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        if self.phase is _WAITING:
            if len(data) > MAX_HELD_BYTES:
                raise LocalProtocolError("fed past the bound while the reply to a final dot is owed")
            self._held = data
            return b""
        if self.phase is _COMMANDS:  # nearly always one whole command and no more
            end, verb, argument = read_command(data, 0)
            if end == len(data):
                return self._command(verb, argument, end)
        return self._advance(data, [])

    def answered(self, reply: Reply | Answer) -> bytes:
        """*reply* to the final dot or MAIL, or what AUTH waits for, with the replies to what was pipelined.  LocalProtocolError if none is owed."""
        if self.phase is not _WAITING:
            raise LocalProtocolError("no reply to a final dot is owed")
        if self._verifying:
            out = [self._verified(reply)]
        elif self._judging:
            out = [self._judged(cast(Reply, reply))]
        else:
            out = [self._conclude(cast(Reply, reply))]
        data, self._held = self._held, b""
        return self._advance(data, out) if data else out[0]

    def secured(self, limits: ServerLimits) -> None:
        """TLS is up: the client starts anew, with EHLO and AUTH, within *limits* (RFC 3207 §4.2); errors and commands are counted on."""
        self._limits = limits
        self.secure = True
        self._hello = False
        self._auth = None
        self.phase = _COMMANDS

    def abort(self, reply: Reply) -> bytes:
        """*reply* (421: a deadline, a shutdown) as the last words; the open transaction, if any, is void.  b"" if it is closed already."""
        if self.phase is _CLOSED:
            return b""
        self.lost()
        return reply.encode()

    def lost(self) -> None:
        """The connection is gone: the open transaction is void (a message whose `end` was called is not: its reply just has no reader)."""
        if self.phase is not _WAITING:
            self._void()
        self.phase = _CLOSED
        self._held = b""

    # --- reading ---------------------------------------------------------------------------------------------------------------------

    def _advance(self, data: bytes, out: list[bytes]) -> bytes:
        at, size = 0, len(data)
        while at < size:
            phase = self.phase
            if phase is _COMMANDS:
                end, verb, argument = read_command(data, at)
                if end < 0:
                    self._read_part(data, at, end == BARE_EOL, out)
                    break
                out.append(self._command(verb, argument, end - at))
                at = end
            elif phase is _BODY:
                at = self._read_body(data, at, out)
            elif phase is _CHUNK:
                at = self._read_chunk(data, at, out)
            elif phase is _AUTH:
                end = self._read_response(data, at, out)
                if end < 0:
                    break
                at = end
            else:
                if phase is _WAITING:
                    self._held = data[at:]
                elif phase is _STARTTLS:  # plaintext that somebody would have taken for what came by TLS (RFC 3207 §6, CVE-2011-0411)
                    out[-1:] = [self._close(say.BEHIND_STARTTLS)]
                break
        return out[0] if len(out) == 1 else b"".join(out)

    def _read_part(self, data: bytes, at: int, bare: bool, out: list[bytes]) -> None:
        """No command line ends in what is left of *data*: keep it, throw it away if it is too long, or close because of a *bare* CR or LF."""
        if bare:
            out.append(self._close(say.BARE_IN_COMMAND))
        elif self._overlong or len(data) - at > (MAX_RESPONSE_BYTES if self.phase is _AUTH else self._limits.max_line_bytes):
            self._overlong = True
            self._held = b"\r" if data.endswith(b"\r") else b""
        else:
            self._held = data[at:]

    def _command(self, verb: bytes, argument: bytes, size_bytes: int) -> bytes:
        """The reply to one command, whose line had *size_bytes*."""
        if self._overlong or size_bytes > self._limits.max_line_bytes:
            self._overlong = False
            return self._error(say.TOO_LONG)
        self._commands_left -= 1
        if self._commands_left < 0:
            return self._close(say.TOO_MANY_COMMANDS)
        command = _VERBS.get(verb)
        if command is None:
            return self._error(say.NOT_IMPLEMENTED if verb in _OTHER_VERBS else say.UNKNOWN)
        return command(self, argument)

    def _read_response(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take a line of an AUTH exchange at *at*; the offset behind it, or -1 where no line ends, or must not."""
        end = data.find(b"\r\n", at)
        line = data[at : end if end >= 0 else len(data)]
        if b"\n" in line or b"\r" in (line if end >= 0 else line[:-1]):
            self._read_part(data, at, True, out)
            return -1
        if end < 0:
            self._read_part(data, at, False, out)
            return -1
        assert self._auth is not None
        overlong, self._overlong = self._overlong or len(line) + 2 > MAX_RESPONSE_BYTES, False
        out.append(self._authentication(self._auth.overlong() if overlong else self._auth.line(line)))
        return end + 2

    def _read_body(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take message content at *at*, up to its final dot if it is there; the offset behind what was taken."""
        end, state = scan_body(data, at, self._scan)
        if end == BARE_EOL:
            if self._limits.mends_newlines:
                self._mender = Mender(self._scan == BODY_START)
            else:
                self._refuse(say.BARE_IN_BODY)
            end, state = scan_body(data, at, state)
        if end >= 0:
            stop = end - 3  # before the final dot line
        else:
            # A dot that may be the final one stays with us, and a CR that may be bare: scanned again, from their line's start, with what comes next.
            before = state & ~BODY_LENIENT
            kept = 1 if before in (BODY_DOT, BODY_CR) else 2 if before == BODY_DOT_CR else 0
            stop = len(data) - kept
            if kept:
                self._held = data[stop:]
                state = (BODY_LINE if before == BODY_CR else BODY_START) | (state & BODY_LENIENT)
            self._scan = state
        if stop > at:
            piece = data if at == 0 and stop == len(data) else data[at:stop]
            if self._mender is not None:
                piece = self._mender.feed(piece)
            if piece:
                self._take(piece)
        if end < 0:
            return len(data)
        reply = self._refusal if self._refusal is not None else self._handler.end()
        if reply is None:
            self.phase = _WAITING
        else:
            out.append(self._conclude(reply))
        return end

    def _read_chunk(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take octets of the open chunk at *at*, whatever they are; the offset behind what was taken."""
        stop = min(at + self._chunk_left, len(data))
        self._chunk_left -= stop - at
        if self._refusal is None and not self._chunk_reply:
            piece = data[at:stop]
            wire = piece if self._text is None else self._text.feed(piece)
            if wire is None:
                self._refuse(say.BARE_IN_BODY)
            elif wire:
                self._take(wire)
        if not self._chunk_left:
            out.append(self._end_of_chunk())
        return stop

    def _end_of_chunk(self) -> bytes:
        """The chunk is complete: its reply, or b"" if that comes later."""
        self.phase = _COMMANDS
        if self._chunk_reply:
            return self._chunk_reply
        if not self._last_chunk:
            return say.CHUNK_TAKEN if self._refusal is None else self._refused(self._refusal)
        if self._refusal is None and self._text is not None:
            rest = self._text.finish()
            if rest is None:
                self._refuse(say.BARE_IN_BODY)
            elif rest:
                self._take(rest)
        reply = self._refusal if self._refusal is not None else self._handler.end()
        if reply is not None:
            return self._conclude(reply)
        self.phase = _WAITING
        return b""

    def _take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if 0 < self._limits.max_message_size_bytes < self._size and self._refusal is not say.BARE_IN_BODY:
            self._refuse(say.TOO_BIG)
        if self._refusal is None:
            refusal = self._handler.body(chunk)
            if refusal is not None:
                self._refuse(refusal)

    def _refuse(self, reply: Reply) -> None:
        """Throw the rest of the content away and answer its final dot with *reply*."""
        if self._refusal is None:
            self._handler.reset()
        self._refusal = reply

    # --- transaction -----------------------------------------------------------------------------------------------------------------

    def _conclude(self, reply: Reply) -> bytes:
        """The message is answered: back to commands, with no transaction open."""
        self.phase = _CLOSED if reply.code in _LAST_WORDS else _COMMANDS
        self._mail = self._chunked = False
        self._recipients = 0
        self._refusal = None
        if reply.positive:
            self._errors_left = self._limits.max_errors
            self._commands_left = self._limits.max_commands_without_mail
        elif reply.code < 500 and self.phase is _COMMANDS:
            return self._transient(reply.encode())
        return reply.encode()

    def _void(self) -> None:
        """Forget the open transaction, if there is one; a refused body was taken back when it was refused."""
        if self._mail:
            self._mail = self._too_many = self._chunked = False
            self._recipients = 0
            if self._refusal is None:
                self._handler.reset()
            self._refusal = None

    def _close(self, reply: bytes) -> bytes:
        self._void()
        self.phase = _CLOSED
        return reply

    def _error(self, reply: bytes) -> bytes:
        """*reply* to a command that is wrong in itself; one too many closes the connection."""
        self._errors_left -= 1
        return reply if self._errors_left >= 0 else self._close(say.TOO_MANY_ERRORS)

    def _refused(self, reply: Reply) -> bytes:
        """The handler's *reply* to a command that it refused."""
        if reply.code in _LAST_WORDS:
            return self._close(_encoded(reply))
        return self._transient(_encoded(reply)) if reply.code < 500 else _encoded(reply)

    def _transient(self, reply: bytes) -> bytes:
        """*reply*, a 4xx; or nothing, and the connection is over, for clients that cannot cope with one."""
        return self._close(b"") if self._limits.disconnect_on_transient_error else reply

    # --- commands --------------------------------------------------------------------------------------------------------------------

    def _helo(self, argument: bytes) -> bytes:
        return self._greet(argument, False) or self._limits.helo

    def _ehlo(self, argument: bytes) -> bytes:
        return self._greet(argument, True) or (self._limits.ehlo_secure if self.secure else self._limits.ehlo)

    def _greet(self, argument: bytes, extended: bool) -> bytes:
        """b"", or the reply that refuses the name.  A second HELO is an RSET too (RFC 5321 §4.1.4)."""
        if not is_hello_name(argument):
            return self._error(say.BAD_HELLO)
        self._void()
        self._hello = True
        self._handler.hello(argument.decode("ascii"), extended)
        return b""

    def _mail_from(self, argument: bytes) -> bytes:
        if not self._hello:
            return self._error(say.HELLO_FIRST)
        if self._mail:
            return self._error(say.NESTED_MAIL)
        read = read_mail(argument, self._limits.offered)
        if isinstance(read, bytes):
            completed = complete(argument, b"FROM:", self._limits.domain_suffix)
            read = read if completed is None else read_mail(completed, self._limits.offered)
            if isinstance(read, bytes):
                return self._error(read)
        sender, parameters = read
        if 0 < self._limits.max_message_size_bytes < parameters.size_bytes:
            return say.TOO_BIG_BYTES
        self._needs = parameters.needs
        reply = self._handler.mail(sender, parameters)
        if reply is None:
            self._judging = True
            self.phase = _WAITING
            return b""
        return self._begin(reply)

    def _begin(self, reply: Reply) -> bytes:
        """The handler's *reply* to MAIL: a transaction is open, or it is not."""
        if not reply.positive:
            return self._refused(reply)
        self._mail = True
        return _encoded(reply)

    def _judged(self, reply: Reply) -> bytes:
        """The *reply* to MAIL that was owed."""
        self._judging = False
        self.phase = _COMMANDS
        return self._begin(reply)

    def _rcpt_to(self, argument: bytes) -> bytes:
        if not self._mail:
            return self._error(say.MAIL_FIRST if self._hello else say.HELLO_FIRST)
        if self._chunked:
            return self._error(say.CHUNKS_BEGUN)
        utf8 = self._needs & NEEDS_SMTPUTF8 != 0
        read = read_rcpt(argument, utf8)
        if isinstance(read, bytes):
            completed = complete(argument, b"TO:", self._limits.domain_suffix)
            read = read if completed is None else read_rcpt(completed, utf8)
            if isinstance(read, bytes):
                return self._misaddressed(argument, read)
        if self._recipients >= self._limits.max_recipients:
            self._commands_left += 1
            if self._limits.too_many_rcpts_fails_message:
                self._too_many = True
                return _encoded(RECIPIENT_OK)
            return self._transient(say.TOO_MANY_RECIPIENTS)
        reply = self._handler.rcpt(*read)
        if reply.code < 500:
            self._commands_left += 1
        if not reply.positive:
            return self._refused(reply)
        self._recipients += 1
        return _encoded(reply)

    def _misaddressed(self, argument: bytes, fault: bytes) -> bytes:
        """The reply to RCPT with *argument*, which has a *fault*."""
        verdict = self._handler.no_address(argument) if fault in NO_ADDRESS and self._recipients < self._limits.max_recipients else None
        if verdict is None or not verdict.positive:
            return self._error(fault if verdict is None else _encoded(verdict))
        self._commands_left += 1
        self._recipients += 1
        return _encoded(verdict)

    def _data(self, argument: bytes) -> bytes:
        if argument:
            return self._error(say.NO_ARGUMENT)
        if self._chunked or self._needs & NEEDS_BINARYMIME:
            return self._error(say.CHUNKS_BEGUN if self._chunked else say.BINARY_BY_DATA if self._mail else say.MAIL_FIRST)
        refusal = self._begin_content()
        if refusal:
            return refusal
        self.phase = _BODY
        self._scan = BODY_START
        self._mender = None
        return _GO_AHEAD

    def _begin_content(self) -> bytes:
        """b"", and a message's content may come; or why not."""
        if not self._mail:
            return self._error(say.MAIL_FIRST if self._hello else say.HELLO_FIRST)
        if not self._recipients:
            return self._error(say.NO_RECIPIENTS)
        if self._too_many:
            self._void()
            return say.TOO_MANY_FOR_MESSAGE
        reply = self._handler.data()
        if not reply.positive:
            return self._refused(reply)
        self._size = 0
        return b""

    def _bdat(self, argument: bytes) -> bytes:
        """RFC 3030 §2.  Whatever the answer will be, the octets that were announced are taken first: they are content, never commands."""
        if not self._limits.chunking:
            return self._error(say.NOT_IMPLEMENTED)
        chunk = read_chunk(argument)
        if chunk is None:
            return self._close(say.BAD_CHUNK)
        self._chunk_left, self._last_chunk = chunk
        self._chunk_reply = b"" if self._chunked else self._begin_content()
        if self.phase is _CLOSED:
            return self._chunk_reply
        if not self._chunk_reply:
            if not self._chunked:
                self._chunked = True
                self._text = None if self._needs & NEEDS_BINARYMIME else ChunkedText(self._limits.mends_newlines)
            if self._chunk_left:
                self._commands_left += 1  # a long message is many commands
        self.phase = _CHUNK
        return b"" if self._chunk_left else self._end_of_chunk()

    def _authenticate(self, argument: bytes) -> bytes:
        limits = self._limits
        if not limits.auth_secure:
            return self._error(say.NOT_IMPLEMENTED)
        if not self._hello:
            return self._error(say.HELLO_FIRST)
        if self._mail:
            return self._error(say.NO_AUTH_NOW)
        if self._auth is None:
            self._auth = Authentication(cast(AuthHandler, self._handler))
        offered = limits.auth_secure if self.secure else limits.auth
        return self._authentication(self._auth.begin(argument, offered, limits.auth_secure, limits.host_name))

    def _verified(self, answer: Reply | Answer) -> bytes:
        assert self._auth is not None
        return self._authentication(self._auth.answered(answer))

    def _authentication(self, outcome: Outcome) -> bytes:
        """The session stands where *outcome* of an AUTH step leaves it; its reply."""
        self.phase = _AUTH if outcome.open else _WAITING if outcome.owed else _COMMANDS
        self._verifying = outcome.owed
        if outcome.limits is not None:
            self._limits = outcome.limits
            self._errors_left = outcome.limits.max_errors
            self._commands_left = outcome.limits.max_commands_without_mail
        if outcome.closes:
            return self._close(outcome.reply)
        return self._error(outcome.reply) if outcome.wrong else outcome.reply

    def _rset(self, argument: bytes) -> bytes:
        if argument:
            return self._error(say.NO_ARGUMENT)
        self._void()
        return say.RESET

    def _noop(self, argument: bytes) -> bytes:
        return say.NOOP

    def _vrfy(self, argument: bytes) -> bytes:
        return say.VRFY if argument else self._error(say.WANTS_ARGUMENT)

    def _help(self, argument: bytes) -> bytes:
        return say.HELP

    def _starttls(self, argument: bytes) -> bytes:
        if self.secure:
            return self._error(say.IN_TLS)
        if not self._limits.starttls:
            return self._error(say.NOT_IMPLEMENTED)
        if argument:
            return self._error(say.NO_ARGUMENT)
        if not self._handler.starttls():
            return self._transient(say.NO_TLS_NOW)
        self._void()
        self.phase = _STARTTLS
        return say.READY_FOR_TLS

    def _quit(self, argument: bytes) -> bytes:
        if argument:
            return self._error(say.NO_ARGUMENT)
        self.quit = True
        return self._close(self._limits.goodbye)


_LAST_WORDS = frozenset((421, 521))
_VERBS: dict[bytes, Callable[[ServerConnection, bytes], bytes]] = {
    b"HELO": ServerConnection._helo,
    b"EHLO": ServerConnection._ehlo,
    b"MAIL": ServerConnection._mail_from,
    b"RCPT": ServerConnection._rcpt_to,
    b"DATA": ServerConnection._data,
    b"BDAT": ServerConnection._bdat,
    b"RSET": ServerConnection._rset,
    b"NOOP": ServerConnection._noop,
    b"VRFY": ServerConnection._vrfy,
    b"HELP": ServerConnection._help,
    b"AUTH": ServerConnection._authenticate,
    b"QUIT": ServerConnection._quit,
    b"STARTTLS": ServerConnection._starttls,
}
# commands that exist, but not here (yet): their clients fall back on hearing 502
_OTHER_VERBS = frozenset((b"STARTTLS", b"EXPN", b"ETRN", b"TURN", b"ATRN", b"SEND", b"SOML", b"SAML"))
