"""AUTH within an SMTP session, the server's side (RFC 4954): base64, challenges and replies around a mechanism; no password stays in it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.mail.reply import Reply
from engine.smtp.auth import SERVER_MECHANISMS, Accepted, Answer, Challenge, Denied, Malformed, Question, ServerMechanism, Step, decode64

if TYPE_CHECKING:
    from engine.smtp.limits import ServerLimits

MAX_RESPONSE_BYTES = 12_288  # of one line of an exchange, CRLF included (RFC 4954 §4)
MAX_FAILURES = 3  # on one connection

WELCOME = b"235 2.7.0 Authentication successful\r\n"
_AGAIN = b"503 5.5.1 Already authenticated\r\n"
_SYNTAX = b"501 5.5.4 Syntax: AUTH mechanism [initial response]\r\n"
_NO_MECHANISM = b"504 5.5.4 Unrecognized authentication mechanism\r\n"
_ENCRYPT_FIRST = b"538 5.7.11 Encryption required for requested authentication mechanism\r\n"
_CANCELLED = b"501 5.7.0 Authentication cancelled\r\n"
_NOT_BASE64 = b"501 5.5.2 Not base64\r\n"
_TOO_LONG = b"500 5.5.6 Authentication exchange line is too long\r\n"
_TOO_MANY_FAILURES = b"421 4.7.0 Too many authentication failures\r\n"


class AuthHandler(Protocol):
    """Decides who the client is."""

    def nonce(self) -> str:
        """Something that nobody can foresee, for one AUTH: letters and digits."""

    def shut_out(self) -> Reply | None:
        """Why nobody may go on to authenticate here, even in an exchange that has begun; None: whoever can may."""

    def authenticate(self, question: Question) -> Answer | Reply | None:
        """AUTH asks.  None: the answer comes later, by `ServerConnection.answered`; a Reply ends the exchange."""

    def authenticated(self, user: str, mechanism: str) -> ServerLimits | Reply:
        """The client is *user*, within these limits from now on; or why it is not welcome all the same."""

    def denied(self, user: str, mechanism: str) -> Reply | None:
        """The client is not *user*, as whom it wanted to authenticate: what it hears.  None: that comes later, by `ServerConnection.answered`."""


class Outcome(NamedTuple):
    """What becomes of the session: *reply* goes out unless it is b"".  *open*: the client's answer to a challenge is awaited; *owed*: ours, later."""

    reply: bytes
    open: bool = False
    owed: bool = False
    wrong: bool = False  # it counts as an error of the client's
    closes: bool = False
    limits: ServerLimits | None = None  # it has authenticated: from now on these hold


class Authentication:
    """AUTH of one connection: `begin`, `line` for each line of an exchange, `answered` for what the handler left open."""

    def __init__(self, handler: AuthHandler) -> None:
        self._handler = handler
        self._mechanism: ServerMechanism | None = None  # of the exchange under way
        self._denied = ""  # the handler owes its reply to this user's denial
        self._failures = 0
        self.user = ""  # who has authenticated

    def begin(self, argument: bytes, offered: tuple[str, ...], with_tls: tuple[str, ...], host_name: str) -> Outcome:
        """AUTH with *argument*; *offered* are the mechanisms that may be used now, *with_tls* those that TLS would allow."""
        if self.user:
            return Outcome(_AGAIN, wrong=True)
        words = argument.split(b" ")
        if not words[0] or len(words) > 2:
            return Outcome(_SYNTAX, wrong=True)
        name = words[0].decode("latin-1").upper()
        if name not in offered:
            return Outcome(_ENCRYPT_FIRST if name in with_tls else _NO_MECHANISM, wrong=True)
        initial = None
        if len(words) == 2:
            initial = b"" if words[1] == b"=" else decode64(words[1])
            if initial is None:
                return Outcome(_NOT_BASE64, wrong=True)
        self._mechanism = SERVER_MECHANISMS[name](host_name, self._handler.nonce())
        return self._go_on(self._mechanism.start(initial))

    def line(self, line: bytes) -> Outcome:
        """One line of the exchange, without its CRLF."""
        assert self._mechanism is not None
        if line == b"*":
            return self._over(Outcome(_CANCELLED, wrong=True))
        refusal = self._handler.shut_out()  # many may have begun before: a proof is not even looked at
        if refusal is not None:
            return self._refused(refusal)
        data = b"" if line == b"=" else decode64(line)  # curl writes an empty response as it does an initial one
        if data is None:
            return self._over(Outcome(_NOT_BASE64, wrong=True))
        return self._go_on(self._mechanism.respond(data))

    def overlong(self) -> Outcome:
        """A line came to its end that is longer than MAX_RESPONSE_BYTES."""
        return self._over(Outcome(_TOO_LONG, wrong=True))

    def answered(self, answer: Answer | Reply) -> Outcome:
        """What the handler left open: the answer to a question, the reply to a denial, or a Reply that ends the exchange."""
        if isinstance(answer, Reply):
            if self._denied:
                self._denied = ""
                return self._failed(answer)
            return self._refused(answer)
        assert self._mechanism is not None
        return self._go_on(self._mechanism.resume(answer))

    def _go_on(self, step: Step) -> Outcome:
        mechanism, handler = self._mechanism, self._handler
        assert mechanism is not None
        while True:
            if isinstance(step, Challenge):
                return Outcome(b"334 " + base64.b64encode(step.data) + b"\r\n", open=True)
            if isinstance(step, Malformed):
                return self._over(Outcome(f"501 {step.why}\r\n".encode("ascii"), wrong=True))
            if isinstance(step, Accepted):
                self._mechanism = None
                limits = handler.authenticated(step.user, mechanism.name)
                if isinstance(limits, Reply):
                    return self._refused(limits)
                self.user = step.user
                return Outcome(WELCOME, limits=limits)
            if isinstance(step, Denied):
                self._mechanism = None
                reply = handler.denied(step.user, mechanism.name)
                if reply is None:
                    self._denied = step.user
                    return Outcome(b"", owed=True)
                return self._failed(reply)
            answer = handler.authenticate(step)
            if answer is None:
                return Outcome(b"", owed=True)
            if isinstance(answer, Reply):
                return self._refused(answer)
            step = mechanism.resume(answer)

    def _failed(self, reply: Reply) -> Outcome:
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            return Outcome(_TOO_MANY_FAILURES, closes=True)
        return Outcome(reply.encode(), wrong=True, closes=reply.code in (421, 521))

    def _refused(self, reply: Reply) -> Outcome:
        return self._over(Outcome(reply.encode(), closes=reply.code in (421, 521)))

    def _over(self, outcome: Outcome) -> Outcome:
        self._mechanism = None
        return outcome
