"""What listener processes know together about clients: failed logins by network, open connections by <source-group>.  A leaf.

One memory file, made by the supervisor.  Each process writes its own cells only and reads those of all, so that nothing is lost to a race;
the cells of one thing stand side by side, one for each process.
"""

from __future__ import annotations

import hashlib
import ipaddress
import mmap
import os
import secrets
from collections.abc import Iterable
from typing import Final, NamedTuple

from engine.errors import StartError
from engine.process import Birth, SharedCount

MAX_GROUPS: Final = 64  # names of source-groups over the life of a supervisor
SLOTS: Final = 2048  # networks with failures that each process can remember
PROBES: Final = 4  # places in which one may be

_KEY_BYTES: Final = 16
_NAME_BYTES: Final = 16
_NAMES_AT: Final = _KEY_BYTES
_GROUPS_AT: Final = _NAMES_AT + MAX_GROUPS * _NAME_BYTES
_IPV6_BITS: Final = 64  # of a customer


class Failures(NamedTuple):
    """Failed logins of one network within a period that began with the first of them."""

    number: int
    left_s: float  # of the period


def door_file(rows: int) -> int:
    """A new memory file for *rows* processes."""
    fd = os.memfd_create("door", os.MFD_CLOEXEC)
    os.ftruncate(fd, door_bytes(rows))
    os.pwrite(fd, secrets.token_bytes(_KEY_BYTES), 0)
    return fd


def door_bytes(rows: int) -> int:
    """The size of that file."""
    return _GROUPS_AT + 4 * rows * (MAX_GROUPS + 3 * SLOTS)


def network_of(ip: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in ip:
        return ip
    return str(ipaddress.IPv6Network((ip, _IPV6_BITS), strict=False))


class Door:
    """The shared memory, seen from the process of *row*."""

    def __init__(self, fd: int, rows: int, row: int) -> None:
        self._view = memoryview(mmap.mmap(fd, door_bytes(rows)))
        self._key = bytes(self._view[:_KEY_BYTES])
        self._rows = rows
        self._row = row
        at = _GROUPS_AT + 4 * rows * MAX_GROUPS
        size = 4 * rows * SLOTS
        self._tags = self._view[at : at + size]  # of each slot, one int32 for each process; likewise ...
        self._starts = self._view[at + size : at + 2 * size].cast("i")  # ... the second of the first failure, and ...
        self._counts = self._view[at + 2 * size : at + 3 * size].cast("i")  # ... how many there were
        self._own = self._tags.cast("i")

    @classmethod
    def of(cls, birth: Birth) -> Door:
        """That of a child."""
        return cls(birth.door_fd, birth.rows, birth.row)

    @classmethod
    def alone(cls, groups: Iterable[str] = ()) -> Door:
        """That of a process which shares it with no other."""
        fd = door_file(1)
        door = cls(fd, 1, 0)
        os.close(fd)
        door.assign(groups)
        return door

    # --- groups -----------------------------------------------------------------------------------------------------------------------

    def group(self, name: str, limit: int) -> SharedCount:
        """The count of connections of the source-group *name*, with *limit* (0: none).  StartError: the supervisor has not been told of it."""
        place = self._place_of(self._digest(name))
        if place is None:
            raise StartError(f"the source-group {name} has no place in the shared counters")
        at = _GROUPS_AT + 4 * self._rows * place
        return SharedCount(self._view[at : at + 4 * self._rows], self._row, limit)

    def assign(self, names: Iterable[str]) -> None:
        """Give each of *names* a place, which it keeps; for the supervisor.  StartError where there is none."""
        for name in names:
            digest = self._digest(name)
            if self._place_of(digest) is not None:
                continue
            place = self._place_of(bytes(_NAME_BYTES))
            if place is None:
                raise StartError(f"source-group {name}: there have been {MAX_GROUPS} names of groups since the start: restart the engine for more")
            self._view[_NAMES_AT + place * _NAME_BYTES : _NAMES_AT + (place + 1) * _NAME_BYTES] = digest

    def reclaim(self, row: int) -> None:
        """The process of *row* is gone, and its connections with it; for the supervisor.  Failures stay: they are the clients'."""
        counts = self._view[_GROUPS_AT : _GROUPS_AT + 4 * self._rows * MAX_GROUPS].cast("i")
        for place in range(MAX_GROUPS):
            if counts[place * self._rows + row]:
                counts[place * self._rows + row] = 0

    def _place_of(self, digest: bytes) -> int | None:
        names = self._view[_NAMES_AT:_GROUPS_AT]
        return next((at for at in range(MAX_GROUPS) if names[at * _NAME_BYTES : (at + 1) * _NAME_BYTES] == digest), None)

    def _digest(self, name: str) -> bytes:
        return hashlib.blake2b(name.encode(), key=self._key, digest_size=_NAME_BYTES).digest()

    # --- failed logins ----------------------------------------------------------------------------------------------------------------

    def failures(self, ip: str, period_s: int, now_s: float) -> Failures:
        """Those of the network of *ip*, in all processes; *now_s* is monotonic."""
        slot, tag = self._hashed(ip)
        rows, now = self._rows, int(now_s)
        number, first = 0, now
        for at in range(slot, slot + PROBES):
            base = (at % SLOTS) * rows
            cells = bytes(self._tags[4 * base : 4 * (base + rows)])
            found = cells.find(tag)
            while found >= 0:
                cell = base + found // 4
                if not found % 4 and now - self._starts[cell] < period_s:
                    number += self._counts[cell]
                    first = min(first, self._starts[cell])
                found = cells.find(tag, found + 1)
        return Failures(number, max(0.0, first + period_s - now_s) if number else 0.0)

    def failed(self, ip: str, period_s: int, now_s: float) -> Failures:
        """Count one more; all of them, with it.  Where there is no room the network with the fewest is forgotten."""
        slot, tag = self._hashed(ip)
        own = int.from_bytes(tag, "little", signed=True)
        now = int(now_s)
        cells = [(at % SLOTS) * self._rows + self._row for at in range(slot, slot + PROBES)]
        cell = next((cell for cell in cells if self._own[cell] == own), None)
        if cell is None:
            stale = (cell for cell in cells if not self._own[cell] or now - self._starts[cell] >= period_s)
            cell = next(stale, min(cells, key=self._counts.__getitem__))
            self._own[cell] = own
            self._counts[cell] = 0
        if not self._counts[cell] or now - self._starts[cell] >= period_s:
            self._starts[cell] = now
            self._counts[cell] = 0
        self._counts[cell] += 1
        return self.failures(ip, period_s, now_s)

    def _hashed(self, ip: str) -> tuple[int, bytes]:
        """(the first slot, the tag, never all zero) of the network of *ip*."""
        digest = hashlib.blake2b(network_of(ip).encode(), key=self._key, digest_size=8).digest()
        return int.from_bytes(digest[:4], "little") % SLOTS, (digest[4:] if any(digest[4:]) else b"\1\0\0\0")
