"""A bounded map whose values expire, and how long each kind of DNS answer lives.  Pure: the time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from engine.dns.answer import Answer, Found, NoData, NxDomain

K = TypeVar("K")
V = TypeVar("V")

MIN_TTL_S = 5.0  # a burst of connections costs one look-up even where the owner grants nothing
MAX_TTL_S = 86_400.0
MAX_NEGATIVE_TTL_S = 3_600.0  # RFC 2308 section 5 advises one to three hours
FAILURE_TTL_S = 10.0  # RFC 9520 section 3.2: failures are remembered too, briefly
STALE_S = 3_600.0  # how long past its end a positive answer may stand in for a failure (RFC 8767)
STALE_TTL_S = 30.0  # and how long until the servers are asked again (RFC 8767 section 5)


def lifetime_s(answer: Answer) -> float:
    """Seconds that *answer* may be kept: its TTL within our bounds."""
    if isinstance(answer, Found):
        return min(max(answer.ttl_s, MIN_TTL_S), MAX_TTL_S)
    if isinstance(answer, NoData | NxDomain):
        return min(max(answer.ttl_s, MIN_TTL_S), MAX_NEGATIVE_TTL_S)
    return FAILURE_TTL_S


class Cache(Generic[K, V]):
    """At most *size* values; the least recently used leaves first.

    An expired value stays until it is replaced or has to leave, so that it can be revived.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, tuple[V, float, float]] = OrderedDict()  # value, end of its life, end of its afterlife

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now_s: float) -> tuple[V, float] | None:
        """(value, when it expires), or None: unknown or expired."""
        entry = self._entries.get(key)
        if entry is None or entry[1] <= now_s:
            return None
        self._entries.move_to_end(key)
        return entry[0], entry[1]

    def put(self, key: K, value: V, expires_s: float, stale_until_s: float = 0.0) -> None:
        """Keep *value* until *expires_s*; until *stale_until_s* it can be revived."""
        self._entries[key] = (value, expires_s, stale_until_s)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def revive(self, key: K, ttl_s: float, now_s: float) -> tuple[V, float] | None:
        """(value, when it expires) of an entry that has expired but may still serve: for *ttl_s* more, but not past its afterlife; else None."""
        entry = self._entries.get(key)
        if entry is None or entry[2] <= now_s:
            return None
        value, expires_s, stale_until_s = entry
        expires_s = max(expires_s, min(now_s + ttl_s, stale_until_s))
        self.put(key, value, expires_s, stale_until_s)
        return value, expires_s
