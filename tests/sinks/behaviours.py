"""The misbehaviours, one small class and one name each; `BEHAVIOURS` is the table of all."""

from __future__ import annotations

from collections.abc import Collection

from tests.sinks.session import Hangup, Session

BEHAVIOURS: dict[str, type[Session]] = {Session.name: Session}
"""name -> Session class.  `refuse-connection` is not a session: Sink holds the port without listening."""


def _named(cls: type[Session]) -> type[Session]:
    BEHAVIOURS[cls.name] = cls
    return cls


def _family(base: type[Session], name: str, **attributes: object) -> None:
    BEHAVIOURS[name] = type(base.__name__, (base,), {"name": name, "__doc__": base.__doc__, **attributes})


class Says(Session):
    """Answers *reply* at *stage*, always, and goes on."""

    stage = ""
    reply = b""

    def answer(self, stage: str, argument: str) -> bytes:
        """The scripted reply at its stage."""
        return self.reply if stage == self.stage else super().answer(stage, argument)


_family(Says, "greeting-421", stage="greeting", reply=b"421 4.3.2 sink.example shutting down\r\n")
_family(Says, "greeting-554", stage="greeting", reply=b"554 5.7.1 no service for you\r\n")
_family(Says, "ehlo-rejected", stage="ehlo", reply=b"502 5.5.1 EHLO unknown\r\n")
_family(Says, "mail-4xx", stage="mail", reply=b"451 4.3.0 try later\r\n")
_family(Says, "mail-5xx", stage="mail", reply=b"550 5.7.1 sender refused\r\n")
_family(Says, "data-4xx", stage="data", reply=b"451 4.3.0 try later\r\n")
_family(Says, "data-5xx", stage="data", reply=b"554 5.6.0 not this\r\n")
_family(Says, "dot-4xx", stage="dot", reply=b"451 4.3.0 could not store it\r\n")
_family(Says, "dot-5xx", stage="dot", reply=b"554 5.7.1 content refused\r\n")
_family(Says, "data-354-always", stage="data", reply=b"354 go ahead, though nobody wants it\r\n")
for _stage in ("ehlo", "mail", "rcpt", "data", "dot"):
    _family(Says, f"421-at-{_stage}", stage=_stage, reply=b"421 4.3.2 closing\r\n")


@_named
class SilentGreeting(Session):
    """Accepts the connection and never says a word."""

    name = "silent-greeting"

    def run(self) -> None:
        """Wait until the peer gives up."""
        try:
            while self.sock.recv(4096):
                pass
            self.dialog.ended = "closed by peer"
        except OSError:
            self.dialog.ended = self.dialog.ended or "closed by peer"


_family(Session, "no-extensions", extensions=())
_family(Session, "no-pipelining", extensions=("SIZE 104857600", "8BITMIME", "ENHANCEDSTATUSCODES"))
_family(Session, "chunking", extensions=(*Session.extensions, "CHUNKING", "BINARYMIME"))
_family(Session, "no-8bitmime", extensions=("PIPELINING", "SIZE 104857600", "ENHANCEDSTATUSCODES"))


class RefusesRecipients(Session):
    """Refuses the recipients in *addresses* (None: all) with *reply*."""

    addresses: Collection[str] | None = None
    reply = b""

    def answer(self, stage: str, argument: str) -> bytes:
        """The refusal, where the address is one of those."""
        address = argument.partition("<")[2].partition(">")[0]
        if stage == "rcpt" and (self.addresses is None or address in self.addresses):
            return self.reply
        return super().answer(stage, argument)


_family(RefusesRecipients, "rcpt-4xx", reply=b"450 4.2.1 mailbox busy\r\n")
_family(RefusesRecipients, "rcpt-5xx", reply=b"550 5.1.1 no such user\r\n")


@_named
class AcceptsSome(Session):
    """Takes the first *limit* recipients of a transaction and answers the others *reply*."""

    name = "rcpt-452-after-n"
    limit = 2
    reply = b"452 4.5.3 too many recipients\r\n"

    def answer(self, stage: str, argument: str) -> bytes:
        """452 beyond the limit."""
        return self.reply if stage == "rcpt" and len(self.recipients) >= self.limit else super().answer(stage, argument)


@_named
class GoesOnWithoutRecipients(RefusesRecipients):
    """Refuses every recipient and still says 354 (RFC 2920 §3.1 names it); refuses the message at its dot."""

    name = "354-after-refusals"
    reply = b"550 5.1.1 no such user\r\n"

    def answer(self, stage: str, argument: str) -> bytes:
        """354 whatever came before; 554 at the dot if nobody is to get it."""
        if stage == "data":
            return b"354 go ahead\r\n"
        return b"554 5.5.1 no valid recipients\r\n" if stage == "dot" and not self.recipients else super().answer(stage, argument)


class Drops(Session):
    """Closes the connection at *stage* instead of answering; at `greeted`, right after the greeting."""

    stage = ""

    def answer(self, stage: str, argument: str) -> bytes:
        """Nothing at its stage."""
        if stage == self.stage:
            raise Hangup
        return super().answer(stage, argument)


