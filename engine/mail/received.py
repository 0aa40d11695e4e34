"""The trace header that a receiving MTA puts in front of a message (RFC 5321 §4.4), and dates as mail writes them (RFC 5322 §3.3)."""

from __future__ import annotations

import re
import time
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# a HELO argument that may stand in a header field as it is: a domain or an address literal, nothing that opens a comment or ends the field
_HELO = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9.:]{1,64}\]")


@lru_cache(maxsize=8)
def date(now_s: int) -> str:
    """`Tue, 24 Nov 2026 03:41:57 +0000`: *now_s* (seconds since the epoch) in local time with its offset; computed once a second."""
    t = time.localtime(now_s)
    minutes = t.tm_gmtoff // 60
    sign, minutes = ("-", -minutes) if minutes < 0 else ("+", minutes)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon]} {t.tm_year} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} "
        f"{sign}{minutes // 60:02d}{minutes % 60:02d}"
    )


def address_literal(ip: str) -> str:
    """*ip* as RFC 5321 §4.1.3 writes it: `[192.0.2.1]`, `[IPv6:2001:db8::1]`."""
    return f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"


def from_clause(helo: str, ip: str) -> str:
    """`from helo ([ip])` and the fold after it, constant for a session.

    The address stands for a HELO name that is no domain, and that could forge the rest.
    """
    literal = address_literal(ip)
    return f"from {helo if _HELO.fullmatch(helo) else literal} ({literal})\r\n\t"


def received_field(clause: str, by: str, software: str, protocol: str, message_id: str, recipient: str, now_s: int) -> bytes:
    """The whole Received field in wire form.

    *clause* is `from_clause`'s, or "" where the client's name and address are to stay hidden; *software* names us (`engine v1`);
    *protocol* is the `with` keyword (`ESMTP`, RFC 3848); *recipient* is "" unless there is exactly one (RFC 5321 §7.2: Bcc must not leak).
    """
    to = f"\r\n\tfor <{recipient}>; " if recipient else ";\r\n\t"
    return f"Received: {clause}by {by} ({software}) with {protocol} id {message_id}{to}{date(now_s)}\r\n".encode("latin-1", "replace")
