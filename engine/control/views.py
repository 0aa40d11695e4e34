"""What a process says of itself when it is asked: plain values, made for one answer.  Times are wall-clock ms, 0 where there is none."""

from __future__ import annotations

import msgspec


class Limit(msgspec.Struct, frozen=True):
    """A directive's value that is in force, and where it stands."""

    name: str  # "max-smtp-out", "virtual-mta mta1 max-smtp-out"
    value: str  # as an operator would write it
    place: str = ""  # "file:line"; "": the default

    def __str__(self) -> str:
        return f"{self.name} {self.value} ({self.place or 'the default'})"


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a queue or one of its recipients."""

    at_ms: int
    kind: str  # "tq": the queue failed; "dns": so did its look-up; "t", "b", "d": a recipient
    text: str  # the reply, or what went wrong
    recipient: str = ""
    source_ip: str = ""
    mx: str = ""  # host (address)


class ConnectionView(msgspec.Struct, frozen=True):
    """One connection of a slot."""

    queue: str
    state: str  # "connecting", "sending", "idle", "closing"
    waits_for: str  # what the peer is to say next
    source_ip: str
    host: str
    address: str
    port: int
    transactions: int  # that it has carried
    message: str = ""  # of the transaction under way
    recipients: int = 0  # of it
    seconds: int = 0  # for so long that transaction, or its opening, has been under way


class Standing(msgspec.Struct, frozen=True):
    """Why a queue, or one recipient of it, is not sent now: one row of the table in `engine.control.sentence`."""

    kind: str
    detail: str = ""  # the error, the line it waits in, the connection: what the kind needs to be said in words
    limit: Limit | None = None
    since_ms: int = 0
    until_ms: int = 0  # the next attempt; 0: when something else happens
    ahead: int = -1  # queues before it in the line of a shared limit, or recipients before it in its window; -1: unknown
    line: int = 0  # how many wait in that line
    last: Event | None = None  # the last thing that went wrong


class QueueView(msgspec.Struct, frozen=True):
    """A queue as the slot that owns it sees it."""

    number: int
    name: str
    mode: str  # "sending", "waiting", "retry", "doomed", "resting"
    window: int  # due recipients in memory
    in_flight: int
    open: int  # connections that count against it
    connecting: int
    failures: int  # of the whole queue in a row
    next_ms: int
    last: Event | None = None


class QueueDetail(msgspec.Struct, frozen=True):
    """All that the slot knows of one queue."""

    view: QueueView
    standing: Standing
    limits: list[Limit]
    connections: list[ConnectionView]
    errors: list[Event]  # the last, oldest first
    recipient_events: list[Event]  # with track-recipient-events


class Part(msgspec.Struct, frozen=True):
    """A slot's answer about queues that may be another's: *owned* are those that it answers for."""

    slot: str
    owned: list[QueueView]


class Reason(msgspec.Struct, frozen=True):
    """A slot's answer to `why`: None where the queue is another's."""

    slot: str
    standing: Standing | None


class Detail(msgspec.Struct, frozen=True):
    """A slot's answer to `queue`: None where the queue is another's."""

    slot: str
    detail: QueueDetail | None


class SlotView(msgspec.Struct, frozen=True):
    """A delivery slot in numbers."""

    slot: str
    queues: int  # in memory
    held: int  # of which only the hold is kept
    window: int  # due recipients in memory
    window_most: int
    open: int  # connections
    connecting: int
    unsettled: int  # outcomes that are not on disk yet
    draining: bool
    spool_connected: bool
    names_cached: int
    names_pending: int


class Flow(msgspec.Struct, frozen=True):
    """What went one way."""

    rcp: int
    msg: int
    kb: float


class Period(msgspec.Struct, frozen=True, rename={"inward": "in", "outward": "out"}):
    """What came in and went out in some time."""

    inward: Flow
    outward: Flow


class ConnectionCount(msgspec.Struct, frozen=True):
    """SMTP connections one way: now, and at most at once since the start."""

    cur: int
    top: int


class TrafficTable(
    msgspec.Struct,
    frozen=True,
    rename={
        "last_hour": "lastHr",
        "top_hour": "topPerHr",
        "last_minute": "lastMin",
        "top_minute": "topPerMin",
        "connections_in": "smtpIn",
        "connections_out": "smtpOut",
    },
):
    """PowerMTA's traffic table; its names in JSON are those that monitoring reads there."""

    total: Period
    last_hour: Period
    top_hour: Period
    last_minute: Period
    top_minute: Period
    connections_in: ConnectionCount
    connections_out: ConnectionCount
