"""SMTP replies as values: what a peer answered, and what we answer (RFC 5321 §4.2, RFC 3463)."""

from __future__ import annotations

import re
from typing import NamedTuple

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:[ \t]|$)")


class Reply(NamedTuple):
    """One whole reply: its code and its lines without code and separator (Latin-1, as the peer sent them)."""

    code: int
    lines: tuple[str, ...]

    @property
    def positive(self) -> bool:
        """2xx or 3xx."""
        return 200 <= self.code < 400

    @property
    def permanent(self) -> bool:
        """5xx."""
        return 500 <= self.code < 600

    @property
    def status(self) -> str:
        """Its RFC 3463 status; where the peer gave none, x.0.0 of its class."""
        found = _ENHANCED.match(self.lines[0]) if self.lines else None
        return found[1] if found and int(found[1][0]) == self.code // 100 else f"{self.code // 100}.0.0"

    @property
    def text(self) -> str:
        """The reply on one line, `550 5.1.1 no such user`, lines joined by a blank: for records and logs (not escaped)."""
        return f"{self.code} {' '.join(self.lines)}".rstrip()

    def encode(self) -> bytes:
        """The bytes that go on the wire, every line with code and CRLF."""
        if len(self.lines) == 1:
            return f"{self.code} {self.lines[0]}\r\n".encode("latin-1", "replace")
        last = len(self.lines) - 1
        return "".join([f"{self.code}{'-' if i < last else ' '}{line}\r\n" for i, line in enumerate(self.lines)]).encode("latin-1", "replace")


def reply(code: int, *lines: str) -> Reply:
    """A Reply of ours; the first words of a line are its enhanced status code where one belongs."""
    return Reply(code, lines)
