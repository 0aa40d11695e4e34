"""When to look at which queue again: a heap with one live entry a queue.  O(queues) of memory, whatever waits in them."""

from __future__ import annotations

from heapq import heappop, heappush


class Timers:
    """Wake-ups by queue number, wall ms; the earlier of two wins."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._at: dict[int, int] = {}

    def wake(self, number: int, when_ms: int) -> None:
        """Wake queue *number* at *when_ms*, unless it will be woken sooner."""
        known = self._at.get(number)
        if known is None or when_ms < known:
            self._at[number] = when_ms
            heappush(self._heap, (when_ms, number))

    def due(self, now_ms: int, most: int) -> list[int]:
        """Up to *most* numbers whose time has come, each once; they are forgotten."""
        numbers: list[int] = []
        heap, at = self._heap, self._at
        while heap and heap[0][0] <= now_ms and len(numbers) < most:
            when, number = heappop(heap)
            if at.get(number) == when:
                del at[number]
                numbers.append(number)
        return numbers

    def next_ms(self) -> int:
        """The earliest wake-up, or 0."""
        return self._heap[0][0] if self._heap else 0

    def __len__(self) -> int:
        return len(self._at)
