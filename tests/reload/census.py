"""A sink that counts: connections open at once per queue and in all, as the peer sees them, against what is allowed meanwhile."""

from __future__ import annotations

import select
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
        self._now: defaultdict[str, set[CountedSession]] = defaultdict(set)
        self._allowed_per_queue = self._allowed_total = 0

    def allow(self, per_queue: int, total: int) -> None:
        """From now on this many are right: while a configuration changes, the larger of both."""
        with self.lock:
            self._allowed_per_queue, self._allowed_total = per_queue, total

    def opened(self, what: str, session: CountedSession, *, total: bool) -> None:
        with self.lock:
            open_now = self._now[what]
            open_now.add(session)
            self.most[what] = max(self.most[what], len(open_now))
            allowed = self._allowed_total if total else self._allowed_per_queue
            if len(open_now) <= allowed:
                return
            count = sum(not each.has_left(what == "all") for each in open_now if each is not session) + 1
            if count > allowed:
                self.exceeded.append(f"{what}: {count} connections where {allowed} are allowed")

    def closed(self, what: str, session: CountedSession) -> None:
        with self.lock:
            self._now[what].discard(session)


class CountedSession(Session):
    """Counts from its greeting until just before it answers QUIT, or it ends; a queue is an EHLO name (one per virtual MTA) and a domain, and has
    the connection from its RCPT until the next MAIL, which may be another queue's.
    """

    name = "counted"
    census = Census()

    def run(self) -> None:
        """See Session."""
        self.queue = ""
        self.counted = True
        self.census.opened("all", self, total=True)
        try:
            super().run()
        finally:
            self._leave()

    def answer(self, stage: str, argument: str) -> bytes:
        """See Session."""
        if stage == "rcpt" and not self.queue:
            self.queue = f"{self.dialog.ehlo}/{argument.rpartition('@')[2].rstrip('>')}"
            self.census.opened(self.queue, self, total=False)
        elif stage == "mail" and self.queue:
            self.census.closed(self.queue, self)
            self.queue = ""
        elif stage == "quit":
            self._leave()
        return super().answer(stage, argument)

    def has_left(self, altogether: bool) -> bool:
        """Whether the client has given this connection up, or unless *altogether* begun another transaction on it, and only our thread is late to
        come to that.
        """
        try:
            if self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
                return True
            ready, _, _ = select.select([self.sock], [], [], 0)
            unread = self.pending + (self.sock.recv(4096, socket.MSG_PEEK) if ready else b"")
        except (OSError, ValueError):  # closed by us
            return True
        return b"QUIT" in unread or (not altogether and b"MAIL FROM" in unread)

    def _leave(self) -> None:
        if self.counted:
            self.counted = False
            self.census.closed("all", self)
            if self.queue:
                self.census.closed(self.queue, self)
