"""Line ends of message content: CRLF and nothing else, or made so.  Pure.

What ends a line for one party and not for another is how a second message is smuggled into a first (CVE-2023-51764 and its kin).
"""

from __future__ import annotations

import re

_ANY = re.compile(rb"\r\n|\r|\n")
_LONE_DOT = re.compile(rb"^\.\r\n", re.MULTILINE)
_AS = {b"\r\n": b"\r\n", b"\n": b"\r\n", b"\r": b" "}


def are_strict(content: bytes) -> bool:
    """Whether every CR and LF of *content* is part of a CRLF."""
    pairs = content.count(b"\r\n")
    return content.count(b"\n") == pairs == content.count(b"\r")


def normalized(content: bytes) -> bytes:
    """*content* with CRLF for each bare LF and a blank for each bare CR, which is no line end to anybody but would be one to some."""
    return _ANY.sub(lambda found: _AS[found[0]], content)


class Mender:
    """Makes strict lines of a body in wire form, of which a bare CR or LF was found; its true end, CRLF . CRLF, is known to whoever feeds it."""

    def __init__(self, at_start: bool) -> None:
        """*at_start*: what comes first is the beginning of a line."""
        self._at_start = at_start
        self._held = b""  # at most a dot that may be a whole line, and a CR

    def feed(self, data: bytes) -> bytes:
        """*data*, cut anywhere, with strict line ends, as far as it is known; a dot that a bare LF made a line of its own is stuffed."""
        text = self._held + data
        keep = 1 if text.endswith(b"\r") else 0
        rest = text[: len(text) - keep]
        if rest.endswith(b"\n.") or (rest == b"." and self._at_start):
            keep += 1
        self._held = text[len(text) - keep :]
        text = normalized(text[: len(text) - keep])
        if not text:
            return b""
        at = 0 if self._at_start else text.find(b"\n") + 1 or len(text)
        self._at_start = text.endswith(b"\n")
        return text[:at] + _LONE_DOT.sub(b"..\r\n", text[at:])
