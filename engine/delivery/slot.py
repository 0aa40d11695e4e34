"""One delivery slot: opens the connections that the scheduler allows, sends what it hands out, and reports what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from engine.clock import monotonic_s, wall_ms
from engine.delivery import demands
from engine.delivery.attempt import Failed, Opener, Spare
from engine.delivery.backlog import TURN_S, Backlog
from engine.delivery.connection import Connection
from engine.delivery.destination import Destinations
from engine.delivery.dressing import dressed
from engine.delivery.encryption import Encryption
from engine.delivery.outcome import DISCARDED, NOWHERE, Peer, Result, deferral, refusal, told
from engine.delivery.pool import IdlePool
from engine.delivery.settling import Settler
from engine.delivery.sources import Source, Sources
from engine.delivery.trace import Trace
from engine.dns import NoTargets
from engine.errors import LocalProtocolError, SpoolError
from engine.log import EventLog, escape
from engine.mail.address import INVALID_DOMAIN
from engine.mail.content import without_fields
from engine.mail.envelope import Message
from engine.mail.message_id import text as id_text
from engine.mail.reply import Reply
from engine.process import SharedCount
from engine.scheduler.feedback import Fate, judge
from engine.scheduler.queue import Doom, Queue, Row, Transaction
from engine.scheduler.reachability import Reachability
from engine.scheduler.scheduler import TOTAL_OUT, Scheduler
from engine.smtp.client import Lost, RecipientOutcome, Stage
from engine.spool import BodyCorrupt, SpoolReader
from engine.stream import Streams
from engine.tls.files import Files

LARGE_BODY_BYTES = 256 * 1024
SERVED_AT_ONCE = 500  # queues in one pump
CLOCK_LOOK_MS = 500
TURN_TRANSACTIONS = 100  # on one connection, while others wait in line for a limit that it counts under
ROOMS_AT_ONCE = 10  # idle connections that end in one tick for those in line
DOOM_S = 60.0  # a permanent verdict of DNS stands at least so long


class Slot:
    """See the module.  `settler` and `backlog` are set before the first call."""

    settler: Settler
    backlog: Backlog

    def __init__(
        self,
        scheduler: Scheduler,
        reader: SpoolReader,
        destinations: Destinations,
        sources: Sources,
        total_out: SharedCount,
        log: EventLog,
        fields: dict[str, bytes],
        bounce_corrupted: bool = False,
        encryption: Encryption | None = None,
    ) -> None:
        """*fields*: what `dressing.fields_of` says.  *bounce_corrupted*: spool-delete-corrupted."""
        self._fields = fields
        self._bounce_corrupted = bounce_corrupted
        self.scheduler = scheduler
        self._reader = reader
        self._sources = sources
        self._total_out = total_out
        self._log = log
        self._pool = IdlePool()
        self._connections: dict[Connection, None] = {}  # the oldest first: what happens to several at once happens in a known order
        self._openings: dict[asyncio.Task[None], tuple[Queue, float]] = {}  # for whom, and since when
        self._streams = Streams(asyncio.get_running_loop())
        self._opener = Opener(self, self._streams, destinations, self._pool, Reachability(), log, encryption or Encryption(Files(-1)))
        self._pump_planned = False
        self._draining = False
        self._stopping = False
        self._looked_ms = 0  # wall clock at the last look for a step

    # --- the loop's calls -------------------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Have the queues looked at, at the end of this turn of the loop."""
        if not self._pump_planned:
            self._pump_planned = True
            asyncio.get_running_loop().call_soon(self._pump)

    def tick(self) -> None:
        """Several times a second: deadlines, timers."""
        now_s = monotonic_s()
        for connection in list(self._connections):
            connection.check(now_s)
        self._make_room()
        self.scheduler.relieve()
        self.backlog.restore()
        self.backlog.wake_due(self._now_ms())
        self.plan()

    def _make_room(self) -> None:
        """Idle connections end where queues wait for the limit that they count under."""
        idle = (connection for connection in self._connections if connection.is_idle and self.scheduler.has_rivals(connection.queue))
        for connection in list(islice(idle, ROOMS_AT_ONCE)):
            self.idle_too_long(connection)
            connection.quit()

    def drain(self) -> None:
        """Begin nothing new; connections end when their transaction has."""
        self._draining = True
        for task in list(self._openings):
            task.cancel()
        for connection in list(self._connections):
            if connection.is_idle:
                self.idle_too_long(connection)
                connection.quit()

    @property
    def draining(self) -> bool:
        """Nothing new is begun any more."""
        return self._draining

    def connections(self) -> list[Connection]:
        """Every connection whose socket is connected."""
        return list(self._connections)

    def openings(self) -> list[tuple[Queue, float]]:
        """For whom a connection is being opened, and since when (monotonic s)."""
        return list(self._openings.values())

    @property
    def busy(self) -> bool:
        """Transactions are under way."""
        return bool(self._openings) or any(connection.transaction for connection in self._connections)

    def stop(self, why: str) -> None:
        """Close every connection now; what had not reached its final dot stays due as it is."""
        self._draining = self._stopping = True
        for task in list(self._openings):
            task.cancel()
        for connection in list(self._connections):
            connection.abort(why, True)

    def _now_ms(self) -> int:
        """The wall clock, looked at with suspicion: every tick, and at once if it has jumped since."""
        now_ms = wall_ms()
        if not 0 <= now_ms - self._looked_ms < CLOCK_LOOK_MS:
            self._looked_ms = now_ms
            self.backlog.look_at_clock(now_ms)
        return now_ms

    def _pump(self) -> None:
        self._pump_planned = False
        if self._draining or self.settler.full:
            return  # the settler plans the next when there is room
        now_ms = self._now_ms()
        more = self.backlog.load(now_ms)
        end_s = monotonic_s() + TURN_S
        for queue in tuple(islice(self.scheduler.ready.values(), SERVED_AT_ONCE)):
            self._serve(queue, now_ms)
            if monotonic_s() > end_s:
                break
        more |= bool(self.scheduler.ready) and not self.settler.full
        self.settler.bury(now_ms)
        more |= self.backlog.expire(now_ms)
        if more or self.scheduler.wants_load:
            self.plan()

    # --- from windows to connections --------------------------------------------------------------------------------------------------

    def _serve(self, queue: Queue, now_ms: int) -> None:
        """Give *queue* what it may have now: its idle connections first, then new ones."""
        if queue.doom is not None:
            self.scheduler.condemn(queue, now_ms)
        elif queue.settings.type == "discard":
            self._discard(queue, now_ms)
        else:
            while queue.window and not self.settler.full and (connection := self._pool.take_of(queue)) is not None:
                self._send_next(connection, now_ms)
            while queue.window and self.scheduler.may_connect(queue, now_ms) is None:
                if not self._connect(queue, now_ms):
                    break

    def _connect(self, queue: Queue, now_ms: int) -> bool:
        if queue.domain == INVALID_DOMAIN:
            self.scheduler.doomed(queue, Doom(now_ms + int(DOOM_S * 1000), "5.1.3", "x-engine;this is no address"))
            self.plan()
            return False
        source = self._sources.next(queue.vmta)
        if source is None:
            self._without_source(queue, now_ms)
            return False
        if not self.settler.full and (spare := self._opener.spare_for(queue, source)) is not None:
            self.scheduler.connecting_to(queue)
            self._adopt(spare, queue, now_ms)
            return True
        if not self._total_out.take():
            queue.stopped_by(TOTAL_OUT, now_ms)
            self.scheduler.park(queue, TOTAL_OUT)
            return False
        self.scheduler.connecting_to(queue)
        task = asyncio.get_running_loop().create_task(self._open(queue, source))
        self._openings[task] = queue, monotonic_s()
        task.add_done_callback(self._opening_done)
        return True

    def _without_source(self, queue: Queue, now_ms: int) -> None:
        """Its virtual MTA is gone (as PowerMTA: bounce), or none of its addresses is on this host now (an interface that is down: wait)."""
        if not self._sources.known(queue.vmta):
            self.scheduler.doomed(queue, Doom(now_ms + int(DOOM_S * 1000), "5.3.5", f"x-engine;no such virtual MTA {queue.vmta}"))
        else:
            why = f"no smtp-source-host of virtual MTA {queue.vmta} is an address of this host"
            self.scheduler.connecting_to(queue)
            if self.scheduler.connect_failed(queue, now_ms, why):
                self.settler.queue_failed(queue, "4.3.5", why, NOWHERE, now_ms)
        self.plan()

    def _opening_done(self, task: asyncio.Task[None]) -> None:
        del self._openings[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a fault of ours: the loop's exception handler ends this process

    async def _open(self, queue: Queue, source: Source) -> None:
        result = await self._opener.open_for(queue, source)
        now_ms = self._now_ms()
        if isinstance(result, Connection):
            return  # `opened` has been called
        self._total_out.give()
        if isinstance(result, Spare):
            self._adopt(result.connection, queue, now_ms)
        elif isinstance(result, NoTargets):
            self._nowhere(queue, result, now_ms)
        elif result.permanent and queue.settings.bounce_upon_5xx_greeting and result.reply is not None:
            self._greeting_refused(queue, result, result.reply, now_ms)
        elif self.scheduler.connect_failed(queue, now_ms, result.why):
            self.settler.queue_failed(queue, result.status, result.why, result.peer, now_ms)
        self.plan()

    def _adopt(self, connection: Connection, queue: Queue, now_ms: int) -> None:
        """*queue*, which was about to connect, gets an idle connection of another queue instead."""
        self.scheduler.adopted(connection.queue, queue)
        self.scheduler.connect_abandoned(queue)  # the room to open one goes to the next in line
        connection.queue = queue
        if queue.settings.traced or connection.trace is not None:
            connection.trace = Trace(self._log, queue, connection.route) if queue.settings.traced else None
        self._send_next(connection, now_ms)

    def _nowhere(self, queue: Queue, verdict: NoTargets, now_ms: int) -> None:
        """DNS names no host: for now, or for good."""
        settings = queue.settings
        lasting = settings.bounce_upon_no_mx if verdict.kind == "no-mx" else None if verdict.kind == "temporary" else 0.0
        if lasting is None:
            if self.scheduler.connect_failed(queue, now_ms, verdict.text, settings.retry_after_dns_error_s):
                self.settler.queue_failed(queue, verdict.status, verdict.text, NOWHERE, now_ms)
            return
        pause_s = settings.retry_after_dns_error_s if lasting else max(DOOM_S, settings.retry_after_dns_error_s)
        until_ms = now_ms + int(pause_s * 1000)
        self._log.event("queue-doomed", f'queue={queue.name} status={verdict.status} reason="{escape(verdict.text)}"')
        self.scheduler.connect_abandoned(queue)
        self.scheduler.doomed(queue, Doom(until_ms, verdict.status, f"x-engine;{verdict.text}", int(lasting * 1000)))

    def _greeting_refused(self, queue: Queue, failed: Failed, reply: Reply, now_ms: int) -> None:
        """Every MX greeted with 5xx: the message that was next bounces, as if it had been told so."""
        transaction = self.scheduler.take(queue, now_ms)
        if transaction is not None:
            message = self.settler.message(queue, transaction.message, transaction.rows, now_ms)
            if message is not None:
                results = [Result(row, "b", reply.status, f"smtp;{reply.text}") for row in transaction.rows]
                self.settler.settle(queue, transaction.message, message, results, failed.peer, now_ms)
        self.scheduler.connect_abandoned(queue)

    # --- transactions -----------------------------------------------------------------------------------------------------------------

    def _send_next(self, connection: Connection, now_ms: int) -> None:
        """Start the next transaction of the connection's queue, or leave it idle."""
        queue = connection.queue
        limit = queue.settings.max_msg_per_connection
        if connection.mail_max and not 0 < limit < connection.mail_max:
            limit = connection.mail_max
        errors = queue.settings.max_errors_per_connection
        if self._draining or (limit and connection.transactions >= limit) or (errors and connection.refusals >= errors):
            connection.quit()
            return
        if connection.transactions and connection.transactions % TURN_TRANSACTIONS == 0 and self.scheduler.has_rivals(queue):
            connection.quit()
            return
        while not self.settler.full and (transaction := self.scheduler.take(queue, now_ms)) is not None:
            if 0 < connection.rcpt_max < len(transaction.rows):
                self.scheduler.give_back(queue, transaction.rows[connection.rcpt_max :])
                transaction = transaction._replace(rows=transaction.rows[: connection.rcpt_max])
            message = self.settler.message(queue, transaction.message, transaction.rows, now_ms)
            if message is not None:
                if message.late_date or self._fields:
                    message = dressed(message, self._fields.get(queue.vmta, b""), now_ms)
                if message.needs:
                    transaction = self._sendable(connection, transaction, message, now_ms)
                    if not transaction.rows:
                        continue
                try:
                    connection.send(transaction, message)
                except LocalProtocolError as error:  # an address that no command can hold: it must not cost the process
                    connection.transaction = None
                    self.settler.put_aside(queue, transaction.message, transaction.rows, f"it cannot be sent ({escape(str(error))})", now_ms)
                    continue
                return
        self._pool.put(connection)
        if queue.window:  # the settler is full: when it has room, the queue is served again
            self.scheduler.ready[queue.number] = queue

    def _sendable(self, connection: Connection, transaction: Transaction, message: Message, now_ms: int) -> Transaction:
        """*transaction* without the recipients that *message* cannot go to by this host: they bounce."""
        results = demands.refused(message, transaction.rows, connection.client, connection.route.host)
        if results:
            self.settler.settle(transaction.queue, transaction.message, message, results, _peer(connection, message), now_ms)
            keys = {result.row.key for result in results}
            return transaction._replace(rows=tuple([row for row in transaction.rows if row.key not in keys]))
        return transaction

    def body_of(self, connection: Connection) -> tuple[bytes, ...] | Iterator[bytes]:
        """See `connection.Owner`."""
        transaction, message = _under_way(connection)
        unwanted = transaction.queue.settings.remove_header
        if message.body.size_bytes <= LARGE_BODY_BYTES:
            body = (message.prefix, self._reader.body(message.body, transaction.message))
            return tuple(without_fields(body, unwanted)) if unwanted else body
        chunks = chain((message.prefix,), self._reader.body_chunks(message.body, transaction.message))
        return without_fields(chunks, unwanted) if unwanted else chunks

    def body_unreadable(self, connection: Connection, error: SpoolError) -> None:
        """See `connection.Owner`."""
        transaction, message = _under_way(connection)
        queue, rows, now_ms = transaction.queue, transaction.rows, self._now_ms()
        if self._bounce_corrupted and isinstance(error, BodyCorrupt):
            self._log.event("corrupted", f"id={id_text(transaction.message)} queue={queue.name} {error}: it bounces (spool-delete-corrupted)")
            results = [Result(row, "b", "5.3.0", "x-engine;what our spool holds of the message is damaged") for row in rows]
            self.settler.settle(queue, transaction.message, message, results, NOWHERE, now_ms)
        else:
            self.settler.put_aside(queue, transaction.message, rows, f"its body cannot be read ({error})", now_ms)

    def watch(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self._connections[connection] = None

    def unwatch(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self._connections.pop(connection, None)

    def opened(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self.scheduler.connected(connection.queue)
        self.plan()

    def idle(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        now_ms = self._now_ms()
        self._send_next(connection, now_ms)
        self.settler.bury(now_ms)
        if self.scheduler.wants_load:
            self.plan()

    def idle_too_long(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self._pool.discard(connection)

    def closed(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self._pool.discard(connection)
        self._total_out.give()
        self.scheduler.closed(connection.queue)
        self.plan()

    def finished(self, connection: Connection, outcomes: Sequence[RecipientOutcome]) -> None:
        """See `connection.Owner`."""
        transaction, message = _under_way(connection)
        queue, now_ms = transaction.queue, self._now_ms()
        settings = queue.settings
        others_accepted = len(outcomes) > 1 and any(_was_accepted(outcome) for outcome in outcomes)
        reused = connection.transactions > 1
        results: list[Result] = []
        at_once: list[Row] = []
        closes = False
        for row, outcome in zip(transaction.rows, outcomes, strict=True):
            reply = outcome.reply
            verdict = judge(outcome.stage.name, reply, others_accepted, reused)
            closes |= verdict.closes
            if verdict.fate is Fate.DELIVERED:
                results.append(Result(row, "d", reply.status, f"smtp;{reply.text}"))
            elif verdict.fate is Fate.AT_ONCE:
                at_once.append(row)
            elif verdict.fate is Fate.BOUNCE:
                connection.refusals += 1
                results.append(refusal(settings, row, reply, outcome.stage is Stage.RCPT))
            elif reply.code == 421 and settings.smtp_421_means_mx_unavailable and outcome.stage is not Stage.FINAL_DOT:
                at_once.append(row)  # by another MX
            else:
                connection.refusals += 1
                results.append(deferral(queue, row, reply.status, f"smtp;{told(settings, reply)}", now_ms, self.scheduler.may_expire))
        if closes and settings.smtp_421_means_mx_unavailable:
            self._note_421(connection, outcomes)
        if results:
            self.settler.settle(queue, transaction.message, message, results, _peer(connection, message), now_ms)
        if at_once:
            self.scheduler.give_back(queue, at_once)
        if closes:
            connection.quit()

    def lost(self, connection: Connection, lost: Lost, why: str) -> None:
        """See `connection.Owner`."""
        transaction, message = _under_way(connection)
        queue, now_ms = transaction.queue, self._now_ms()
        stale = bool(connection.transactions) and lost.stage in (Stage.MAIL, Stage.RSET) and not any(lost.replies)  # it died while it was idle
        if stale or (self._stopping and lost.stage is not Stage.FINAL_DOT):
            self.scheduler.give_back(queue, transaction.rows)  # nothing was tried
            return
        if queue.settings.log_transfer_failures and lost.stage in (Stage.BODY, Stage.FINAL_DOT):
            where = f"id={id_text(transaction.message)} queue={queue.name} mx={connection.route.host}[{connection.route.address}]"
            self._log.event("transfer-failed", f'{where} stage={lost.stage.name} reason="{escape(why)}"')
        results = []
        replies = lost.replies or (None,) * len(transaction.rows)  # (): after a fault of ours in the middle of `finished`
        for row, outcome in zip(transaction.rows, replies, strict=True):
            if row.key not in queue.in_flight:
                continue  # settled before that fault
            if outcome is None:
                results.append(self._broken_off(connection, row, lost.stage, why, now_ms))
            elif judge(outcome.stage.name, outcome.reply, None in replies).fate is Fate.BOUNCE:
                results.append(refusal(queue.settings, row, outcome.reply, outcome.stage is Stage.RCPT))
            else:
                reply, may_expire = outcome.reply, self.scheduler.may_expire
                results.append(deferral(queue, row, reply.status, f"smtp;{told(queue.settings, reply)}", now_ms, may_expire))
        self.settler.settle(queue, transaction.message, message, results, _peer(connection, message), now_ms)

    def _broken_off(self, connection: Connection, row: Row, stage: Stage, why: str, now_ms: int) -> Result:
        """*row* had been accepted, or not yet answered, when the connection ended at *stage*: as a rule it is tried again."""
        queue = connection.queue
        settings = queue.settings
        if stage in (Stage.BODY, Stage.FINAL_DOT) and not connection.our_doing:
            if connection.timed_out and stage is Stage.FINAL_DOT and settings.assume_delivery_upon_data_termination_timeout:
                return Result(row, "d", "2.0.0", f"x-engine;taken for delivered: {why}")
            if settings.bounce_upon_transfer_failure or (settings.bounce_upon_pix_transfer_failure and connection.client.masked):
                return Result(row, "b", "5.4.2", f"smtp;5.4.2 {why} ({stage.name})")
        return deferral(queue, row, "4.4.2", f"smtp;4.4.2 {why} ({stage.name})", now_ms, self.scheduler.may_expire)

    def _note_421(self, connection: Connection, outcomes: Sequence[RecipientOutcome]) -> None:
        """Under smtp-421-means-mx-unavailable: the next connection goes to another MX, if there is one."""
        for outcome in outcomes:
            if outcome.reply.code == 421:
                self._opener.unavailable(connection, f"{outcome.stage.name} was answered {told(connection.queue.settings, outcome.reply)}")
                return

    def _discard(self, queue: Queue, now_ms: int) -> None:
        """type discard: every recipient is delivered to nowhere, or said to have bounced there."""
        kind, status = ("b", "5.0.0") if queue.settings.discard_as_bounce else ("d", "2.0.0")
        end_s = monotonic_s() + TURN_S
        while not self.settler.full and monotonic_s() < end_s and (transaction := self.scheduler.take(queue, now_ms)) is not None:
            message = self.settler.message(queue, transaction.message, transaction.rows, now_ms)
            if message is not None:
                results = [Result(row, kind, status, DISCARDED) for row in transaction.rows]
                self.settler.settle(queue, transaction.message, message, results, Peer(size_bytes=_size_bytes(message)), now_ms)
        if queue.window and self.scheduler.ready.pop(queue.number, None) is not None:
            self.scheduler.ready[queue.number] = queue  # to the end of the line: others are served between two turns of a long one
            self.plan()
        self.scheduler.retire(queue)


def _under_way(connection: Connection) -> tuple[Transaction, Message]:
    transaction, message = connection.transaction, connection.message
    if transaction is None or message is None:
        raise LocalProtocolError("a connection spoke of a transaction that it does not have")
    return transaction, message


def _was_accepted(outcome: RecipientOutcome) -> bool:
    """Whether its RCPT was, or may have been: 421 ends the transaction for the accepted too, at whatever stage."""
    return (outcome.stage is not Stage.RCPT and outcome.stage is not Stage.MAIL) or outcome.reply.code == 421


def _size_bytes(message: Message) -> int:
    return message.body.size_bytes + len(message.prefix)


def _peer(connection: Connection, message: Message) -> Peer:
    route = connection.route
    layer = connection.tls
    if layer is None:
        return Peer(connection.local_ip, route.host, route.address, connection.esmtp, _size_bytes(message))
    return Peer(connection.local_ip, route.host, route.address, connection.esmtp, _size_bytes(message), layer.protocol, layer.cipher)
