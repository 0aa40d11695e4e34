"""Queues in line, first come, first served: numbers, each once, since there may be as many as there are destinations."""

from __future__ import annotations

from collections import deque


class Line:
    """See the module."""

    __slots__ = ("_members", "_order")

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._members: set[int] = set()

    def join(self, number: int) -> None:
        """*number* stands at the end of the line, unless it stands in it already."""
        if number not in self._members:
            self._members.add(number)
            self._order.append(number)

    def next(self) -> int:
        """The first, no longer in line; IndexError if there is none."""
        number = self._order.popleft()
        self._members.discard(number)
        return number

    def __contains__(self, number: int) -> bool:
        return number in self._members

    def __len__(self) -> int:
        return len(self._order)
