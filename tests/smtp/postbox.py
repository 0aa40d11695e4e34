"""A handler for tests: relays to example.net and to nobody else, keeps what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.mail.reply import Reply, reply
from engine.smtp.auth import Answer, DigestQuestion, PasswordQuestion, Question, cram_digest, scram_secret
from engine.smtp.extensions import Parameters
from engine.smtp.server import GO_AHEAD, RECIPIENT_OK, SENDER_OK, Phase, ServerConnection, ServerLimits

QUEUED = reply(250, "2.6.0 message queued as 00000000000000000001")
NO_RELAY = reply(550, "5.7.1 relaying denied")


@dataclass
class Mail:
    """One message as it came in."""

    sender: str
    parameters: Parameters
    recipients: list[tuple[str, Parameters]] = field(default_factory=list)
    wire: bytes = b""


class Postbox:
    """Handler of one connection."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.users: list[tuple[str, str]] = []
        self.limits = ServerLimits("mx.example.org")
        self.names: list[tuple[str, bool]] = []
        self.resets = 0
        self.open: Mail | None = None

    def hello(self, name: str, extended: bool) -> None:
        self.names.append((name, extended))

    def mail(self, sender: str, parameters: Parameters) -> Reply:
        assert self.open is None
        self.open = Mail(sender, parameters)
        return SENDER_OK

    def rcpt(self, address: str, parameters: Parameters) -> Reply:
        assert self.open is not None
        _, _, domain = address.rpartition("@")
        if address.lower() != "postmaster" and domain.lower() != "example.net":
            return NO_RELAY
        self.open.recipients.append((address, parameters))
        return RECIPIENT_OK

    def no_address(self, argument: bytes) -> Reply | None:
        return NO_RELAY

    def nonce(self) -> str:
        return "0123456789abcdef"

    def shut_out(self) -> Reply | None:
        return None

    def authenticate(self, question: Question) -> Answer | Reply | None:
        """Knows foo, whose password is barbaz."""
        known = question.user == "foo"
        if isinstance(question, PasswordQuestion):
            return known and question.password == b"barbaz"
        if isinstance(question, DigestQuestion):
            return known and question.digest == cram_digest(b"barbaz", question.challenge)
        return scram_secret(b"barbaz", b"salt", 10)._replace(valid=known)

    def authenticated(self, user: str, mechanism: str) -> ServerLimits | Reply:
        self.users.append((user, mechanism))
        return self.limits

    def denied(self, user: str, mechanism: str) -> Reply | None:
        self.users.append(("", mechanism))
        return reply(535, "5.7.8 Authentication credentials invalid")

    def starttls(self) -> bool:
        return True

    def data(self) -> Reply:
        assert self.open is not None and self.open.recipients
        return GO_AHEAD

    def body(self, chunk: bytes) -> Reply | None:
        assert self.open is not None and chunk
        self.open.wire += chunk
        return None

    def end(self) -> Reply | None:
        assert self.open is not None
        self.mails.append(self.open)
        self.open = None
        return None

    def reset(self) -> None:
        assert self.open is not None
        self.resets += 1
        self.open = None


class Client:
    """Feeds a ServerConnection and answers each final dot as soon as it may."""

    def __init__(self, **limits: Any) -> None:
        self.postbox = Postbox()
        self.postbox.limits = ServerLimits("mx.example.org", **limits)
        self.core = ServerConnection(self.postbox, self.postbox.limits)
        self._greeted = False

    def exchange(self, data: bytes) -> bytes:
        """What the core answers to *data*; the greeting first of all."""
        out = b"" if self._greeted else self.core.open()
        self._greeted = True
        if data:
            out += self.core.receive(data)
        while self.core.phase is Phase.WAITING:
            out += self.core.answered(QUEUED)
        return out
