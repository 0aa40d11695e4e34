"""The client's half of SMTP without I/O: transactions in, bytes to write and events out (RFC 5321, 1870, 2920, 3030, 3461, 6152).

One list of commands per transaction and a cursor on the reply that is awaited: with PIPELINING all of them are written at once, without it each
when its predecessor is answered.  Whatever a peer answers, each transaction ends in exactly one of `Finished` (every recipient with the reply that
decides its fate) and `lost`.  A reply that nobody asked for, and one that is malformed, is a RemoteProtocolError: what comes after it cannot
be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

import msgspec

from engine.errors import LocalProtocolError, RemoteProtocolError
from engine.fastpath import MALFORMED, scan_reply
from engine.mail.reply import Reply
from engine.smtp.chunking import write_chunk
from engine.smtp.command import write_mail, write_rcpt
from engine.smtp.extensions import read_extensions

MAX_REPLY_BYTES = 64 * 1024
_QUOTED_BYTES = 100  # of a malformed reply, in the error's text
_MASKED_STARS = 10  # in a greeting: so many are what a Cisco PIX leaves of it


class Stage(Enum):
    """What is awaited from the peer: which deadline applies."""

    GREETING = "its greeting"
    EHLO = "the reply to EHLO"
    HELO = "the reply to HELO"
    STARTTLS = "the reply to STARTTLS"
    TLS = "the TLS handshake"
    MAIL = "the reply to MAIL"
    RCPT = "the reply to a RCPT"
    DATA = "the reply to DATA"
    BODY = "nothing: we are to send the body"
    FINAL_DOT = "the reply to the final dot, or to the last chunk"
    RSET = "the reply to RSET"
    QUIT = "the reply to QUIT"
    IDLE = "nothing: a transaction may start"
    CLOSED = "nothing more: close the connection"


_GREETING, _EHLO, _HELO, _MAIL, _RCPT, _DATA = Stage.GREETING, Stage.EHLO, Stage.HELO, Stage.MAIL, Stage.RCPT, Stage.DATA
_BODY, _FINAL_DOT, _RSET, _QUIT, _IDLE, _CLOSED = Stage.BODY, Stage.FINAL_DOT, Stage.RSET, Stage.QUIT, Stage.IDLE, Stage.CLOSED


_STARTTLS, _TLS = Stage.STARTTLS, Stage.TLS


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """One message for some recipients.  `rcpt_parameters`, one per recipient or none at all, are formatted (NOTIFY=.. ORCPT=..)."""

    sender: str  # "" is the null reverse path
    recipients: tuple[str, ...]
    size_bytes: int
    eight_bit: bool
    ret: str = ""  # these three are sent only where DSN is offered
    env_id: str = ""
    rcpt_parameters: tuple[str, ...] = ()
    utf8: bool = False  # MAIL says SMTPUTF8: only where that is offered
    binary: bool = False  # MAIL says BODY=BINARYMIME: likewise, and with CHUNKING


class RecipientOutcome(msgspec.Struct, frozen=True):
    """The reply that decided a recipient's fate, and what it answered; delivered if it is positive, which only the final dot's can be."""

    reply: Reply
    stage: Stage


class Ready(msgspec.Struct, frozen=True):
    """Greeted, and EHLO (or HELO) answered: transactions may start."""

    extensions: Mapping[str, str]


class Refused(msgspec.Struct, frozen=True):
    """Greeting, EHLO or HELO was refused, or a 421 came in place of any reply: the connection takes no transaction any more.

    Within a transaction its `Finished` comes first: who was undecided has that reply.
    """

    stage: Stage
    reply: Reply


class StartTls(msgspec.Struct, frozen=True):
    """The peer is ready for the TLS handshake: once it is done, `ClientConnection.secured`.  Nothing but TLS may be read from now on."""


class Insecure(msgspec.Struct, frozen=True):
    """TLS is demanded, and the peer does not offer STARTTLS or refused it, with *reply*: the connection takes no transaction."""

    reply: Reply | None


class SendBody(msgspec.Struct, frozen=True):
    """354 came, and these recipients (indexes) stand: write the body in wire form, then `ClientConnection.end_of_body`.

    Where `ClientConnection.by_chunks` says so it goes by BDAT instead: each piece, as it is without stuffed dots, behind what `chunk` returns.
    """

    accepted: tuple[int, ...]


class Finished(msgspec.Struct, frozen=True):
    """The transaction is over; an outcome for each recipient.  Another may start if the stage is IDLE (as a rule, but for a 421 or a fault)."""

    replies: tuple[RecipientOutcome, ...]
    accepted_final: bool  # the final dot was answered with 2xx


class Lost(msgspec.Struct, frozen=True):
    """The connection ended at *stage*; *replies*: what was decided of each recipient of the open transaction, () if there is none."""

    stage: Stage
    replies: tuple[RecipientOutcome | None, ...]

    @property
    def unknown(self) -> bool:
        """The final dot was sent and not answered: the peer may or may not have the message for those who have no outcome (RFC 1047)."""
        return self.stage is _FINAL_DOT and None in self.replies


Event = Ready | Refused | StartTls | Insecure | SendBody | Finished


class ClientConnection:
    """One connection to a peer, from its greeting; after every call, what `to_send` gives must be written."""

    __slots__ = (
        "_chunks_owed", "_commands", "_dirty", "_ehlo_name", "_events", "_fault", "_held", "_ignore_8bitmime", "_ignore_chunking", "_ignore_dsn",
        "_ignore_pipelining", "_mail_stands", "_next", "_out", "_outcomes", "_pipelining", "_tls", "_transaction", "by_chunks", "chunking",
        "extensions", "masked", "progressed", "secure", "stage",
    )  # fmt: skip

    def __init__(
        self,
        ehlo_name: str,
        *,
        ignore_pipelining: bool = False,
        ignore_8bitmime: bool = False,
        ignore_dsn: bool = False,
        ignore_chunking: bool = False,
        tls: str = "off",
    ) -> None:
        """*tls*: "may", STARTTLS where it is offered; "must", or no transaction."""
        self._ehlo_name = ehlo_name
        self._ignore_pipelining = ignore_pipelining
        self._ignore_8bitmime = ignore_8bitmime
        self._ignore_dsn = ignore_dsn
        self._ignore_chunking = ignore_chunking
        self._tls = tls
        self.secure = False  # TLS is up
        self._pipelining = False
        self.stage = _GREETING
        self.extensions: Mapping[str, str] = {}
        self.chunking = False  # the peer takes BDAT
        self.by_chunks = False  # the open transaction's content goes so
        self._chunks_owed = 0  # replies to chunks that are awaited, the last one's included
        self.masked = False  # its greeting is starred out: a firewall of the PIX kind stands between
        self._held = b""  # the start of a reply
        self.progressed = False  # the last `receive` was given the end of a reply, not only a part of one
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._fault: RemoteProtocolError | None = None
        self._dirty = False  # the peer still has a failed transaction: RSET before the next MAIL
        self._transaction: Transaction | None = None
        self._commands: list[bytes] = []  # MAIL, RCPT ..., DATA
        self._next = 0  # index of the command whose reply is awaited
        self._mail_stands = True  # MAIL was not refused
        self._outcomes: list[RecipientOutcome | None] = []

    # --- what the caller does --------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """What *data* means.  RemoteProtocolError: the peer broke the protocol; then call `lost` and close.

        A breach found behind an event is raised by the next call, and the stage is CLOSED already, so that no event is lost.
        """
        if self._fault is not None:
            raise self._fault
        if self._held:
            data = self._held + data
            self._held = b""
        events: list[Event] = []
        self._events = events
        at, size = 0, len(data)
        while at < size and self.stage is not _CLOSED:
            end = scan_reply(data, at)
            if end < 0:
                if end == MALFORMED or size - at > MAX_REPLY_BYTES or not self._may_come(data[at : at + 3]):
                    return self._breach("malformed or unexpected reply", data[at:])
                self._held = data[at:]
                break
            if not self._may_come(data[at : at + 3]):
                return self._breach("unexpected reply", data[at:end])
            breach = self._take(int(data[at : at + 3]), data, at, end)
            if breach:
                return self._breach(breach, data[at:end])
            at = end
        self.progressed = at > 0
        return events

    def to_send(self) -> bytes:
        """Bytes to write now: each is given once."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def start(self, transaction: Transaction) -> None:
        """Begin *transaction*.

        One over the size that the peer announces is refused by ourselves, 552 for all: only an RSET goes out, and `Finished` follows its reply.
        LocalProtocolError: the stage is not IDLE, there is no recipient, or an address cannot stand in a command.
        """
        if self.stage is not _IDLE:
            raise LocalProtocolError(f"a transaction cannot start at {self.stage.name}")
        self.by_chunks = self.chunking
        commands = self._write(transaction)
        self._chunks_owed = 0
        self._transaction = transaction
        self._outcomes = [None] * len(transaction.recipients)
        self._mail_stands = True
        self._next = 0
        over_size = self._over_size(transaction.size_bytes)
        if over_size is not None:
            self._outcomes = [RecipientOutcome(over_size, _MAIL)] * len(transaction.recipients)
            commands = []
        self._commands = commands
        if self._dirty or not commands:
            self._dirty = False
            self._out.append(b"RSET\r\n")
            self.stage = _RSET
        else:
            self.stage = _MAIL
            if not self._pipelining:
                self._out.append(commands[0])
        if self._pipelining:
            self._out += commands

    def secured(self) -> None:
        """TLS is up: what the peer said before is forgotten, and EHLO is said again (RFC 3207 §4.2)."""
        self.secure = True
        self._held = b""
        self.extensions = {}
        self._pipelining = self.chunking = False
        self._hello("EHLO", _EHLO)

    def end_of_body(self) -> bytes:
        """The final dot line, to be written behind the body; LocalProtocolError if no body is wanted."""
        if self.stage is not _BODY:
            raise LocalProtocolError(f"no body is wanted at {self.stage.name}")
        self.stage = _FINAL_DOT
        return b".\r\n"

    def chunk(self, size_bytes: int, last: bool) -> bytes:
        """What is to be written before the next *size_bytes* of the body, the *last* ones or not; LocalProtocolError if no chunk is wanted."""
        if self.stage is not _BODY or not self.by_chunks or self.chunk_waits:
            raise LocalProtocolError(f"no chunk is wanted at {self.stage.name}")
        self._chunks_owed += 1
        if last:
            self.stage = _FINAL_DOT
        return write_chunk(size_bytes, last)

    @property
    def chunk_waits(self) -> bool:
        """Whether a reply to the chunk before has to come first: the peer has no PIPELINING."""
        return self._chunks_owed > 0 and not self._pipelining

    def quit(self) -> None:
        """Say QUIT; its reply closes.  Between transactions only, or after `Refused`: otherwise just close the connection."""
        if self._transaction is not None:
            raise LocalProtocolError("QUIT within a transaction")
        self._out.append(b"QUIT\r\n")
        self.stage = _QUIT

    def lost(self) -> Lost:
        """The peer closed, broke the protocol, or we timed out: where that left the open transaction.  The stage is CLOSED then."""
        lost = Lost(self.stage, tuple(self._outcomes) if self._transaction is not None else ())
        self._transaction = None
        self.stage = _CLOSED
        return lost

    # --- replies ---------------------------------------------------------------------------------------------------------------------

    def _may_come(self, code: bytes) -> bool:
        """Whether a reply that starts so answers anything; where nothing is awaited, only a refusal may come."""
        stage = self.stage
        if stage is _IDLE:
            return b"421".startswith(code)
        if stage is _BODY:
            return code[:1] in b"45" or (self._chunks_owed > 0 and code[:1] == b"2")
        return True

    def _take(self, code: int, data: bytes, at: int, end: int) -> str:
        """Act on one whole reply; "" or how it breaks the protocol."""
        stage = self.stage
        if 300 <= code < 400 and stage is not _DATA:
            return f"3xx reply at {stage.name}"
        if code == 421 and stage is not _QUIT:
            self._over(_read(data, at, end))
        elif self._chunks_owed and (stage is _BODY or stage is _FINAL_DOT):
            self._chunk_answered(code, _read(data, at, end))
        elif stage is _FINAL_DOT:
            self._finish(_read(data, at, end), _FINAL_DOT)
        elif stage is _RCPT:
            if code >= 400 and self._mail_stands:
                self._outcomes[self._next - 1] = RecipientOutcome(_read(data, at, end), _RCPT)
            self._advance()
        elif stage is _MAIL:
            if code >= 400:
                self._mail_refused(_read(data, at, end))
            else:
                self._advance()
        elif stage is _DATA:
            return self._data_answered(code, data, at, end)
        elif stage is _BODY:
            self._over(_read(data, at, end))
        elif stage is _STARTTLS:
            return self._starttls_answered(code, data, at, end)
        else:
            self._take_outside(stage, code, data, at, end)
        return ""

    def _chunk_answered(self, code: int, reply: Reply) -> None:
        """Of the chunks that are on their way one was answered.  What refuses any but the last ends the connection: the others are still coming."""
        last = self.stage is _FINAL_DOT and self._chunks_owed == 1
        self._chunks_owed -= 1
        if last:
            self._dirty = code >= 400
            self._finish(reply, _FINAL_DOT)
        elif code >= 300:
            self._over(reply)

    def _take_outside(self, stage: Stage, code: int, data: bytes, at: int, end: int) -> None:
        """A reply to what surrounds transactions: greeting, EHLO, HELO, RSET, QUIT."""
        if stage is _RSET:
            # Whatever it says: if the peer holds on to the old transaction, it refuses the new MAIL.
            if not self._commands:
                self._finish(None, _RSET)
                return
            self.stage = _MAIL
            if not self._pipelining:
                self._out.append(self._commands[0])
        elif stage is _QUIT:
            self.stage = _CLOSED
        elif code < 300 and stage is _GREETING:
            self.masked = data.count(b"*", at, end) >= _MASKED_STARS
            self._hello("EHLO", _EHLO)
        elif code < 300:
            if stage is _EHLO:
                self.extensions = read_extensions(_read(data, at, end))
                self._pipelining = "PIPELINING" in self.extensions and not self._ignore_pipelining
                self.chunking = "CHUNKING" in self.extensions and not self._ignore_chunking
                if self._tls != "off" and not self.secure and "STARTTLS" in self.extensions:
                    self._out.append(b"STARTTLS\r\n")
                    self.stage = _STARTTLS
                    return
            self._ready(None)
        elif code >= 500 and stage is _EHLO:
            self._hello("HELO", _HELO)
        else:
            self._over(_read(data, at, end))

    def _starttls_answered(self, code: int, data: bytes, at: int, end: int) -> str:
        if code >= 400:
            self._ready(_read(data, at, end))
        elif end != len(data):
            return "plaintext behind the reply to STARTTLS"  # it would be taken for what came by TLS (RFC 3207 §6, CVE-2011-0411)
        else:
            self.stage = _TLS
            self._events.append(StartTls())
        return ""

    def _ready(self, refused: Reply | None) -> None:
        """Transactions may start, if the connection is as secure as it must be; *refused*: what STARTTLS was answered."""
        if self._tls == "must" and not self.secure:
            self.stage = _CLOSED
            self._events.append(Insecure(refused))
            return
        self.stage = _IDLE
        self._events.append(Ready(self.extensions))

    def _hello(self, verb: str, stage: Stage) -> None:
        self._out.append(f"{verb} {self._ehlo_name}\r\n".encode("ascii"))
        self.stage = stage

    def _advance(self) -> None:
        """The awaited command is answered, and the transaction goes on: to the next one."""
        self._next = at = self._next + 1
        last = len(self._commands) - 1
        if self.by_chunks and at > last:
            self._recipients_answered()
            return
        self.stage = _RCPT if at < last or self.by_chunks else _DATA
        if not self._pipelining:
            if at == last and None not in self._outcomes and not self.by_chunks:
                self._dirty = True
                self._finish(None, _DATA)
            else:
                self._out.append(self._commands[at])

    def _recipients_answered(self) -> None:
        """There is no DATA to come: content follows, if anybody is left to have it."""
        if None in self._outcomes:
            self.stage = _BODY
            self._events.append(SendBody(tuple([i for i, outcome in enumerate(self._outcomes) if outcome is None])))
        else:
            self._dirty = self._mail_stands
            self._finish(None, _RCPT)

    def _mail_refused(self, reply: Reply) -> None:
        self._mail_stands = False
        self._outcomes = [RecipientOutcome(reply, _MAIL)] * len(self._outcomes)
        if self._pipelining:
            self._advance()  # the rest is on its way and will be answered too
        else:
            self._finish(None, _MAIL)

    def _data_answered(self, code: int, data: bytes, at: int, end: int) -> str:
        if code < 300:
            return "2xx reply to DATA"
        if code >= 400:
            self._dirty = self._mail_stands
            self._finish(_read(data, at, end), _DATA)
        elif end != len(data):
            return "reply behind the one to DATA"
        elif None in self._outcomes:
            self.stage = _BODY
            self._events.append(SendBody(tuple([i for i, outcome in enumerate(self._outcomes) if outcome is None])))
        else:
            # It takes a message that has no recipient: give it an empty one, whatever it says to that.
            self._out.append(b".\r\n")
            self.stage = _FINAL_DOT
        return ""

    def _finish(self, reply: Reply | None, stage: Stage) -> None:
        """The transaction is over: *reply* decides for those for whom nothing did yet."""
        decided = self._outcomes
        accepted = False
        if reply is not None and None in decided:
            accepted = stage is _FINAL_DOT and reply.code < 300
            last = RecipientOutcome(reply, stage)
            outcomes = (last,) if len(decided) == 1 else tuple([outcome or last for outcome in decided])
        else:
            outcomes = tuple([outcome for outcome in decided if outcome is not None])
        self._transaction = None
        self.stage = _IDLE
        self._events.append(Finished(outcomes, accepted))

    def _over(self, reply: Reply) -> None:
        """*reply* ends the connection for use, and the open transaction with it."""
        stage = self.stage
        if self._transaction is not None:
            self._finish(reply, stage)
        self.stage = _CLOSED
        self._events.append(Refused(stage, reply))

    def _breach(self, what: str, data: bytes) -> list[Event]:
        """The peer broke the protocol: raise that, at once or, if there are events to hand over first, next time."""
        self._held = b""
        self._fault = RemoteProtocolError(f"{what}: {data[:_QUOTED_BYTES]!r}")
        if not self._events:
            raise self._fault
        if self._transaction is None:
            self.stage = _CLOSED
        return self._events

    # --- commands --------------------------------------------------------------------------------------------------------------------

    def _over_size(self, size_bytes: int) -> Reply | None:
        limit = self.extensions.get("SIZE", "")
        if limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < size_bytes:
            return Reply(552, (f"5.3.4 Message of {size_bytes} bytes is over the limit of {limit} that the host announces",))
        return None

    def _write(self, transaction: Transaction) -> list[bytes]:
        """The commands of *transaction*, with the parameters that the peer offers."""
        if not transaction.recipients:
            raise LocalProtocolError("a transaction without recipients")
        offered = self.extensions
        eight_bit = transaction.eight_bit and not self._ignore_8bitmime and "8BITMIME" in offered
        dsn = "DSN" in offered and not self._ignore_dsn
        commands = [
            write_mail(
                transaction.sender,
                size_bytes=transaction.size_bytes if "SIZE" in offered else 0,
                eight_bit=eight_bit,
                ret=transaction.ret if dsn else "",
                env_id=transaction.env_id if dsn else "",
                utf8=transaction.utf8,
                binary=transaction.binary,
            )
        ]
        parameters: Sequence[str] = transaction.rcpt_parameters if dsn else ()
        if parameters:
            utf8 = transaction.utf8
            commands += [write_rcpt(recipient, words, utf8) for recipient, words in zip(transaction.recipients, parameters, strict=True)]
        elif transaction.utf8:
            commands += [write_rcpt(recipient, utf8=True) for recipient in transaction.recipients]
        else:
            commands += [write_rcpt(recipient) for recipient in transaction.recipients]
        if not self.by_chunks:
            commands.append(b"DATA\r\n")
        return commands


def _read(data: bytes, at: int, end: int) -> Reply:
    """The reply in data[at:end], which `scan_reply` found."""
    text = data[at:end].decode("latin-1")
    code = int(text[:3])
    if text[3] != "-":
        return Reply(code, (text[4:].rstrip("\r\n"),))
    return Reply(code, tuple([line[4:].rstrip("\r") for line in text[:-1].split("\n")]))
