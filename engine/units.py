"""Times, sizes and rates in PowerMTA's notation: text to numbers and back.

Parsers raise ValueError with a sentence that an operator can act on, and never quote more than the text they were given.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_TIME = re.compile(r"([0-9]{1,9})([wdhms])", re.I | re.A)
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18})([bkmgt]?)", re.I | re.A)
_RATE_UNITS = {"day": 86_400, "d": 86_400, "hr": 3_600, "h": 3_600, "min": 60, "m": 60, "sec": 1, "s": 1}
_RATE = re.compile(r"([0-9]{1,18}[bkmgt]?)/([0-9]{0,9})(day|d|hr|h|min|m|sec|s)", re.I | re.A)


class Rate(NamedTuple):
    """At most *amount* (recipients, connections or bytes) in *period_s* seconds."""

    amount: int
    period_s: int


def parse_seconds(text: str) -> int:
    """Seconds of a time interval such as `1w2d12h`; a bare `0` is zero."""
    if text == "0":
        return 0
    total, position = 0, 0
    seen: set[str] = set()
    while match := _TIME.match(text, position):
        unit = match[2].lower()
        if unit in seen:
            raise ValueError(f"the unit {unit!r} stands twice")
        seen.add(unit)
        total += int(match[1]) * _SECONDS[unit]
        position = match.end()
    if not text or position != len(text):
        hint = ": a unit is missing" if text.isascii() and text.isdigit() else ""
        raise ValueError(f"not a time such as 30s, 10m, 4d12h{hint}")
    return total


def format_seconds(seconds: int) -> str:
    """The shortest text that `parse_seconds` reads as *seconds*."""
    parts = []
    for unit, size in _SECONDS.items():
        amount, seconds = divmod(seconds, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Bytes of a size such as `50M`; `unlimited` and `0` are 0."""
    if text.lower() == "unlimited":
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("not a size such as 500k, 50M, 1G or unlimited")
    return int(match[1]) * _BYTES[match[2].lower()]


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads as *size_bytes*, 0 as `unlimited`."""
    if size_bytes == 0:
        return "unlimited"
    for unit in ("t", "g", "m", "k"):
        if size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit.upper()}"
    return f"{size_bytes}b"


def parse_rate(text: str) -> Rate | None:
    """The rate `N/[M]unit` (`100/15m`, `10g/2h`), None for `unlimited` and for nothing (`0`, `0/h`)."""
    if text.lower() == "unlimited" or text == "0":
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("not a rate such as 1000/h, 100/15m or unlimited")
    multiplier = int(match[2] or 1)
    if multiplier == 0:
        raise ValueError("a rate over no time at all")
    amount = parse_size(match[1])
    return Rate(amount, multiplier * _RATE_UNITS[match[3].lower()]) if amount else None
