"""A simulated world around the scheduler: a disk that survives, a clock, connections, and the truth about every recipient.

It does what delivery does with the scheduler, in the order in which delivery does it, and checks each promise where it could be broken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from engine.mail.envelope import DEFAULT_PRIORITY, DUE_KEY, Due, due_key
from engine.scheduler.queue import Doom, Queue, Row, Transaction
from engine.scheduler.retry import again_ms
from engine.scheduler.scheduler import Scheduler

TICK_MS = 250
PATIENCE_MS = 600_000  # longer than any retry, hold, doom or scan of the destinations below
START_MS = 1_800_000_000_000


@dataclass(frozen=True)
class Destination:
    """The part of DomainSettings that the scheduler reads; small limits, so that they are met."""

    max_smtp_out: int = 2
    max_rcpt_per_message: int = 2
    max_msg_per_connection: int = 3
    retry_after: tuple[float, ...] = (60.0, 120.0)
    retry_recipients_after_s: float = 30.0
    bounce_after_s: float = 3600.0
    notify_of_delay_every_s: float | None = None
    retry_upon_new_mail: bool = False


@dataclass
class Recipient:
    """What is true of a recipient, whatever the scheduler believes."""

    address: str
    queue: int
    queued_ms: int
    not_before_ms: int
    ended: str = ""  # "delivered" or "bounced", once that is on disk


@dataclass
class Settling:
    """A settle on its way: what it does to the disk, and whether the scheduler has heard of it."""

    queue: Queue
    removes: list[bytes]
    adds: list[tuple[bytes, Due]]
    ended: list[tuple[str, str]]  # address, how
    committed: bool = False
    refused: bool = False


@dataclass(eq=False)
class Connection:
    """One connection of ours."""

    queue: Queue
    state: str = "connecting"  # connecting, sending, idle
    transaction: Transaction | None = None
    transactions: int = 0


@dataclass
class World:
    """See the module.  *settings* by queue number; *names* likewise."""

    names: dict[int, str]
    settings: dict[str, Destination]  # by domain
    virtual_mta_limits: dict[str, int]
    total_out: int = 100
    read_rows: int = 3  # that one read returns at the most, so that windows and slices are exercised with few rows
    now_ms: int = START_MS
    stamp_ms: int = START_MS
    disk: dict[bytes, Due] = field(default_factory=dict)
    recipients: dict[str, Recipient] = field(default_factory=dict)
    settles: deque[Settling] = field(default_factory=deque)
    connections: list[Connection] = field(default_factory=list)
    announcements: deque[tuple[list[int], int]] = field(default_factory=deque)
    holds: dict[int, int] = field(default_factory=dict)  # by queue number: no connection before
    messages: int = 0

    def __post_init__(self) -> None:
        self.start()

    # --- process ------------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A slot starts, with nothing but the disk."""
        self.scheduler = Scheduler(lambda domain, vmta: cast(Any, self.settings[domain]), lambda vmta: self.virtual_mta_limits.get(vmta, 0))
        self.settles = deque()
        self.connections = []
        self.announcements.clear()
        self.holds.clear()
        self.known_stamp_ms = self.stamp_ms
        for number in sorted({DUE_KEY.unpack(key)[0] for key in self.disk}):
            self.scheduler.timers.wake(number, min(DUE_KEY.unpack(key)[2] for key in self._keys(number)))

    def crash(self, committed: int) -> None:
        """The process dies; the first *committed* of its settles had reached the disk."""
        for settling in [settling for settling in self.settles if not settling.committed and not settling.refused][:committed]:
            self._commit(settling)
        self.start()

    # --- what comes from outside -----------------------------------------------------------------------------------------------------------

    def arrive(self, number: int, count: int) -> None:
        """A message for *count* recipients of a queue is committed; the announcement is under way."""
        self.messages += 1
        self.stamp_ms = max(self.stamp_ms + 1, self.now_ms)
        message = self.messages.to_bytes(12, "big")
        for index in range(count):
            address = f"{self.messages}.{index}@{self.names[number]}"
            self.disk[due_key(number, DEFAULT_PRIORITY, self.stamp_ms, message, index)] = Due(address, self.now_ms)
            self.recipients[address] = Recipient(address, number, self.now_ms, 0)
        self.announcements.append(([number], self.stamp_ms))

    def hear(self) -> None:
        """The oldest announcement arrives."""
        if not self.announcements:
            return
        numbers, stamp_ms = self.announcements.popleft()
        since_ms, self.known_stamp_ms = self.known_stamp_ms + 1, max(stamp_ms, self.known_stamp_ms)
        for number in numbers:
            self.scheduler.announce(number, since_ms)

    def answer(self, refused: bool = False) -> None:
        """The oldest settle that is not on disk is committed, or refused."""
        for settling in self.settles:
            if not settling.committed and not settling.refused:
                if refused:
                    settling.refused = True
                else:
                    self._commit(settling)
                return

    def acknowledge(self) -> None:
        """The oldest answer to a settle is heard; only now is a deferred row on disk, and can be asked for when its time comes."""
        if self.settles and (self.settles[0].committed or self.settles[0].refused):
            settling = self.settles.popleft()
            self.scheduler.acknowledged(settling.removes)
            if settling.committed:
                for key, _ in settling.adds:
                    self.scheduler.due_again(settling.queue, DUE_KEY.unpack(key)[2])
            if settling.refused:
                number = settling.queue.number  # the queue may have been forgotten, and come back as another object
                queue = self.scheduler.queues.get(number) or self.scheduler.add(number, settling.queue.name)
                self.scheduler.shed(queue)
                self.scheduler.wake(queue, self.now_ms)

    # --- what the slot does --------------------------------------------------------------------------------------------------------------

    def tick(self, expire: bool = True) -> None:
        """One turn: timers, loads, connections for whatever is ready, expiry."""
        scheduler = self.scheduler
        scheduler.relieve()
        for number in scheduler.timers.due(max(self.now_ms, self.known_stamp_ms), 1_000):
            queue = scheduler.queues.get(number)
            if queue is None:
                scheduler.to_load.join(number)
            else:
                scheduler.wake(queue, self.now_ms)
        self._load()
        for queue in list(scheduler.ready.values()):
            self._serve(queue)
        self._bury()
        if expire:
            self._expire()
        self.check()

    def _load(self) -> None:
        until_ms = max(self.now_ms, self.known_stamp_ms)
        for _ in range(1_000):
            load = self.scheduler.next_load(self.now_ms)
            if load is None:
                return
            queue, most = self.scheduler.add(load[0], self.names[load[0]]), min(load[1], self.read_rows)
            rows, next_due_ms = self._due(queue.number, queue.frontier, until_ms, most)
            self.scheduler.loaded(queue, rows, next_due_ms, len(rows) < most)
        raise AssertionError("loading never ends")

    def _serve(self, queue: Queue) -> None:
        scheduler = self.scheduler
        if queue.doom is not None:
            scheduler.condemn(queue, self.now_ms)
            return
        for connection in [c for c in self.connections if c.queue is queue and c.state == "idle"]:
            if queue.window:
                self._send_next(connection)
        for _ in range(1_000):
            if not queue.window or scheduler.may_connect(queue, self.now_ms) is not None:
                return
            if len(self.connections) >= self.total_out:
                scheduler.park(queue, "total-max-smtp-out")
                return
            assert self.now_ms >= self.holds.get(queue.number, 0), f"{queue.name} connects before its retry-after has passed"
            scheduler.connecting_to(queue)
            self.connections.append(Connection(queue))
            self.check()
        raise AssertionError("connecting never ends")

    def _send_next(self, connection: Connection) -> None:
        queue = connection.queue
        limit = queue.settings.max_msg_per_connection
        if limit and connection.transactions >= limit:
            self.close(connection)
            return
        transaction = self.scheduler.take(queue, self.now_ms)
        connection.transaction = transaction
        connection.state = "sending" if transaction else "idle"
        if transaction is None:
            return
        connection.transactions += 1
        assert 1 <= len(transaction.rows) <= queue.settings.max_rcpt_per_message
        assert len({row.message for row in transaction.rows}) == 1
        others = [row.key for c in self.connections if c is not connection and c.transaction for row in c.transaction.rows]
        under_way = {key for settling in self.settles if not settling.refused for key in settling.removes}
        keys = [row.key for row in transaction.rows]
        assert len(set(keys)) == len(keys), "a row twice in one transaction"
        for row in transaction.rows:
            truth = self.recipients[row.due.address]
            assert row.key not in others, f"{row.due.address} is in flight twice"
            assert row.key not in under_way and not truth.ended, f"{row.due.address} is sent although it is settled"
            assert row.key in self.disk, f"{row.due.address} is sent by a key that is not on disk"
            assert truth.not_before_ms <= max(self.now_ms, self.known_stamp_ms), f"{row.due.address} is tried too early"

    def _bury(self) -> None:
        casualties = self.scheduler.casualties
        while casualties:
            queue, row, _, _ = casualties.popleft()
            self._settle(queue, [(row, "bounced", 0)])
            self.scheduler.retire(queue)

    def _expire(self) -> None:
        for _ in range(1_000):
            number = self.scheduler.next_scan(self.now_ms)
            if number is None:
                return
            queue = self.scheduler.add(number, self.names[number])
            rows, _ = self._due(queue.number, queue.scan, self.now_ms, self.read_rows)
            self.scheduler.scanned(queue, rows, len(rows) < self.read_rows, self.now_ms)
            self._bury()
        raise AssertionError("the expiry scan never ends")

    # --- what becomes of connections --------------------------------------------------------------------------------------------------------

    def in_state(self, state: str) -> list[Connection]:
        """Connections in *state*, oldest first."""
        return [connection for connection in self.connections if connection.state == state]

    def connected(self, connection: Connection) -> None:
        """It greeted us."""
        self.holds.pop(connection.queue.number, None)
        self.scheduler.connected(connection.queue)
        self._send_next(connection)
        self._bury()

    def connect_failed(self, connection: Connection) -> None:
        """Nobody answered, or DNS did not."""
        queue = connection.queue
        held = self.holds.get(queue.number, 0) > self.now_ms  # by another of the connections that were opened together
        self.connections.remove(connection)
        self.scheduler.connect_failed(queue, self.now_ms, "timed out")
        if not held:
            steps = queue.settings.retry_after
            self.holds[queue.number] = self.now_ms + int(steps[min(queue.failures, len(steps)) - 1] * 1000)

    def doomed(self, connection: Connection, min_age_ms: int) -> None:
        """DNS says that there is no such domain."""
        queue = connection.queue
        self.connections.remove(connection)
        self.scheduler.connect_abandoned(queue)
        self.scheduler.doomed(queue, Doom(self.now_ms + 60_000, "5.1.2", "x-engine;no such domain", min_age_ms))

    def finished(self, connection: Connection, fate: Callable[[int], str]) -> None:
        """The transaction is answered; *fate* of the nth recipient: delivered, bounced, deferred or at-once."""
        transaction = connection.transaction
        assert transaction is not None
        connection.transaction = None
        fates = [(row, fate(index)) for index, row in enumerate(transaction.rows)]
        self._settle(transaction.queue, [(row, how, self._again(row, transaction.queue)) for row, how in fates if how != "at-once"])
        self.scheduler.give_back(transaction.queue, [row for row, how in fates if how == "at-once"])
        self._send_next(connection)
        self._bury()

    def lost(self, connection: Connection) -> None:
        """The connection broke: nobody knows what became of the recipients, who wait."""
        transaction = connection.transaction
        assert transaction is not None
        connection.transaction = None
        self._settle(transaction.queue, [(row, "deferred", self._again(row, transaction.queue)) for row in transaction.rows])
        self.close(connection)

    def stale(self, connection: Connection) -> None:
        """The connection was gone before we used it: nothing was tried."""
        transaction = connection.transaction
        assert transaction is not None
        connection.transaction = None
        self.scheduler.give_back(transaction.queue, transaction.rows)
        self.close(connection)

    def close(self, connection: Connection) -> None:
        """A connection without a transaction ends."""
        self.connections.remove(connection)
        self.scheduler.closed(connection.queue)

    def adopt(self, connection: Connection, idle: Connection) -> None:
        """*connection*, still connecting, is given up for *idle*, which another queue of the same virtual MTA had."""
        self.connections.remove(connection)
        self.scheduler.adopted(idle.queue, connection.queue)
        self.scheduler.connect_abandoned(connection.queue)
        idle.queue = connection.queue
        self._send_next(idle)
        self._bury()

    # --- settling -------------------------------------------------------------------------------------------------------------------------

    def _again(self, row: Row, queue: Queue) -> int:
        settings = queue.settings
        return again_ms(self.now_ms, settings.retry_recipients_after_s, row.message, queue.number, row.due.queued_ms, settings.bounce_after_s)

    def _settle(self, queue: Queue, results: list[tuple[Row, str, int]]) -> None:
        if not results:
            return
        settling = Settling(queue, [], [], [])
        for row, how, when_ms in results:
            settling.removes.append(row.key)
            if how == "deferred" and when_ms > self.now_ms:
                _, priority, _, message, index = DUE_KEY.unpack(row.key)
                settling.adds.append((DUE_KEY.pack(queue.number, priority, when_ms, message, index), row.due))
            else:
                settling.ended.append((row.due.address, "bounced" if how == "deferred" else how))
        self.settles.append(settling)
        self.scheduler.settled(queue, settling.removes)

    def _commit(self, settling: Settling) -> None:
        settling.committed = True
        for key in settling.removes:
            assert self.disk.pop(key, None) is not None, "a row is settled twice"
        for key, due in settling.adds:
            self.disk[key] = due
            self.recipients[due.address].not_before_ms = DUE_KEY.unpack(key)[2]
        for address, how in settling.ended:
            assert not self.recipients[address].ended, f"{address} ends twice"
            self.recipients[address].ended = how

    # --- the disk ---------------------------------------------------------------------------------------------------------------------------

    def _keys(self, number: int) -> Iterator[bytes]:
        prefix = number.to_bytes(4, "big")
        return iter(sorted(key for key in self.disk if key.startswith(prefix)))

    def _due(self, number: int, after: bytes | None, until_ms: int, limit: int) -> tuple[list[tuple[bytes, Due]], int | None]:
        rows: list[tuple[bytes, Due]] = []
        for key in self._keys(number):
            if after is not None and key <= after:
                continue
            if DUE_KEY.unpack(key)[2] > until_ms:
                return rows, DUE_KEY.unpack(key)[2]
            if len(rows) == limit:
                return rows, None
            rows.append((key, self.disk[key]))
        return rows, None

    # --- promises ---------------------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold at every moment."""
        scheduler = self.scheduler
        assert len(self.connections) <= self.total_out
        for vmta, limit in self.virtual_mta_limits.items():
            assert not limit or sum(c.queue.vmta == vmta for c in self.connections) <= limit, f"max-smtp-out of {vmta}"
        assert scheduler.connecting == len(self.in_state("connecting"))
        assert scheduler.rows == sum(len(queue.window) for queue in scheduler.queues.values())
        for connection in self.connections:
            assert scheduler.queues.get(connection.queue.number) is connection.queue, "a queue with a connection was forgotten"
        for queue in scheduler.ready.values():
            assert scheduler.queues.get(queue.number) is queue, f"{queue.name} is ready and forgotten"
            assert queue.window, f"{queue.name} is ready with nothing to send: the slot would look at it for ever"
        for number, held in scheduler.held.items():
            assert number not in scheduler.queues, "a queue is held and in memory"
            woken = 0 < scheduler.timers.at_ms(number) <= held.until_ms
            assert woken or number in scheduler.to_load, "nobody will wake a queue that is held"
        for queue in scheduler.queues.values():
            mine = [connection for connection in self.connections if connection.queue is queue]
            assert queue.open == len(mine) <= queue.settings.max_smtp_out, f"max-smtp-out of {queue.name}"
            assert queue.connecting == sum(connection.state == "connecting" for connection in mine)
            keys = [row.key for row in queue.window]
            assert len(set(keys)) == len(keys), f"a row stands twice in the window of {queue.name}"

    def run_out(self) -> None:
        """A kind world from here on: every connection succeeds, all is delivered, until everybody's fate is on disk.

        Nothing happens but ticks, timers and answers: AssertionError names who is left when it is quiet, or has waited PATIENCE_MS.
        """
        deadline_ms = self.now_ms + PATIENCE_MS
        while self.now_ms < deadline_ms and not all(recipient.ended for recipient in self.recipients.values()):
            before = self._progress()
            self.settle_all()
            for connection in self.in_state("connecting"):
                self.connected(connection)
            for connection in self.in_state("sending"):
                self.finished(connection, lambda index: "delivered")
            for connection in self.in_state("idle"):
                self.close(connection)
            self.tick()
            if self._progress() == before:
                self.now_ms = max(self.now_ms + TICK_MS, min(self.scheduler.timers.next_ms(), self.now_ms + PATIENCE_MS // 20))
        left = [recipient.address for recipient in self.recipients.values() if not recipient.ended]
        assert not left, f"forgotten: {left}"

    def settle_all(self) -> None:
        """Every announcement and answer arrives."""
        while self.announcements:
            self.hear()
        while self.settles:
            self.answer()
            self.acknowledge()

    def _progress(self) -> tuple[int, int, int]:
        ended = sum(bool(recipient.ended) for recipient in self.recipients.values())
        return ended, len(self.connections), len(self.settles)
