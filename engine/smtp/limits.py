"""What bounds a connection that comes in, and what we offer on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine import __version__
from engine.smtp.extensions import ehlo_reply


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What bounds one connection, and what we call ourselves on it; one object serves all connections of a kind.

    *max_message_size_bytes* is measured on the wire, stuffed dots included; 0 is no limit.  *max_rcpt_per_message* 0 leaves *hard_max_rcpt*.
    Errors and commands are counted since the last accepted message; a recipient that is refused with 5xx counts as a command.
    """

    host_name: str
    max_message_size_bytes: int = 0
    max_rcpt_per_message: int = 0
    hard_max_rcpt: int = 50_000
    max_line_bytes: int = 2048
    max_errors: int = 20
    max_commands_without_mail: int = 100
    domain_suffix: str = ""  # completes an address without a domain; "": such an address is refused
    too_many_rcpts_fails_message: bool = False  # DATA is refused, instead of each recipient too many
    disconnect_on_transient_error: bool = False  # close instead of a 4xx
    mends_newlines: bool = False  # a bare CR or LF in content is mended, instead of refusing it
    smtputf8: bool = False  # SMTPUTF8 is offered
    chunking: bool = False  # CHUNKING is, and BINARYMIME
    auth: tuple[str, ...] = ()  # mechanisms of AUTH offered without TLS
    auth_secure: tuple[str, ...] = ()  # and with it
    starttls: bool = False  # offered
    max_recipients: int = field(init=False)  # of one message, all told
    offered: frozenset[str] = field(init=False)  # the keywords of what is offered beyond what always is
    greeting: bytes = field(init=False)
    helo: bytes = field(init=False)
    ehlo: bytes = field(init=False)
    ehlo_secure: bytes = field(init=False)
    goodbye: bytes = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "max_recipients", min(self.max_rcpt_per_message or self.hard_max_rcpt, self.hard_max_rcpt))
        put(self, "greeting", f"220 {self.host_name} (engine v{__version__}) ESMTP service ready\r\n".encode("ascii"))
        put(self, "helo", f"250 {self.host_name} says hello\r\n".encode("ascii"))
        extensions = (("SMTPUTF8", self.smtputf8), ("CHUNKING", self.chunking), ("BINARYMIME", self.chunking))
        more = [keyword for keyword, offered in extensions if offered]
        put(self, "offered", frozenset(more))
        if self.max_rcpt_per_message:
            more.append(f"LIMITS RCPTMAX={self.max_recipients}")
        starttls = ["STARTTLS"] if self.starttls else []
        for name, mechanisms, tls in (("ehlo", self.auth, starttls), ("ehlo_secure", self.auth_secure, [])):
            auth = [f"AUTH {' '.join(mechanisms)}"] if mechanisms else []
            put(self, name, ehlo_reply(self.host_name, self.max_message_size_bytes, [*more, *tls, *auth]).encode())
        put(self, "goodbye", f"221 2.0.0 {self.host_name} says goodbye\r\n".encode("ascii"))
