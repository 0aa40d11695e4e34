"""Outcomes on their way into the spool: settlement, record, DSN and log line of every recipient, and what happens when one cannot be stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from engine.delivery.events import Events
from engine.delivery.outcome import DISCARDED, NOWHERE, Peer, Result, line, put_aside, queue_record, settlement, standing, stays, told_of_delay
from engine.delivery.report import Reporter
from engine.errors import SpoolError
from engine.log import EventLog, escape
from engine.mail.envelope import NEEDS_DSN, NOTIFY_DELAY, NOTIFY_SUCCESS, Message
from engine.mail.message_id import text as id_text
from engine.mail.verp import sender_for
from engine.scheduler.queue import Queue, Row
from engine.scheduler.scan import warning_due_ms
from engine.scheduler.scheduler import Scheduler
from engine.spool import SpoolLink, SpoolReader
from engine.spool.ops import Settle, Settlement

DSN_WAIT_MS = 60_000
UNREADABLE_WAIT_MS = 3_600_000
ASIDE = ("its row is missing", "its body cannot be read", "it cannot be sent")  # how reasons to put a recipient aside begin
UNSETTLED_MOST = 4_000  # rows whose settle is not acknowledged: beyond, nothing new is begun
BURIED_MOST = 128  # of these, rows whose age or doom ended them: they come by the thousand, and others must not wait behind them


class Settler:
    """Settles for one slot; *room* is called when there is room for more outcomes again."""

    def __init__(
        self, scheduler: Scheduler, link: SpoolLink, reader: SpoolReader, reporter: Reporter, log: EventLog, room: Callable[[], None]
    ) -> None:
        self._scheduler = scheduler
        self._link = link
        self._reader = reader
        self._reporter = reporter
        self._log = log
        self._room = room
        self.events = Events()
        self.sent_messages = 0  # traffic out: transactions in which something was delivered to a host, ...
        self.sent_recipients = 0
        self.sent_bytes = 0
        self._buried = 0  # rows that `bury` has sent and nobody has acknowledged

    @property
    def full(self) -> bool:
        """So much is unacknowledged that nothing new should begin."""
        return len(self._scheduler.settling) >= UNSETTLED_MOST

    def message(self, queue: Queue, message_id: bytes, rows: Sequence[Row], now_ms: int) -> Message | None:
        """The message that *rows* are recipients of, with the sender that those with VERP have; without one they are put aside."""
        message = self._reader.messages((message_id,)).get(message_id)
        if message is None:
            self.put_aside(queue, message_id, rows, "its row is missing", now_ms)
        elif rows[0].due.verp and message.return_path:
            return msgspec.structs.replace(message, return_path=sender_for(message.return_path, rows[0].due.address))
        return message

    def settle(self, queue: Queue, message_id: bytes, message: Message, results: Sequence[Result], peer: Peer, now_ms: int, buried: int = 0) -> None:
        """Store and log what became of recipients of one message; *buried* of them by `bury`."""
        shown = id_text(message_id)
        bounces = [result for result in results if result.type == "b"]
        others = [result for result in results if result.type != "b"]
        delivered = self._count(others, peer)
        if delivered != len(others):
            others = self._without_late(queue, message_id, message, others, peer, now_ms)
        if message.needs & NEEDS_DSN:
            others = self._without_relayed(queue, message_id, message, others, peer, now_ms)
        if others:  # on their own: that a DSN cannot be stored must not send again what was delivered
            self._log_lines(queue, shown, others, peer, now_ms)
            rows = [settlement(queue, message, shown, result, peer, now_ms) for result in others]
            if queue.settings.bcc_upon_delivery and any(result.type == "d" for result in others):
                self._with_copy(queue, message_id, message, rows, now_ms)
            else:
                self._submit(queue, shown, Settle(rows), now_ms)
        settings = queue.settings
        if delivered != len(results) or settings.track_recipient_events:
            self.events.settled(queue.number, settings.max_events_recorded, settings.track_recipient_events, results, peer, now_ms)
        if bounces:
            self._bounce(queue, message_id, message, bounces, peer, now_ms, buried)

    def _with_copy(self, queue: Queue, message_id: bytes, message: Message, rows: list[Settlement], now_ms: int) -> None:
        """Store outcomes with the copy to bcc-upon-delivery; if that cannot be stored, without it: nothing is sent twice for a copy."""
        shown = id_text(message_id)

        def without(why: str) -> None:
            self._log.event("copy-failed", f"id={shown} queue={queue.name} no copy to {queue.settings.bcc_upon_delivery} could be written: {why}")
            self._submit(queue, shown, Settle(rows), now_ms)

        try:
            accept = self._reporter.copy_for(queue, message, message_id, now_ms)
        except SpoolError as error:
            without(str(error))
            return
        self._submit(queue, shown, Settle(rows, accept), now_ms, 0, without if accept is not None else None)

    def _without_relayed(
        self, queue: Queue, message_id: bytes, message: Message, results: list[Result], peer: Peer, now_ms: int
    ) -> list[Result]:
        """*results* without deliveries whose senders are to hear that a host without DSN has them: those are stored, with that DSN."""
        if queue.settings.bcc_upon_delivery or ("DSN" in peer.esmtp.split(",") and not queue.settings.ignore_dsn):
            return results  # the host will tell; or the copy takes the DSN's place in the transaction
        relayed = [r for r in results if r.type == "d" and r.row.due.notify & NOTIFY_SUCCESS and r.diag != DISCARDED]
        if not relayed:
            return results
        shown = id_text(message_id)
        self._log_lines(queue, shown, relayed, peer, now_ms)
        rows = [settlement(queue, message, shown, result, peer, now_ms) for result in relayed]

        def without(why: str) -> None:
            self._log.event("dsn-failed", f"id={shown} queue={queue.name} no DSN about the delivery could be written ({why}): it stands without")
            self._submit(queue, shown, Settle(rows), now_ms)

        try:
            accept = self._reporter.relayed_for(queue, message, message_id, relayed, peer, now_ms)
        except SpoolError as error:
            without(str(error))
        else:
            self._submit(queue, shown, Settle(rows, accept), now_ms, 0, without if accept is not None else None)
        return [result for result in results if result not in relayed]

    def _without_late(
        self, queue: Queue, message_id: bytes, message: Message, results: list[Result], peer: Peer, now_ms: int
    ) -> list[Result]:
        """*results* without deferrals whose senders are to hear of them by now: those are stored, with the DSN."""
        every_s = queue.settings.notify_of_delay_every_s
        if every_s is None or not self._scheduler.may_expire:
            return results
        late = [r for r in results if r.type == "t" and r.row.due.notify & NOTIFY_DELAY and warning_due_ms(r.row.due, every_s) <= now_ms]
        if not late:
            return results
        shown = id_text(message_id)
        self._log_lines(queue, shown, late, peer, now_ms)

        def rows(of: Sequence[Result]) -> list[Settlement]:
            return [settlement(queue, message, shown, result, peer, now_ms) for result in of]

        self._tell(queue, message_id, message, late, rows, peer, now_ms)
        return [result for result in results if result not in late]

    def _tell(
        self,
        queue: Queue,
        message_id: bytes,
        message: Message,
        late: Sequence[Result],
        rows: Callable[[Sequence[Result]], list[Settlement]],
        peer: Peer,
        now_ms: int,
        buried: int = 0,
    ) -> None:
        """Store *late*, which *rows* makes rows of, with the DSN about their delay; without it if that cannot be: it is tried again later."""
        shown = id_text(message_id)

        def silently(why: str, counted: int = 0) -> None:
            self._log.event("dsn-failed", f"id={shown} queue={queue.name} no DSN about the delay could be written ({why}): the next look tries again")
            self._submit(queue, shown, Settle(rows(late)), now_ms, counted)

        try:
            accept = self._reporter.accept_for(queue, message, message_id, late, peer, now_ms, True)
        except SpoolError as error:
            silently(str(error), buried)
            return
        if accept is not None:
            delay_s = (now_ms - message.queued_ms) / 1000
            text = f"id={shown} queue={queue.name} ({len(late)} rcpts) from=<{escape(message.return_path)}> delay={delay_s:.0f}s"
            self._log.event("delay-told", f"{text} status={late[0].status}")
        told = rows([told_of_delay(result, now_ms) for result in late])
        self._submit(queue, shown, Settle(told, accept), now_ms, buried, silently if accept is not None else None)

    def _count(self, results: Sequence[Result], peer: Peer) -> int:
        """How many of *results* are deliveries; those to a host are traffic."""
        delivered = 0
        for result in results:
            if result.type == "d":
                delivered += 1
        if delivered and peer.address:
            self.sent_messages += 1
            self.sent_recipients += delivered
            self.sent_bytes += peer.size_bytes
        return delivered

    def _bounce(self, queue: Queue, message_id: bytes, message: Message, bounces: Sequence[Result], peer: Peer, now_ms: int, buried: int) -> None:
        """Store bounces with the DSN about them; they wait while that cannot be written or stored."""
        shown = id_text(message_id)

        def later(why: str, counted: int = 0) -> None:
            wait = f"the bounce waits {DSN_WAIT_MS / 1000:.0f}s"
            self._log.event("dsn-failed", f"id={shown} queue={queue.name} no DSN could be written ({why}): {wait}")
            self._submit(queue, shown, Settle([put_aside(r.row, r.diag, now_ms + DSN_WAIT_MS) for r in bounces]), now_ms, counted)

        try:
            accept = self._reporter.accept_for(queue, message, message_id, bounces, peer, now_ms)
        except SpoolError as error:
            later(str(error), buried)
            return
        self._log_lines(queue, shown, bounces, peer, now_ms)
        rows = [settlement(queue, message, shown, result, peer, now_ms) for result in bounces]
        self._submit(queue, shown, Settle(rows, accept), now_ms, buried, later if accept is not None else None)

    def _log_lines(self, queue: Queue, shown: str, results: Sequence[Result], peer: Peer, now_ms: int) -> None:
        for result in results:
            self._log.event(*line(queue, shown, result, peer, now_ms))

    def put_aside(self, queue: Queue, message_id: bytes, rows: Sequence[Row], why: str, now_ms: int) -> None:
        """What cannot be read is not bounced: it waits an hour, and the operator is told."""
        shown = id_text(message_id)
        self._log.event(
            "quarantine", f"id={shown} queue={queue.name} {why}: {len(rows)} recipient(s) wait an hour; `engine show message {shown}` tells more"
        )
        self._submit(queue, shown, Settle([put_aside(row, why, now_ms + UNREADABLE_WAIT_MS) for row in rows]), now_ms)

    def queue_failed(self, queue: Queue, status: str, why: str, peer: Peer, now_ms: int) -> None:
        """A tq record and a log line: no MX of *queue* could be found, reached or greeted."""
        self.events.queue_failed(queue.number, queue.settings.max_events_recorded, f"{status} {why}", peer, now_ms)
        safe = escape(why)
        if "tq" not in queue.settings.disable_acct_records:
            self._link.submit(Settle([], None, [queue_record(queue, status, f"smtp;{status} {safe}", peer, now_ms)]), self._stored)
        hold_s = max(0, queue.hold_until_ms - now_ms) / 1000
        where = f"source={peer.source_ip or '-'} mx={peer.host or '-'}[{peer.address}]"
        self._log.event("queue-failed", f'queue={queue.name} {where} status={status} reason="{safe}" again_in={hold_s:.0f}s')

    def bury(self, now_ms: int) -> bool:
        """Bounce the scheduler's casualties, those of one message together.  True: there is room for more; else `room` is called when there is."""
        casualties = self._scheduler.casualties
        while casualties and self._buried < BURIED_MOST:
            queue, row, status, diag = casualties.popleft()
            results = [Result(row, "b", status, diag)]
            while casualties and casualties[0][0] is queue and _together(casualties[0][1], row):
                _, other, status, diag = casualties.popleft()
                results.append(Result(other, "b", status, diag))
            message = self.message(queue, row.message, [result.row for result in results], now_ms)
            if message is not None:
                self._buried += len(results)
                self.settle(queue, row.message, message, results, NOWHERE, now_ms, len(results))
            self._scheduler.retire(queue)
        if self._scheduler.overdue:
            self._tell_overdue(now_ms)
        return self._buried < BURIED_MOST

    def _tell_overdue(self, now_ms: int) -> None:
        """The senders of the scheduler's overdue rows hear of their delay; the rows stay as they are."""
        overdue = self._scheduler.overdue
        while overdue and self._buried < BURIED_MOST:
            queue, row = overdue.popleft()
            rows = [row]
            while overdue and overdue[0][0] is queue and _together(overdue[0][1], row):
                rows.append(overdue.popleft()[1])
            message = self.message(queue, row.message, rows, now_ms)
            if message is not None:
                late = [standing(queue, each) for each in rows]
                self._buried += len(rows)
                self._tell(queue, row.message, message, late, lambda of: [stays(result) for result in of], NOWHERE, now_ms, len(rows))
            self._scheduler.retire(queue)

    def _submit(
        self, queue: Queue, shown: str, operation: Settle, now_ms: int, buried: int = 0, if_refused: Callable[[str], None] | None = None
    ) -> None:
        scheduler = self._scheduler
        keys = [row.key for row in operation.rows]
        scheduler.settled(queue, keys)

        def done(refused: str | None) -> None:
            full = self.full or self._buried >= BURIED_MOST
            scheduler.acknowledged(keys)
            self._buried -= buried
            if refused is not None and if_refused is not None:
                if_refused(refused)
                self._room()
                return
            if refused is not None:
                self._log.event(
                    "settle-refused", f"id={shown} queue={queue.name} {refused}: the outcome is not stored, and the recipient is tried again"
                )
                current = scheduler.queues.get(queue.number) or scheduler.add(queue.number, queue.name)  # it may have been forgotten meanwhile
                scheduler.shed(current)
                scheduler.wake(current, now_ms)
                self._room()
                return
            for row in operation.rows:  # only now can they be read again
                if row.again_ms:
                    scheduler.due_again(queue, row.again_ms)
            if full and not self.full and self._buried < BURIED_MOST:
                self._room()

        self._link.submit(operation, done)

    def _stored(self, refused: str | None) -> None:
        if refused is not None:
            self._log.event("settle-refused", f"{refused}: a queue record is not stored")


def _together(row: Row, first: Row) -> bool:
    """Whether one DSN may tell of both: they are of one message, and from one sender."""
    return row.message == first.message and not row.due.verp