_family(Drops, "drop-before-greeting", stage="greeting")
for _stage in ("ehlo", "mail", "rcpt", "data", "dot"):
    _family(Drops, f"drop-after-{_stage}", stage=_stage)


@_named
class DropsAfterGreeting(Session):
    """Greets, then closes."""

    name = "drop-after-greeting"

    def read_line(self) -> str:
        """No command is ever read."""
        raise Hangup


@_named
class KeepsThenDrops(Session):
    """Keeps the message, then closes without an answer to the final dot: the peer cannot know, and will send it again."""

    name = "deliver-then-drop"

    def write(self, data: bytes) -> None:
        """Everything but the answer to the dot."""
        if data == b"250 2.0.0 taken\r\n":
            raise Hangup
        super().write(data)


@_named
class DropsMidBody(Session):
    """Closes once *after_bytes* of a body have come."""

    name = "drop-mid-body"
    after_bytes = 100

    def take_body(self) -> bytes:
        """Never a whole one."""
        while len(self.pending) < self.after_bytes:
            self.pending += self.read(self.after_bytes)
        raise Hangup


@_named
class StallsMidBody(Session):
    """Stops reading once *after_bytes* of a body have come, and holds the connection open."""

    name = "stall-mid-body"
    after_bytes = 100
    receive_buffer_bytes = 4096

    def take_body(self) -> bytes:
        """Never a whole one; ends when the peer resets or the sink stops."""
        while len(self.pending) < self.after_bytes:
            self.pending += self.read(self.after_bytes)
        self.stall()
        raise Hangup

    def stall(self) -> None:
        """Wait for the sink to stop; replaced by the sink."""


@_named
class ByteByByte(Session):
    """Sends its replies one byte at a time."""

    name = "byte-by-byte"

    def write(self, data: bytes) -> None:
        """One segment for each byte."""
        for value in data:
            self.sock.sendall(bytes([value]))


@_named
class MultiLine(Session):
    """Every reply has *lines* lines."""

    name = "multi-line"
    lines = 5

    def answer(self, stage: str, argument: str) -> bytes:
        """The usual reply, spun out."""
        reply = super().answer(stage, argument)
        code = reply[:3]
        return b"".join(b"%s-line %d of many\r\n" % (code, number) for number in range(self.lines - 1)) + reply


class Malformed(Says):
    """Sends *reply*, which no grammar allows, at *stage*."""

    stage = "mail"


_family(Malformed, "malformed-no-code", reply=b"hello, nice to hear from you\r\n")
_family(Malformed, "malformed-mixed-codes", reply=b"250-first\r\n251-second\r\n550 third\r\n")
_family(Malformed, "malformed-long-line", reply=b"250 " + b"x" * 10_000_000)
_family(Malformed, "malformed-binary", reply=bytes(range(256)) * 4 + b"\r\n")
_family(Malformed, "malformed-empty-line", reply=b"\r\n")
_family(Malformed, "malformed-endless-lines", reply=b"250-and on\r\n" * 100_000)


@_named
class ExtraReplies(Session):
    """Says more than was asked: one more reply behind the one at *stage*."""

    name = "extra-replies"
    stage = "mail"
    extra = b"250 2.0.0 and by the way\r\n"

    def answer(self, stage: str, argument: str) -> bytes:
        """The usual reply and one that nobody asked for."""
        reply = super().answer(stage, argument)
        return reply + self.extra if stage == self.stage else reply


@_named
class SizeLimit(Session):
    """Announces SIZE *limit_bytes*; 552 at MAIL with a larger SIZE=, and at the dot of a larger message."""

    name = "size-limit"
    limit_bytes = 10_000
    _taken = 0

    def answer(self, stage: str, argument: str) -> bytes:
        """552 over the limit."""
        self.extensions = ("PIPELINING", f"SIZE {self.limit_bytes}", "8BITMIME", "ENHANCEDSTATUSCODES")
        declared = argument.upper().partition(" SIZE=")[2].partition(" ")[0]
        over = (stage == "mail" and declared.isdigit() and int(declared) > self.limit_bytes) or (stage == "dot" and self._taken > self.limit_bytes)
        return b"552 5.3.4 too big\r\n" if over else super().answer(stage, argument)

    def take_body(self) -> bytes:
        """The body, measured."""
        body = super().take_body()
        self._taken = len(body)
        return body


@_named
class Slow(Session):
    """Answers at *stage* (every stage without one) only after *delay_s*."""

    name = "slow-replies"
    stage = ""
    delay_s = 0.2

    def write(self, data: bytes) -> None:
        """Late."""
        last = self.dialog.commands[-1].partition(" ")[0].lower() if self.dialog.commands else "greeting"
        if not self.stage or last == self.stage:
            self.pause(self.delay_s)
        super().write(data)

    def pause(self, seconds: float) -> None:
        """Wait, or until the sink stops; replaced by the sink."""
