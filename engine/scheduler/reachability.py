"""Which (source IP, MX address, port) do not answer: remembered once for all queues, and probed by one connection at a time."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

LONGEST_WAIT_S = 600.0
REMEMBERED = " (remembered)"  # ends the reason of whoever did not try for himself
CAPACITY = 20_000  # pairs; the least recently failed is forgotten first


class _Unreachable(NamedTuple):
    until_s: float  # no connection before
    why: str


class Reachability:
    """Pairs that failed to connect or to greet.  Times are monotonic seconds."""

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str, int], _Unreachable] = OrderedDict()

    def failed(self, source_ip: str, address: str, port: int, now_s: float, wait_s: float, why: str) -> None:
        """A connection from *source_ip* to *address* failed: nobody tries again for *wait_s* seconds (ten minutes at the most)."""
        pair = (source_ip, address, port)
        self._pairs.pop(pair, None)
        self._pairs[pair] = _Unreachable(now_s + min(wait_s, LONGEST_WAIT_S), why)
        if len(self._pairs) > CAPACITY:
            self._pairs.popitem(last=False)

    def reached(self, source_ip: str, address: str, port: int) -> None:
        """A connection succeeded: the pair is forgotten."""
        if self._pairs:
            self._pairs.pop((source_ip, address, port), None)

    def blocked(self, source_ip: str, address: str, port: int, now_s: float, claim_s: float) -> str:
        """Why the pair is not to be tried now, or ''.  '' for a pair that failed before makes the caller its one probe for *claim_s* seconds."""
        pair = (source_ip, address, port)
        known = self._pairs.get(pair)
        if known is None:
            return ""
        if now_s < known.until_s:
            return known.why
        self._pairs[pair] = known._replace(until_s=now_s + claim_s)
        return ""
