"""The ways in which one stream of bytes can come in reads."""

from __future__ import annotations

from itertools import pairwise


def cuts(data: bytes) -> list[list[bytes]]:
    """*data* whole, byte by byte, before and behind every CR and dot, and in pieces whose lengths its own bytes choose."""
    singles = [data[i : i + 1] for i in range(len(data))]
    edges = sorted({0, len(data), *(at + more for at, byte in enumerate(data) if byte in b"\r." for more in (0, 1))})
    chosen: list[bytes] = []
    at = 0
    while at < len(data):
        step = 1 + data[at] % 23
        chosen.append(data[at : at + step])
        at += step
    ways = [[data], singles, [data[a:b] for a, b in pairwise(edges)], chosen]
    return [way for way in ways if way and all(way)] or [[]]
