"""What a process that takes mail in needs, once: its link to the spool, its segments, and the policy that it decides by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from engine import __version__
from engine.mail.envelope import Body
from engine.mail.reply import Reply, reply
from engine.policy.access import DENIED, DENIED_FOR_NOW, Access
from engine.policy.routing import Router
from engine.reception.header import HeaderWork
from engine.reception.intake import DISK_LOW, MEMORY_LOW, MEMORY_SHORT_BYTES, SPOOL_AWAY, Envelope, Intake, Origin
from engine.reception.memory import used_percent
from engine.reception.stores import MAX_PENDING_BYTES, Stores
from engine.spool.ops import Operation

if TYPE_CHECKING:
    from engine.config import ClientSettings, Config

SHARE_BYTES = 1024 * 1024  # that recipients of one message may take of it while memory is short
MEMORY_FULL_BYTES = 128 * 1024 * 1024  # held of messages that are still coming: no message begins, and nothing more is held

MACHINE_FULL = reply(452, "4.3.2 insufficient memory, try again later")
DELIVER_ONLY = reply(450, "4.3.2 this host only delivers what it has, try again later")


class Link(Protocol):
    """What reception uses of engine.spool.SpoolLink."""

    @property
    def pending_bytes(self) -> int: ...
    def new_id(self) -> bytes: ...
    def submit(self, operation: Operation, done: Callable[[str | None], None]) -> None: ...


class LargeBody(Protocol):
    """A body in a file of its own."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> Body: ...
    def abort(self) -> None: ...


class Segments(Protocol):
    """What reception uses of engine.spool.SegmentWriter."""

    def write(self, message_id: bytes, parts: Sequence[bytes]) -> Body: ...
    def begin_large(self, message_id: bytes) -> LargeBody: ...


class Log(Protocol):
    """What reception uses of engine.log.EventLog."""

    def event(self, kind: str, text: str) -> None: ...


class Reception:
    """The gate into the spool of one process."""

    link: Link
    segments: Segments

    def __init__(self, config: Config, link: Link | None, segments: Segments | None, log: Log, stores: Stores | None = None) -> None:
        """Into the spool behind *link* and *segments*; or into the best of several, *stores*, and then both are None."""
        self.config = config
        self.stores = stores
        if link is not None and segments is not None:
            self.link = link
            self.segments = segments
        self.log = log
        self.access = Access(config)
        self.router = Router(config)
        self.software = f"engine v{__version__}"
        self.held_bytes = 0  # contents and recipients of messages that are still coming
        self.disk_low = False  # a message was refused for that since the last tick
        self.taken_messages = 0  # that are durable; likewise their recipients and the bytes of their bodies
        self.taken_recipients = 0
        self.taken_bytes = 0
        self._deliver_only = config.spool.deliver_only
        self.machine_full = False  # more of the machine's memory is in use than max-memory-usage-percent, as of the last tick
        self.denied = DENIED_FOR_NOW if config.server.relay_debug else DENIED
        self.included_headers = config.server.included_headers
        self.host_id = config.server.host_id
        self.host_name = config.server.host_name[0] if config.server.host_name else "localhost"
        self.header_work = lru_cache(maxsize=4096)(self._header_work)
        self.dsn_for_relayed = config.server.dsn_for_relayed_domain

    def refusal(self) -> Reply | None:
        """Why no message can be taken in just now; None while one can."""
        if self._deliver_only:
            return DELIVER_ONLY
        if self.disk_low:
            return DISK_LOW
        if self.memory_full:
            return MEMORY_LOW
        if self.machine_full:
            return MACHINE_FULL
        if self.stores is not None:
            return self.stores.refusal()
        return SPOOL_AWAY if self.link.pending_bytes > MAX_PENDING_BYTES else None

    def tick(self) -> None:
        """Once a second: the next message may try whether the disk has room again, and how full the machine's memory is is looked up."""
        self.disk_low = False
        if self.stores is not None:
            self.stores.tick()
        most = self.config.server.max_memory_usage_percent
        full = most < 100 and used_percent() > most
        if full != self.machine_full:
            self.machine_full = full
            what = "no mail is accepted while more" if full else "mail is accepted again: no more"
            self.log.event("memory", f"{what} than {most} % of this machine's memory is in use (max-memory-usage-percent)")

    @property
    def memory_full(self) -> bool:
        """Whether nothing more may be held."""
        return self.held_bytes > MEMORY_FULL_BYTES

    def full_for(self, envelope: Envelope) -> bool:
        """Whether the message of *envelope* may hold no more recipients: while memory is short it has a share, so that others have theirs."""
        return self.held_bytes > MEMORY_SHORT_BYTES and (self.memory_full or envelope.held_bytes > SHARE_BYTES)

    def hold(self, envelope: Envelope, size_bytes: int) -> None:
        """Count *size_bytes* more that the message of *envelope* keeps in memory."""
        envelope.held_bytes += size_bytes
        self.held_bytes += size_bytes

    def release(self, envelope: Envelope) -> None:
        """Its message is complete, refused or forgotten."""
        self.held_bytes -= envelope.held_bytes
        envelope.held_bytes = 0

    def _header_work(self, client: ClientSettings) -> HeaderWork:
        copies = self.access.forwarded(client.bcc) if client.bcc else ()
        return HeaderWork(client, copies, self.host_name)

    def begin(self, origin: Origin, envelope: Envelope) -> Intake:
        """A message that may come, for the recipients in *envelope* (at least one)."""
        return Intake(self, origin, envelope)
