"""Mail addresses as strings `local@domain`: splitting, and domains in the one form that queues are named by."""

from __future__ import annotations

import re
from functools import lru_cache

import idna

INVALID_DOMAIN = "{invalid}"  # in the name of the queue of recipients that are no addresses (accept-invalid-recipients): they bounce
_MAX_DOMAIN = 255
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufff9-\uffff]")


def split(address: str) -> tuple[str, str]:
    """(local part as given, domain lower-cased to A-labels); the domain is '' where there is none."""
    local, at, domain = address.rpartition("@")
    return (local, canonical_domain(domain)) if at else (address, "")


def is_utf8_text(address: str) -> bool:
    """Whether *address* may stand in a command or a header line outside ASCII too: no control character, no line end of any kind."""
    return _UNFIT.search(address) is None


def in_ascii(address: str) -> str | None:
    """*address* with its domain as A-labels; None if its local part is not ASCII: then it exists only where SMTPUTF8 is (RFC 6531 §3.2)."""
    if address.isascii():
        return address
    local, domain = split(address)
    return f"{local}@{domain}" if local.isascii() and domain.isascii() else None


def is_written_plainly(domain: str) -> bool:
    """Whether *domain* is the one way to write its U-labels, but for case: no look-alike (a full-width letter) that a mapping made equal to it."""
    try:
        return idna.decode(canonical_domain(domain)) == domain.lower().removesuffix(".")
    except idna.IDNAError:
        return False


@lru_cache(maxsize=16384)
def canonical_domain(domain: str) -> str:
    """*domain* in the form queues are named by: lower case, no root dot, U-labels as A-labels (RFC 5891); address literals lower-cased.

    A name that is not a domain at all comes back lower-cased: whoever routes it finds that out.
    """
    if domain.isascii():
        name = domain.lower()
        return name[:-1] if name.endswith(".") and len(name) > 1 else name
    try:
        return idna.encode(domain, uts46=True).decode("ascii").rstrip(".")
    except idna.IDNAError:
        return domain.lower()[:_MAX_DOMAIN]
