"""One message on its way into the spool: from its first body byte to the answer to its final dot."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from engine import fastpath
from engine.clock import wall_ms
from engine.errors import SpoolError
from engine.log import escape
from engine.mail import message_id
from engine.mail.envelope import NEEDS_DSN, NEEDS_SMTPUTF8, NOTIFY_SUCCESS, Body, Due, Message
from engine.mail.received import received_field
from engine.mail.reply import Reply, reply
from engine.policy.access import Admitted, Rule, Target
from engine.reception.header import STRIPPED, added_fields, value
from engine.spool.ops import Accept, NewRecipient

if TYPE_CHECKING:
    from engine.config import ClientSettings
    from engine.reception.header import Found, HeaderWork
    from engine.reception.reception import LargeBody, Reception
    from engine.reception.stores import Letter

LARGE_BYTES: Final = 256 * 1024  # from here on a body streams into a file of its own; and no header section may be longer

MEMORY_SHORT_BYTES: Final = 64 * 1024 * 1024  # held of messages that are still coming: from here on bodies go to disk early
SPILL_BYTES: Final = 16 * 1024  # the same, while memory is short
NOTIFY_NEVER: Final = 1  # RFC 3461 §4.1, as Due keeps it
RECIPIENT_BYTES: Final = 500  # what one of a transaction costs, beside its address

LOOP = reply(554, "5.4.6 too many hops, this message is looping")
LONG_HEADER = reply(552, "5.3.4 header section is too long")
NOT_STORED = reply(451, "4.3.0 message could not be stored, try again later")
MEMORY_LOW = reply(452, "4.3.1 insufficient memory, try again later")
SPOOL_AWAY = reply(451, "4.3.0 the spool is not answering, try again later")
DISK_LOW = reply(452, "4.3.1 insufficient system storage, try again later")

_FIELDS = (b"received", b"x-virtual-mta", *STRIPPED)
_RECEIVED, _X_VIRTUAL_MTA = range(2)
_FIELD_START = re.compile(rb"[!-9;-~]+[ \t]*:|\r\n")  # a header field, or the blank line of an empty header section
_encode = msgspec.msgpack.Encoder().encode


class Origin(msgspec.Struct, frozen=True):
    """Who hands mail in: what is the same for every message of a session."""

    client: ClientSettings
    ip: str
    helo: str  # as logs show it: escaped
    protocol: str  # `with` of the Received field: SMTP, ESMTP
    host_name: str  # the name that we greeted with
    received_from: str  # engine.mail.received.from_clause, or "" where hide-message-source wants nothing said
    src_mta: str  # "helo (ip)", for accounting
    local_ip: Callable[[], str]  # the address of ours that it connected to
    smtp_user: str = ""  # as whom it has authenticated
    login: str = ""  # the same as logs show it: `user=NAME `


class Recipient(NamedTuple):
    """One address that the message is delivered to, and what the client wants to hear about it (RFC 3461)."""

    target: Target
    notify: int
    orcpt: str


class Envelope:
    """What MAIL and RCPT said, and what policy made of it."""

    __slots__ = ("env_id", "given", "held_bytes", "needs", "notify_sender", "recipients", "results", "ret", "sender")

    def __init__(self, sender: str = "", ret: str = "", env_id: str = "", needs: int = 0) -> None:
        self.sender = sender
        self.ret = ret
        self.env_id = env_id
        self.needs = needs  # bits NEEDS_*
        self.given: set[str] = set()  # recipients as the client gave them
        self.recipients: dict[str, Recipient] = {}  # by address: each is delivered to once
        self.notify_sender = True
        self.results = b""  # the Authentication-Results field, where a <source> wants checks: HeaderWork adds it
        self.held_bytes = 0  # of memory, as Reception counts them

    def add(self, given: str, admitted: Admitted, notify: int, orcpt: str, dsn_for_relayed: bool) -> None:
        """One admitted recipient.  Mail that only a relay rule admitted sends no DSNs: its sender may be forged (backscatter)."""
        self.given.add(given)
        for target in admitted.targets:
            if target.address not in self.recipients:
                self.recipients[target.address] = Recipient(target, notify, orcpt or target.orcpt)
                if notify & NOTIFY_SUCCESS:
                    self.needs |= NEEDS_DSN
                if target.orcpt and not target.address.isascii():  # an alias of ours leads there
                    self.needs |= NEEDS_SMTPUTF8
        if not dsn_for_relayed and admitted.rule in (Rule.RELAY_DOMAIN, Rule.RELAY_ADDRESS):
            self.notify_sender = False


class Intake:
    """Takes a body in wire form; `end` stores it and answers once that is durable.  Exactly one of `end` and `abort` is called."""

    __slots__ = (
        "_answered", "_choice", "_content", "_eight_bit", "_envelope", "_found", "_id", "_large", "_letter", "_origin", "_reception",
        "_size_bytes", "_work",
    )  # fmt: skip

    def __init__(self, reception: Reception, origin: Origin, envelope: Envelope) -> None:
        self._reception = reception
        self._origin = origin
        self._envelope = envelope
        self._content: bytes | bytearray = b""  # all of it, while it is small
        self._large: LargeBody | None = None
        self._letter: Letter | None = None  # the body on its way into one of several spools
        self._id = b""
        self._size_bytes = 0
        self._eight_bit = False
        self._choice = ""  # virtual MTA or pool
        self._answered: Callable[[Reply], None] | None = None
        self._work: HeaderWork | None = None  # what the client's settings ask for beyond the plain path
        self._found: Found | None = None  # with it: what this message's header section says

    def write(self, chunk: bytes) -> Reply | None:
        """Take the next bytes; a Reply refuses the message (call `abort`, and give it as the answer to the final dot)."""
        if self._large is not None:
            return self._stream((chunk,))
        self._envelope.held_bytes += len(chunk)  # `Reception.hold`, on the path of every message
        self._reception.held_bytes = held_bytes = self._reception.held_bytes + len(chunk)
        content = self._content
        if not content:
            self._content = chunk
        elif isinstance(content, bytearray):
            content += chunk
        else:
            self._content = bytearray(content)
            self._content += chunk
        if len(self._content) > LARGE_BYTES:
            return self._begin_large()
        return self._spare() if held_bytes > MEMORY_SHORT_BYTES else None

    def end(self, answered: Callable[[Reply], None]) -> None:
        """The final dot came: *answered* is called once, at once with a refusal or as soon as the message is durable."""
        try:
            if self._large is not None:
                body = self._large.finish()
                self._large = None
                if self._letter is not None:
                    self._id = self._letter.id
            else:
                pieces = self._examine(bytes(self._content))
                if isinstance(pieces, Reply):
                    answered(pieces)
                    return
                self._take_in(pieces)
                if self._reception.stores is None:
                    self._id = self._reception.link.new_id()
                    body = self._reception.segments.write(self._id, pieces)
                else:
                    self._letter = letter = self._reception.stores.place(pieces)
                    self._id, body = letter.id, letter.body
        except SpoolError as error:
            self.abort()
            answered(self._not_stored(error))
            return
        self._content = b""
        self._answered = answered
        self._submit(body)

    def abort(self) -> None:
        """The client went away, reset or was refused: nothing of the message stays."""
        self._content = b""
        if self._large is not None:
            self._large.abort()
            self._large = None

    def give_up(self) -> None:
        """Nobody waits for the answer any more.  The message may still become durable: then it is delivered, and the client's retry with it."""
        self._answered = None

    # --- what the header section says ---------------------------------------------------------------------------------------------

    def _examine(self, content: bytes) -> list[bytes] | Reply:
        """*content* (with its whole header section) as it will be stored, in pieces; or the refusal."""
        client = self._origin.client
        headed = not content or _FIELD_START.match(content) is not None
        if client.asks_more:
            return self._examine_more(content, headed)
        header_end, fields = fastpath.find_fields(content, _FIELDS) if headed else (0, [])
        if header_end > LARGE_BYTES:
            return LONG_HEADER
        hops = 0
        requested: str | None = None
        strip: list[tuple[int, int]] = []
        obeys = client.process_x_virtual_mta and client.always_allow_relaying
        for name, start, stop in fields:
            if name == _RECEIVED:
                hops += 1
            elif name != _X_VIRTUAL_MTA:
                strip.append((start, stop))
            elif obeys:
                if requested is None:
                    requested = value(content[start:stop])
                if not client.retain_x_virtual_mta:
                    strip.append((start, stop))
        if hops > client.max_message_hops:
            return LOOP
        choice = self._reception.router.choose(client, requested, self._origin.local_ip)
        if isinstance(choice, Reply):
            return choice
        self._choice = choice
        pieces = _without(content, strip) if strip else [content]
        if not headed:
            pieces.insert(0, b"\r\n")  # no header section at all: our own fields must not swallow the text
        return pieces

    def _examine_more(self, content: bytes, headed: bool) -> list[bytes] | Reply:
        """`_examine` for a client whose settings ask for more of a header section."""
        client = self._origin.client
        self._work = work = self._reception.header_work(client)
        header_end, fields = fastpath.find_fields(content, work.names) if headed else (0, [])
        if header_end > LARGE_BYTES:
            return LONG_HEADER
        self._found = found = work.read(content, fields)
        if found.hops > client.max_message_hops:
            return LOOP
        choice = self._reception.router.choose(client, found.requested, self._origin.local_ip)
        if isinstance(choice, Reply):
            return choice
        self._choice = choice
        pieces = _without(content, found.cut)
        if not headed:
            pieces.insert(0, b"\r\n")
        return pieces

    def _take_in(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._size_bytes += len(piece)
            if not self._eight_bit and not piece.isascii():
                self._eight_bit = True

    # --- bodies that stream ---------------------------------------------------------------------------------------------------------

    def _spare(self) -> Reply | None:
        """Memory is short: what can go to disk goes there early, and when none is left what comes is refused."""
        content = self._content
        if self._reception.memory_full:
            return MEMORY_LOW
        whole_header = b"\r\n\r\n" in content or not _FIELD_START.match(content) or content.startswith(b"\r\n")
        return self._begin_large() if whole_header and len(content) > SPILL_BYTES else None

    def _begin_large(self) -> Reply | None:
        content = bytes(self._content)
        self._content = b""
        self._reception.hold(self._envelope, -len(content))
        pieces = self._examine(content)
        if isinstance(pieces, Reply):
            return pieces
        try:
            if self._reception.stores is None:
                self._id = self._reception.link.new_id()
                self._large = self._reception.segments.begin_large(self._id)
            else:
                self._letter = self._large = self._reception.stores.begin_large()
        except SpoolError as error:
            return self._not_stored(error)
        return self._stream(pieces)

    def _stream(self, pieces: Sequence[bytes]) -> Reply | None:
        assert self._large is not None
        self._take_in(pieces)
        try:
            for piece in pieces:
                self._large.write(piece)
        except SpoolError as error:
            return self._not_stored(error)
        return None

    # --- into the spool ---------------------------------------------------------------------------------------------------------------

    def _submit(self, body: Body) -> None:
        now_ms = wall_ms()
        envelope, origin, reception = self._envelope, self._origin, self._reception
        shown_id = message_id.text(self._id)
        recipients, virtual_mta = self._recipients(now_ms)
        sender = envelope.sender
        prefix = self._prefix(shown_id, virtual_mta, now_ms)
        notify = envelope.notify_sender and sender != ""
        ret, env_id, job_id, late_date = envelope.ret, envelope.env_id, "", False
        work, found = self._work, self._found
        if work is not None and found is not None:
            prefix += envelope.results + added_fields(found, shown_id, reception.host_id, origin.host_name, now_ms // 1000)
            notify = notify and work.notify_sender
            ret, env_id, job_id, late_date = ret or work.ret, found.env_id or env_id, found.job_id, found.late_date
        message = Message(
            body, sender, prefix, now_ms, self._eight_bit, notify, ret, env_id,
            src_type="smtp", src_mta=origin.src_mta, job_id=job_id, needs=envelope.needs, smtp_user=origin.smtp_user, late_date=late_date,
        )  # fmt: skip
        accept = Accept(self._id, _encode(message), body.epoch, body.segment, body.size_bytes, recipients)

        letter = self._letter
        link = reception.link if letter is None else letter.link

        def done(reason: str | None) -> None:
            if reason is None:
                if letter is not None:
                    letter.stored()
                reception.taken_messages += 1
                reception.taken_recipients += len(recipients)
                reception.taken_bytes += body.size_bytes
                reception.log.event(
                    "accepted",
                    f"id={shown_id} queue={recipients[0].queue} ({len(recipients)} rcpts) client={origin.ip} helo={origin.helo} {origin.login}"
                    f"from=<{escape(sender)}> size={body.size_bytes}",
                )
                self._answer(reply(250, f"2.6.0 message received, queued as {shown_id}"))
            elif letter is not None and letter.again(reason):
                self._id = letter.id
                self._submit(letter.body)
            else:
                self._answer(self._not_stored(reason))

        link.submit(accept, done)

    def _recipients(self, now_ms: int) -> tuple[list[NewRecipient], str]:
        """Their rows, and the virtual MTA of the first.

        Members of a pool take turns by recipient; but where a header of the message is to name the virtual MTA there can be only one.
        """
        router, choice = self._reception.router, self._choice
        first = router.assign(choice)
        assigned = first
        together = self._origin.client.add_x_virtual_mta_header or not first.pool
        verp = self._origin.client.verp_default
        rows: list[NewRecipient] = []
        for target, notify, orcpt in self._envelope.recipients.values():
            if rows and not together:
                assigned = router.assign(choice)
            due = Due(target.address, now_ms, orcpt, notify, assigned.pool, verp=verp)
            rows.append(NewRecipient(f"{target.domain}/{assigned.vmta}", _encode(due)))
        if self._work is not None:
            for target in self._work.bcc:
                if target.address not in self._envelope.recipients:
                    due = Due(target.address, now_ms, "", NOTIFY_NEVER, assigned.pool)
                    rows.append(NewRecipient(f"{target.domain}/{assigned.vmta}", _encode(due)))
        return rows, first.vmta

    def _prefix(self, shown_id: str, virtual_mta: str, now_ms: int) -> bytes:
        origin = self._origin
        prefix = b""
        if origin.client.add_received_header:
            only = next(iter(self._envelope.given)) if len(self._envelope.given) == 1 else ""
            protocol = origin.protocol
            if self._envelope.needs & NEEDS_SMTPUTF8:
                only = only if only.isascii() else ""  # what we add goes to every host
                protocol = "UTF8" + protocol.removeprefix("E")  # RFC 6531 §4.3: UTF8SMTP, UTF8SMTPS, ...
            software = self._reception.software
            prefix = received_field(origin.received_from, origin.host_name, software, protocol, shown_id, only, now_ms // 1000)
        if self._reception.included_headers:
            prefix += self._reception.included_headers
        if origin.client.add_x_virtual_mta_header:
            prefix += f"X-Virtual-MTA: {virtual_mta}\r\n".encode("latin-1", "replace")
        return prefix

    def _answer(self, answer: Reply) -> None:
        if self._answered is not None:
            self._answered(answer)

    def _not_stored(self, fault: str | SpoolError) -> Reply:
        """Disk low is said as such (452); anything else is 451.  The reason goes to the log, not to the client."""
        reason = str(fault)
        cause = fault.__cause__ if isinstance(fault, SpoolError) else None
        low = reason.startswith(("disk", "full")) or (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        if low:
            self._reception.disk_low = True
        answer = DISK_LOW if low else NOT_STORED
        self._reception.log.event("not-stored", f"client={self._origin.ip} from=<{escape(self._envelope.sender)}> reason={escape(reason)}")
        return answer


def _without(content: bytes, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    pieces = []
    at = 0
    for start, stop in ranges:
        if start > at:
            pieces.append(content[at:start])
        at = stop
    pieces.append(content[at:])
    return pieces
