"""Connections of each <source-group>, over all listener processes: no more than max-smtp-in, and reserved-smtp-in kept free of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.door import Door
from engine.process import SharedCount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.config import SourceGroup


class Groups:
    """Takes from total-max-smtp-in (*incoming*) for clients of groups and of none."""

    def __init__(self, groups: Iterable[SourceGroup], door: Door, incoming: SharedCount) -> None:
        groups = tuple(groups)
        self._counts = {group.name: door.group(group.name, group.max_smtp_in) for group in groups}
        self._reserved = {group.name: group.reserved_smtp_in for group in groups if group.reserved_smtp_in}
        self._incoming = incoming

    def take(self, name: str) -> bool:
        """Count one more connection of the group *name* ("": of none), if that leaves the others what is reserved for them.

        Two takers of the last place may both be refused, never both be let in.
        """
        own = self._counts.get(name)
        if own is not None and not own.take():
            return False
        if self._incoming.take():
            if own is not None and own.total() <= self._reserved.get(name, 0):
                return True
            kept = sum(max(0, reserved - self._counts[other].total()) for other, reserved in self._reserved.items() if other != name)
            if not kept or not self._incoming.limit or self._incoming.total() + kept <= self._incoming.limit:
                return True
            self._incoming.give()
        if own is not None:
            own.give()
        return False

    def give(self, name: str) -> None:
        """One less of the group *name*; total-max-smtp-in is given back by whoever took it."""
        own = self._counts.get(name)
        if own is not None:
            own.give()
