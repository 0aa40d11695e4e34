"""Mail addresses as strings `local@domain`: splitting, and domains in the one form that queues are named by."""

from __future__ import annotations

from functools import lru_cache

import idna

_MAX_DOMAIN = 255


def split(address: str) -> tuple[str, str]:
    """(local part as given, domain lower-cased to A-labels); the domain is '' where there is none."""
    local, at, domain = address.rpartition("@")
    return (local, canonical_domain(domain)) if at else (address, "")


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
