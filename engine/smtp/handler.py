"""Who decides for a connection that comes in: what the protocol core asks, and the answers that it hears nearly always."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from engine.mail.reply import Reply
from engine.smtp.extensions import Parameters

# The replies of a handler on its common path.
SENDER_OK = Reply(250, ("2.1.0 Sender ok",))
RECIPIENT_OK = Reply(250, ("2.1.5 Recipient ok",))
GO_AHEAD = Reply(354, ("Start mail input; end with <CRLF>.<CRLF>",))


class Handler(Protocol):
    """Decides for one connection.  A reply of 421 or 521 from any method closes the connection behind it.

    Where ServerLimits offer AUTH, it is an `authentication.AuthHandler` too.
    """

    def hello(self, name: str, extended: bool) -> None:
        """The client has said HELO or EHLO (*extended*)."""

    def mail(self, sender: str, parameters: Parameters) -> Reply | None:
        """May a message from *sender* ("" is the null reverse path) start?  SENDER_OK, or why not; None: the reply comes later, as `end`'s."""

    def rcpt(self, address: str, parameters: Parameters) -> Reply:
        """May it go to *address*?  RECIPIENT_OK, or why not."""

    def no_address(self, argument: bytes) -> Reply | None:
        """RCPT named what is no address (*argument*): the reply in place of the syntax error's, for clients who are to learn nothing of our grammar;
        RECIPIENT_OK: it was taken as a recipient all the same; or None.
        """

    def starttls(self) -> bool:
        """Whether a handshake may begin now."""

    def data(self) -> Reply:
        """May its content come?  GO_AHEAD, or why not: then the transaction stands, as after any refused command."""

    def body(self, chunk: bytes) -> Reply | None:
        """A piece of the content in wire form; a Reply refuses the message: no more comes, `reset` follows, the final dot is answered by it."""

    def end(self) -> Reply | None:
        """The content is complete.  None: the reply comes later, by `ServerConnection.answered`; a Reply is the answer at once."""

    def reset(self) -> None:
        """The transaction is void (RSET, a new HELO, a refused body, QUIT or the connection's end within it): forget it."""


class Phase(Enum):
    """Where a connection stands, for whoever sets its deadlines."""

    COMMANDS = "a command is awaited or incomplete"
    BODY = "message content is coming"
    CHUNK = "octets that BDAT announced are coming"
    AUTH = "the client's answer to a challenge of AUTH is awaited or incomplete"
    WAITING = "the reply to the final dot, or to AUTH, is ours to give: read no more"
    STARTTLS = "the TLS handshake is next: `ServerConnection.secured` once it is done"
    CLOSED = "nothing more is read; close once what was returned is sent"
