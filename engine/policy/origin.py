"""May mail come from there in that name?  What SPF and the client's own name say, against what a `<source>` makes of it.  Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from engine.mail.reply import Reply, reply

if TYPE_CHECKING:
    from engine.config import ClientSettings

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~@-]+\Z")  # what needs no quotes (RFC 8601 section 2.2)
_MOST_CHARS = 255  # of a value

# RFC 7372 has the codes
_REFUSALS = {
    ("spf", "fail"): reply(550, "5.7.23 SPF: this client may not send for the sender's domain"),
    ("spf", "permerror"): reply(550, "5.7.24 SPF: the record of the sender's domain is broken"),
    ("spf", "temperror"): reply(451, "4.7.24 SPF: the sender's domain could not be checked, try again later"),
    ("iprev", "fail"): reply(550, "5.7.25 the client's name does not lead back to its address"),
    ("iprev", "permerror"): reply(550, "5.7.25 the client's address has no name in DNS"),
    ("iprev", "temperror"): reply(451, "4.7.25 the client's name could not be checked, try again later"),
}


class Checked(NamedTuple):
    """One check that was made: *method* spf or iprev, its result, and what it was about as RFC 8601 writes it (`smtp.mailfrom`, a domain)."""

    method: str
    result: str
    property: str
    value: str


def refusal(client: ClientSettings, checks: tuple[Checked, ...]) -> Reply | None:
    """The answer to MAIL where *client*'s settings refuse mail for one of *checks*; None where they let it pass."""
    for check in checks:
        if getattr(client, f"reject_{check.method}_check_{check.result}", False):
            return _REFUSALS[check.method, check.result]
    return None


def results_field(host_name: str, checks: tuple[Checked, ...]) -> bytes:
    """The Authentication-Results field (RFC 8601) of *host_name* about *checks*, in wire form."""
    parts = [host_name, *(f"{check.method}={check.result} {check.property}={_value(check.value)}" for check in checks)]
    return b"Authentication-Results: " + ";\r\n\t".join(parts).encode("ascii", "replace") + b"\r\n"


def _value(text: str) -> str:
    """*text* as a value: as it is, or quoted; what a quoted string cannot hold is replaced."""
    text = text[:_MOST_CHARS]
    if _TOKEN.match(text):
        return text
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text) + '"'
