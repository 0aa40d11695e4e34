"""A handler for tests: relays to example.net and to nobody else, keeps what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.mail.reply import Reply, reply
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

    def no_address(self) -> Reply | None:
        return NO_RELAY

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

    def __init__(self, **limits: int) -> None:
        self.postbox = Postbox()
        self.core = ServerConnection(self.postbox, ServerLimits("mx.example.org", **limits))
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
