"""Line ends of message content: CRLF and nothing else, or made so.  Pure.

What ends a line for one party and not for another is how a second message is smuggled into a first (CVE-2023-51764 and its kin).
"""

from __future__ import annotations

import re

_ANY = re.compile(rb"\r\n|\r|\n")
_AS = {b"\r\n": b"\r\n", b"\n": b"\r\n", b"\r": b" "}


def are_strict(content: bytes) -> bool:
    """Whether every CR and LF of *content* is part of a CRLF."""
    pairs = content.count(b"\r\n")
    return content.count(b"\n") == pairs == content.count(b"\r")


def normalized(content: bytes) -> bytes:
    """*content* with CRLF for each bare LF and a blank for each bare CR, which is no line end to anybody but would be one to some."""
    return _ANY.sub(lambda found: _AS[found[0]], content)
