"""One queue in memory: (destination, virtual MTA), and the window of due recipients that it can send now."""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern
from typing import NamedTuple

from engine.config.settings import DomainSettings
from engine.mail.envelope import DUE_KEY, Due


class Row(NamedTuple):
    """A due recipient: its key in the spool, and what is known about it."""

    key: bytes
    due: Due

    @property
    def message(self) -> bytes:
        """The 12-byte id of its message."""
        return self.key[13:25]


class Transaction(NamedTuple):
    """Recipients of one message in one queue that travel together."""

    queue: Queue
    message: bytes
    rows: tuple[Row, ...]


class Wait(NamedTuple):
    """Not now: which limit or error holds the queue, and until when (wall ms; 0: until something else happens)."""

    until_ms: int
    limit: str


class Held(NamedTuple):
    """What is kept of a queue that waits out a failure: dead destinations may be many.  A timer rings at *until_ms* or before."""

    until_ms: int
    failures: int
    by: str
    upon_new_mail: bool = False  # new mail ends it


class Doom(NamedTuple):
    """A permanent verdict on the whole destination (no such domain, null MX): its recipients bounce while it stands."""

    until_ms: int
    status: str
    diag: str
    min_age_ms: int = 0  # only recipients at least this old


class Queue:
    """State of a queue while there is something to do for it.  All times are wall ms."""

    __slots__ = (
        "connecting",
        "domain",
        "doom",
        "failures",
        "frontier",
        "held_by",
        "hold_until_ms",
        "in_flight",
        "more",
        "name",
        "number",
        "open",
        "scan",
        "scan_earliest_ms",
        "scan_spared",
        "settings",
        "skipped_ms",
        "vmta",
        "waits_for",
        "waits_since_ms",
        "window",
    )  # fmt: skip

    def __init__(self, number: int, name: str, settings: DomainSettings) -> None:
        self.number = number
        self.name = name
        self.domain, _, vmta = name.rpartition("/")
        self.vmta = intern(vmta)
        self.settings = settings
        self.window: list[Row] = []  # a deque takes 600 bytes for one row, and most queues have one
        self.in_flight: set[bytes] = set()  # keys of rows in a transaction
        self.frontier: bytes | None = None  # last key read; all due rows up to it are in the window, in flight or settled
        self.skipped_ms = 0  # ... save retries that were not due yet, from this time on (0: none): the wall clock is behind the stamps of new mail
        self.more = True  # rows may be due behind the frontier
        self.open = 0  # connections that count against it: connecting, sending, idle
        self.connecting = 0
        self.failures = 0  # queue events in a row
        self.hold_until_ms = 0  # no new connection before
        self.held_by = ""
        self.waits_for = ""  # the limit that stopped it last, "" since it could connect again
        self.waits_since_ms = 0
        self.doom: Doom | None = None
        self.scan: bytes | None = None  # how far the expiry scan's pass has come; None: between two passes
        self.scan_spared = 0  # rows that the pass has met and spared
        self.scan_earliest_ms = 0  # earliest expiry among them

    def stopped_by(self, limit: str, now_ms: int) -> None:
        """*limit* lets it open no connection now."""
        if self.waits_for != limit:
            self.waits_for = limit
            self.waits_since_ms = now_ms

    @property
    def idle(self) -> bool:
        """Nothing under way, and nothing in memory that is not on disk."""
        return not (self.window or self.in_flight or self.open or self.doom or self.scan)


def same_message(key: bytes) -> bytes:
    """What the `due` keys of one message's recipients have in common, while they are due together."""
    return key[:25]


def due_ms(key: bytes) -> int:
    """The due time in a `due` key."""
    when: int = DUE_KEY.unpack(key)[2]
    return when


def virtual_mta_line(queue: Queue) -> str:
    """The limit that all queues of its virtual MTA share."""
    return f"virtual-mta {queue.vmta} max-smtp-out"


def whole_messages(rows: Sequence[tuple[bytes, Due]], together: int) -> Sequence[tuple[bytes, Due]]:
    """*rows* without those at the end that may belong in one transaction (of *together* at the most) with what was not read; never none."""
    last = same_message(rows[-1][0])
    tail = 1
    while tail < len(rows) and same_message(rows[-1 - tail][0]) == last:
        tail += 1
    parted = tail % together
    return rows if parted == len(rows) else rows[: len(rows) - parted]
