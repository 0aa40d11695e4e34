"""A sink that counts: connections open at once per queue and in all, as the peer sees them, against what is allowed meanwhile."""

from __future__ import annotations

import socket
import threading
from collections import Counter, defaultdict

from tests.sinks.session import Session

ESTABLISHED = 1  # of TCP_INFO


class Census:
    """Open connections now, and every moment at which there were more than allowed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.exceeded: list[str] = []
        self.most: Counter[str] = Counter()
        self._now: defaultdict[str, set[socket.socket]] = defaultdict(set)
        self._allowed_per_queue = self._allowed_total = 0

    def allow(self, per_queue: int, total: int) -> None:
        """From now on this many are right: while a configuration changes, the larger of both."""
        with self.lock:
            self._allowed_per_queue, self._allowed_total = per_queue, total

    def opened(self, what: str, connection: socket.socket, *, total: bool) -> None:
        with self.lock:
            self._now[what].add(connection)
            count = len(self._now[what])
            self.most[what] = max(self.most[what], count)
            allowed = self._allowed_total if total else self._allowed_per_queue
            if count > allowed and (count := sum(map(established, self._now[what]))) > allowed:
                self.exceeded.append(f"{what}: {count} connections where {allowed} are allowed")

    def closed(self, what: str, connection: socket.socket) -> None:
        with self.lock:
            self._now[what].discard(connection)


def established(connection: socket.socket) -> bool:
    """Whether the client has not closed its end: a thread of ours that is late to notice that is no connection of theirs."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
    except OSError:
        return False


class CountedSession(Session):
    """Counts from its greeting until just before it answers QUIT, or it ends; a queue is an EHLO name (one per virtual MTA) and a domain."""

    name = "counted"
    census = Census()

    def run(self) -> None:
        """See Session."""
        self.queue = ""
        self.counted = True
        self.census.opened("all", self.sock, total=True)
        try:
            super().run()
        finally:
            self._leave()

    def answer(self, stage: str, argument: str) -> bytes:
        """See Session."""
        if stage == "rcpt" and (queue := f"{self.dialog.ehlo}/{argument.rpartition('@')[2].rstrip('>')}") != self.queue:
            if self.queue:
                self.census.closed(self.queue, self.sock)
            self.queue = queue
            self.census.opened(queue, self.sock, total=False)
        elif stage == "quit":
            self._leave()
        return super().answer(stage, argument)

    def _leave(self) -> None:
        if self.counted:
            self.counted = False
            self.census.closed("all", self.sock)
            if self.queue:
                self.census.closed(self.queue, self.sock)
