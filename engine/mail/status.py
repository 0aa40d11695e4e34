"""Enhanced status codes in words (RFC 3463 and its registry): the fixed phrases that stand behind a status in accounting files and DSNs."""

from __future__ import annotations

from functools import lru_cache

# by subject and detail; the class (2, 4 or 5) does not change the phrase
_PHRASES = {
    "0.0": "undefined status",
    "1.0": "other address status",
    "1.1": "bad destination mailbox address",
    "1.2": "bad destination system address",
    "1.3": "bad destination mailbox address syntax",
    "1.4": "destination mailbox address ambiguous",
    "1.5": "destination address valid",
    "1.6": "destination mailbox has moved",
    "1.7": "bad sender's mailbox address syntax",
    "1.8": "bad sender's system address",
    "1.9": "message relayed to non-compliant mailer",
    "1.10": "recipient address has null MX",
    "2.0": "other or undefined mailbox status",
    "2.1": "mailbox disabled",
    "2.2": "mailbox full",
    "2.3": "message length exceeds administrative limit",
    "2.4": "mailing list expansion problem",
    "3.0": "other or undefined mail system status",
    "3.1": "mail system full",
    "3.2": "system not accepting network messages",
    "3.3": "system not capable of selected features",
    "3.4": "message too big for system",
    "3.5": "system incorrectly configured",
    "4.0": "other or undefined network or routing status",
    "4.1": "no answer from host",
    "4.2": "bad connection",
    "4.3": "directory server failure",
    "4.4": "unable to route",
    "4.5": "mail system congestion",
    "4.6": "routing loop detected",
    "4.7": "delivery time expired",
    "5.0": "other or undefined protocol status",
    "5.1": "invalid command",
    "5.2": "syntax error",
    "5.3": "too many recipients",
    "5.4": "invalid command arguments",
    "5.5": "wrong protocol version",
    "6.0": "other or undefined media error",
    "6.1": "media not supported",
    "6.2": "conversion required and prohibited",
    "6.3": "conversion required but not supported",
    "6.4": "conversion with loss performed",
    "6.5": "conversion failed",
    "6.6": "message content not available",
    "6.7": "non-ASCII addresses not permitted for that sender/recipient",
    "6.8": "UTF-8 string reply is required, but not permitted by the SMTP client",
    "6.9": "UTF-8 header message cannot be transferred to one or more recipients",
    "7.0": "other or undefined security status",
    "7.1": "delivery not authorized",
    "7.2": "mailing list expansion prohibited",
    "7.3": "security conversion required but not possible",
    "7.4": "security features not supported",
    "7.5": "cryptographic failure",
    "7.6": "cryptographic algorithm not supported",
    "7.7": "message integrity failure",
}

_SUBJECTS = {
    "1": "other address status",
    "2": "other or undefined mailbox status",
    "3": "other or undefined mail system status",
    "4": "other or undefined network or routing status",
    "5": "other or undefined protocol status",
    "6": "other or undefined media error",
    "7": "other or undefined security status",
}


@lru_cache(maxsize=1024)
def describe(status: str) -> str:
    """*status* with its phrase, `5.1.1 (bad destination mailbox address)`; a detail that is not registered gets its subject's phrase, "" stays ""."""
    kind, _, rest = status.partition(".")
    phrase = "success" if kind == "2" and rest == "0.0" else _PHRASES.get(rest) or _SUBJECTS.get(rest.partition(".")[0], _PHRASES["0.0"])
    return f"{status} ({phrase})" if status else ""
