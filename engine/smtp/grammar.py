"""Paths, as RFC 5321 §4.1.2 writes them and nothing wider: the door through which every envelope address comes in.

`fastpath.parse_path` takes the common form `<local@domain>`; what it leaves is decided here.
"""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from typing import NamedTuple

from engine.mail.address import canonical_domain, is_utf8_text

MAX_LOCAL_BYTES = 64  # RFC 5321 §4.5.3.1.1
MAX_DOMAIN_BYTES = 255
MAX_HELLO_BYTES = 255

# Local-part = Dot-string / Quoted-string; qtextSMTP = %d32-33 / %d35-91 / %d93-126; quoted-pairSMTP = %d92 %d32-126
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = rb'%b(?:\.%b)*|"(?:[ !#-\[\]-~]|\\[ -~])*"' % (_ATOM, _ATOM)
# Domain = sub-domain *("." sub-domain); sub-domain = Let-dig [Ldh-str]
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = rb"%b(?:\.%b)*" % (_LABEL, _LABEL)
_ASCII_DOMAIN = re.compile(_DOMAIN)
# A-d-l = At-domain *( "," At-domain ); a source route is read and dropped (RFC 5321 §3.3, appendix F.2)
_PATH = re.compile(rb"(?:@%b(?:,@%b)*:)?(%b)@(%b|\[[!-Z^-~]+\])" % (_DOMAIN, _DOMAIN, _LOCAL, _DOMAIN))

# The same where SMTPUTF8 is in use (RFC 6531 §3.3): what is not ASCII may stand wherever a letter may; a U-label's own rules are IDNA's.
_WIDE_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+"
_WIDE_LOCAL = rb'%b(?:\.%b)*|"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*"' % (_WIDE_ATOM, _WIDE_ATOM)
_WIDE_LABEL = rb"[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff-]*[A-Za-z0-9\x80-\xff])?"
_WIDE_DOMAIN = rb"%b(?:\.%b)*" % (_WIDE_LABEL, _WIDE_LABEL)
_WIDE_PATH = re.compile(rb"(?:@%b(?:,@%b)*:)?(%b)@(%b|\[[!-Z^-~]+\])" % (_WIDE_DOMAIN, _WIDE_DOMAIN, _WIDE_LOCAL, _WIDE_DOMAIN))

# where a path ends: the first > outside quotes
_BRACKETED = re.compile(rb'[ \t]*<((?:[^"<>\\]|"(?:[^"\\]|\\.)*")*)>(?:[ \t]+(.*)|)', re.DOTALL)

_HELLO_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]"


class Fault(Enum):
    """Why an argument is no path."""

    SHAPE = "no KEYWORD:<...>"
    ADDRESS = "what stands in the brackets is no address"
    NOT_ASCII = "an address that would need SMTPUTF8"


class Path(NamedTuple):
    """An address without brackets or source route ("" is the null reverse path), and the parameters behind it."""

    address: bytes
    parameters: bytes


def read_path(argument: bytes, keyword: bytes, *, null: bool = False, postmaster: bool = False, utf8: bool = False) -> Path | Fault:
    """The path in `FROM:<...> parameters`; *keyword* (`FROM:`, `TO:`) is upper case.

    *null* lets `<>` in (MAIL), *postmaster* lets `<postmaster>` in (RCPT), *utf8* an address in UTF-8 (RFC 6531 §3.3).
    Blanks between keyword and bracket are let through: many send them.
    """
    if argument[: len(keyword)].upper() != keyword:
        return Fault.SHAPE
    found = _BRACKETED.fullmatch(argument, len(keyword))
    if found is None:
        return Fault.SHAPE if utf8 or argument.isascii() else Fault.NOT_ASCII
    inside, parameters = found[1], (found[2] or b"").strip(b" \t")
    if not inside:
        return Path(b"", parameters) if null else Fault.ADDRESS
    if not inside.isascii():
        return _wide_path(inside, parameters) if utf8 else Fault.NOT_ASCII
    if postmaster and inside.lower() == b"postmaster":
        return Path(inside, parameters)
    address = _PATH.fullmatch(inside)
    if address is None:
        return Fault.ADDRESS
    local, domain = address[1], address[2]
    if len(local) > MAX_LOCAL_BYTES or len(domain) > MAX_DOMAIN_BYTES:
        return Fault.ADDRESS
    if domain.startswith(b"[") and not is_address_literal(domain):
        return Fault.ADDRESS
    return Path(local + b"@" + domain, parameters)


def bracketed(argument: bytes, keyword: bytes) -> tuple[bytes, bytes] | None:
    """(what stands in the brackets of `TO:<...> parameters`, address or not, parameters); None where nothing does."""
    found = _BRACKETED.fullmatch(argument, len(keyword)) if argument[: len(keyword)].upper() == keyword else None
    return (found[1], (found[2] or b"").strip(b" \t")) if found is not None and found[1] else None


def _wide_path(inside: bytes, parameters: bytes) -> Path | Fault:
    """The address *inside*, which is not ASCII."""
    found = _WIDE_PATH.fullmatch(inside)
    if found is None:
        return Fault.ADDRESS
    local, domain = found[1], found[2]
    try:
        text = inside.decode("utf-8")
        canonical = canonical_domain(domain.decode("utf-8")).encode("ascii")
    except UnicodeError:  # no UTF-8 at all, or U-labels that IDNA does not know
        return Fault.ADDRESS
    if not is_utf8_text(text) or len(local) > MAX_LOCAL_BYTES or max(len(domain), len(canonical)) > MAX_DOMAIN_BYTES:
        return Fault.ADDRESS
    literal = domain.startswith(b"[")
    if not (is_address_literal(domain) if literal else _ASCII_DOMAIN.fullmatch(canonical)):
        return Fault.ADDRESS
    return Path(local + b"@" + domain, parameters)


def is_address_literal(domain: bytes) -> bool:
    """Whether *domain* is `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3); other tags have no meaning to us."""
    inner = domain[1:-1].decode("ascii", "replace")
    try:
        if inner[:5].upper() == "IPV6:":
            ipaddress.IPv6Address(inner[5:])
            return "%" not in inner
        ipaddress.IPv4Address(inner)
    except ValueError:
        return False
    return True


def is_hello_name(name: bytes) -> bool:
    """Whether *name* may stand behind HELO and EHLO, and so in Received: letters, digits and `. - _ : [ ]`.

    Wider than a domain, since clients call themselves all sorts of things; narrow enough to break no header and no log line.
    """
    return 0 < len(name) <= MAX_HELLO_BYTES and not name.translate(None, _HELLO_BYTES)
