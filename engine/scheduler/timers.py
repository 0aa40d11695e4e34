"""When to look at which queue again: a heap with one live entry a queue.  O(queues) of memory, whatever waits in them."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_NUMBER_BITS = 32
_NUMBER = (1 << _NUMBER_BITS) - 1
_STALE_MOST = 1_000  # entries beyond the living that are let lie


class Timers:
    """Wake-ups by queue number, wall ms; the earlier of two wins."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._heap: list[int] = []  # ms << 32 | number: half of a tuple's memory
        self._at: dict[int, int] = {}

    def wake(self, number: int, when_ms: int) -> None:
        """Wake queue *number* at *when_ms*, unless it will be woken sooner."""
        known = self._at.get(number)
        if known is None or when_ms < known:
            self._at[number] = when_ms
            if len(self._heap) > 2 * len(self._at) + _STALE_MOST:
                self._heap = [at_ms << _NUMBER_BITS | each for each, at_ms in self._at.items()]
                heapify(self._heap)
            else:
                heappush(self._heap, when_ms << _NUMBER_BITS | number)

    def forget(self, number: int) -> None:
        """Do not wake queue *number*."""
        self._at.pop(number, None)

    def due(self, now_ms: int, most: int) -> list[int]:
        """Up to *most* numbers whose time has come, each once; they are forgotten."""
        numbers: list[int] = []
        heap, at = self._heap, self._at
        end = (now_ms + 1) << _NUMBER_BITS
        while heap and heap[0] < end and len(numbers) < most:
            entry = heappop(heap)
            number = entry & _NUMBER
            if at.get(number) == entry >> _NUMBER_BITS:
                del at[number]
                numbers.append(number)
        return numbers

    def at_ms(self, number: int) -> int:
        """When queue *number* is to be woken, or 0."""
        return self._at.get(number, 0)

    def next_ms(self) -> int:
        """The earliest wake-up, or 0; perhaps one that was forgotten."""
        return self._heap[0] >> _NUMBER_BITS if self._heap else 0

    def __len__(self) -> int:
        return len(self._at)
