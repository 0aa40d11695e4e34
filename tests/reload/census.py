"""A sink that counts: connections open at once per queue and in all, as the peer sees them, against what is allowed meanwhile."""

from __future__ import annotations

import threading
from collections import Counter

from tests.sinks.session import Session


class Census:
    """Open connections now, and every moment at which there were more than allowed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.exceeded: list[str] = []
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._allowed_per_queue = self._allowed_total = 0

    def allow(self, per_queue: int, total: int) -> None:
        """From now on this many are right: while a configuration changes, the larger of both."""
        with self.lock:
            self._allowed_per_queue, self._allowed_total = per_queue, total

    def opened(self, what: str, *, total: bool) -> None:
        with self.lock:
            self._now[what] += 1
            count = self._now[what]
            self.most[what] = max(self.most[what], count)
            allowed = self._allowed_total if total else self._allowed_per_queue
            if count > allowed:
                self.exceeded.append(f"{what}: {count} connections where {allowed} are allowed")

    def closed(self, what: str) -> None:
        with self.lock:
            self._now[what] -= 1


class CountedSession(Session):
    """Counts from its greeting until just before it answers QUIT, or it ends; a queue is an EHLO name (one per virtual MTA) and a domain."""

    name = "counted"
    census = Census()

    def run(self) -> None:
        """See Session."""
        self.queue = ""
        self.counted = True
        self.census.opened("all", total=True)
        try:
            super().run()
        finally:
            self._leave()

    def answer(self, stage: str, argument: str) -> bytes:
        """See Session."""
        if stage == "rcpt" and (queue := f"{self.dialog.ehlo}/{argument.rpartition('@')[2].rstrip('>')}") != self.queue:
            if self.queue:
                self.census.closed(self.queue)
            self.queue = queue
            self.census.opened(queue, total=False)
        elif stage == "quit":
            self._leave()
        return super().answer(stage, argument)

    def _leave(self) -> None:
        if self.counted:
            self.counted = False
            self.census.closed("all")
            if self.queue:
                self.census.closed(self.queue)
