"""Why a queue, or one recipient of it, is not sent at this moment: read off the scheduler, the connections and the settler, with the line of the
configuration that sets the limit.  The order of the questions is that in which the slot itself meets the obstacles.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.clock import monotonic_s, wall_ms
from engine.config.model import Config
from engine.control.views import Event, Limit, Standing
from engine.delivery import limits
from engine.delivery.settling import ASIDE, UNSETTLED_MOST
from engine.mail.message_id import text as id_text
from engine.scheduler.queue import Held, Queue, due_ms
from engine.scheduler.reachability import REMEMBERED
from engine.scheduler.retry import delay_ms, expiry_ms, jittered_ms
from engine.scheduler.scheduler import CONNECTING, CONNECTING_MOST, TOTAL_OUT, WINDOW_ROWS
from engine.smtp.client import Stage

if TYPE_CHECKING:
    from engine.delivery.connection import Connection
    from engine.delivery.slot import Slot

LINE_MOST = 10_000  # places that are counted in the line of a shared limit


class Standings:
    """Of one slot; *spool_answers*: whether the spool process is connected."""

    def __init__(self, slot: Slot, config: Config, spool_answers: Callable[[], bool]) -> None:
        self._slot = slot
        self._scheduler = slot.scheduler
        self._config = config
        self._spool_answers = spool_answers

    # --- recipients -------------------------------------------------------------------------------------------------------------------

    def of_recipient(self, number: int, name: str, key: bytes, queued_ms: int, attempts: int, last_reply: str, now_ms: int) -> Standing:
        """Of the recipient with the row *key* in queue *number*, as the spool shows it."""
        queue = self._scheduler.queues.get(number)
        if key in self._scheduler.settling:
            return Standing("storing", f"{len(self._scheduler.settling)} outcomes of this slot are on their way to the disk")
        if queue is not None and key in queue.in_flight:
            return self._under_way(queue, key)
        domain, _, vmta = name.rpartition("/")
        bounce_after = limits.of_domain(self._config, domain, vmta, "bounce_after_s")
        expiry = expiry_ms(queued_ms, self._config.domain(domain, vmta).bounce_after_s)
        if expiry <= now_ms:
            kind = "expired" if self._scheduler.may_expire else "clock"
            return Standing(kind, limit=bounce_after, since_ms=expiry, last=self._last(number))
        when_ms = due_ms(key)
        if when_ms > now_ms and (attempts or last_reply):
            return self._deferred(number, domain, vmta, key, last_reply, now_ms)
        standing = self.of_queue(number, name, now_ms)
        if queue is not None and standing.kind != "doomed":
            for index, row in enumerate(queue.window):
                if row.key == key:
                    ahead = index if standing.ahead < 0 else standing.ahead
                    return replace(standing, ahead=ahead) if standing.kind != "turn" or index else replace(standing, kind="next", ahead=0)
        if standing.kind in ("turn", "idle", "resting"):
            full = self._scheduler.rows >= WINDOW_ROWS
            detail = f"{self._scheduler.rows} recipients of this slot are in memory" if full else ""
            return replace(standing, kind="window" if full else "unread", detail=detail)
        return standing

    def _under_way(self, queue: Queue, key: bytes) -> Standing:
        for connection in self._slot.connections():
            transaction = connection.transaction
            if transaction is not None and transaction.queue is queue and any(row.key == key for row in transaction.rows):
                return Standing("sending", _conversation(connection), since_ms=_since_ms(connection.began_s, wall_ms()))
        for other, row, status, diag in self._scheduler.casualties:
            if other is queue and row.key == key:
                return Standing("bouncing", f"{status} {diag}")
        return Standing("storing")

    def _deferred(self, number: int, domain: str, vmta: str, key: bytes, last_reply: str, now_ms: int) -> Standing:
        """Its own retry, or, where the whole queue waits longer, that."""
        when_ms = due_ms(key)
        if last_reply.startswith(ASIDE):
            return Standing("aside", last_reply, until_ms=when_ms)
        limit = limits.of_domain(self._config, domain, vmta, "retry_recipients_after_s")
        hold = self._hold(number)
        until_ms = max(when_ms, hold.until_ms if hold is not None and hold.until_ms > now_ms else 0)
        wait_ms = jittered_ms(int(self._config.domain(domain, vmta).retry_recipients_after_s * 1000), key[13:25], number)
        since_ms = min(when_ms - wait_ms, now_ms)  # the moment of its last attempt
        return Standing("retry", last_reply, limit, since_ms, until_ms)

    # --- queues -----------------------------------------------------------------------------------------------------------------------

    def of_queue(self, number: int, name: str, now_ms: int) -> Standing:
        """Of the whole queue *number*."""
        queue = self._scheduler.queues.get(number)
        domain, _, vmta = name.rpartition("/")
        standing = self._of_slot(vmta) or self._of_destination(queue, number, domain, vmta, now_ms)
        if standing is None and queue is not None and queue.window:
            standing = self._in_line(queue) or self._own_limit(queue) or Standing("turn", self._turn(queue))
        if standing is None:
            open_now = queue.open if queue is not None else 0
            wakes_ms = self._scheduler.timers.at_ms(number)
            wanted = number in self._scheduler.to_load or (queue is not None and queue.more)
            if wanted and not (queue is not None and queue.in_flight):
                full = self._scheduler.rows >= WINDOW_ROWS
                standing = Standing("window" if full else "unread", f"{self._scheduler.rows} recipients of this slot are in memory" if full else "")
            elif wakes_ms > now_ms:
                standing = Standing("resting", until_ms=wakes_ms)
            else:
                standing = Standing("turn", self._turn(queue)) if queue is not None and open_now else Standing("idle")
        return replace(standing, last=self._last(number))

    def _of_slot(self, vmta: str) -> Standing | None:
        """What stops all that this slot sends."""
        if self._slot.draining:
            return Standing("draining")
        if not self._spool_answers():
            return Standing("spool-away", f"{len(self._scheduler.settling)} outcomes wait for it")
        if self._slot.settler.full:
            return Standing("unsettled", f"{len(self._scheduler.settling)} outcomes are not on disk yet, and at {UNSETTLED_MOST} nothing new begins")
        return None

    def _of_destination(self, queue: Queue | None, number: int, domain: str, vmta: str, now_ms: int) -> Standing | None:
        """What stops this destination alone."""
        doom = queue.doom if queue is not None else None
        if vmta not in self._config.virtual_mtas:
            return Standing("no-vmta", vmta, until_ms=doom.until_ms if doom is not None else 0)
        if doom is not None:
            diag = doom.diag.partition(";")[2] or doom.diag
            if doom.min_age_ms:
                limit = limits.of_domain(self._config, domain, vmta, "bounce_upon_no_mx")
                return Standing("doomed-later", f"{doom.status} {diag}", limit, until_ms=doom.until_ms)
            return Standing("doomed", f"{doom.status} {diag}", until_ms=doom.until_ms)
        if self._config.domain(domain, vmta).type == "discard":
            return Standing("discard", limit=limits.of_domain(self._config, domain, vmta, "type"))
        hold = self._hold(number)
        if hold is not None and hold.until_ms > now_ms:
            return self._held(number, domain, vmta, hold)
        return None

    def _hold(self, number: int) -> Held | None:
        held = self._scheduler.held.get(number)
        if held is not None:
            return held
        queue = self._scheduler.queues.get(number)
        return Held(queue.hold_until_ms, queue.failures, queue.held_by) if queue is not None and queue.hold_until_ms else None

    def _held(self, number: int, domain: str, vmta: str, hold: Held) -> Standing:
        settings = self._config.domain(domain, vmta)
        if " look-up of " in hold.by:
            kind, field, wait_ms = "dns", "retry_after_dns_error_s", int(settings.retry_after_dns_error_s * 1000)
        else:
            kind, field, wait_ms = "retry-after", "retry_after", delay_ms(settings.retry_after, max(hold.failures, 1))
            if hold.by.endswith(REMEMBERED):
                kind = "unreachable"
            elif hold.by.startswith("no smtp-source-host"):
                kind = "no-source"
        failures = f", failure {hold.failures} in a row" if hold.failures > 1 else ""
        limit = limits.of_domain(self._config, domain, vmta, field)
        return Standing(kind, hold.by.removesuffix(REMEMBERED) + failures, limit, hold.until_ms - wait_ms, hold.until_ms)

    def _in_line(self, queue: Queue) -> Standing | None:
        """It stands in the line of a limit that it shares."""
        for name, line in self._scheduler._parked.items():
            if queue.number not in line:
                continue
            ahead = next((index for index, number in enumerate(islice(line, LINE_MOST)) if number == queue.number), LINE_MOST)
            kind, limit = self._shared(name, queue.vmta)
            return Standing(kind, limit=limit, since_ms=queue.waits_since_ms, ahead=ahead, line=len(line))
        return None

    def _shared(self, line: str, vmta: str) -> tuple[str, Limit]:
        if line == TOTAL_OUT:
            return "total-out", limits.total_out(self._config)
        if line == CONNECTING:
            return "connecting-slot", Limit(CONNECTING, str(CONNECTING_MOST))
        limit = limits.virtual_mta(self._config, vmta)
        return ("pool-out" if "pool" in limit.name else "vmta-out"), limit

    def _own_limit(self, queue: Queue) -> Standing | None:
        """Its own connections: as many as it may have, or still on their way."""
        settings = queue.settings
        ours = [connection for connection in self._slot.connections() if connection.queue is queue]
        leaving = sum(connection.client.stage is Stage.QUIT for connection in ours)
        spent = max((connection.transactions for connection in ours if connection.client.stage is Stage.QUIT), default=0)
        if leaving and settings.max_msg_per_connection and spent >= settings.max_msg_per_connection and leaving == queue.open:
            limit = limits.of_domain(self._config, queue.domain, queue.vmta, "max_msg_per_connection")
            return Standing("goodbye", f"{leaving} of {queue.open}", limit)
        if queue.open >= settings.max_smtp_out:
            limit = limits.of_domain(self._config, queue.domain, queue.vmta, "max_smtp_out")
            busy = f"{queue.open} open, of which {queue.connecting} are connecting"
            return Standing("queue-out", busy, limit, queue.waits_since_ms)
        if queue.connecting:
            return Standing("connecting", self._opening(queue))
        return None

    def _opening(self, queue: Queue) -> str:
        """How far its connections have come that are being opened."""
        for connection in self._slot.connections():
            if connection.queue is queue and connection.client.stage in (Stage.GREETING, Stage.EHLO, Stage.HELO, Stage.STARTTLS, Stage.TLS):
                return _conversation(connection)
        since_s = min((since_s for other, since_s in self._slot.openings() if other is queue), default=0.0)
        return f"DNS or TCP, for {max(0, int(monotonic_s() - since_s))}s" if since_s else "DNS or TCP"

    def _turn(self, queue: Queue | None) -> str:
        return f"{queue.open} connections are at work for it" if queue is not None and queue.open else ""

    def _last(self, number: int) -> Event | None:
        return self._slot.settler.events.last(number)


def _conversation(connection: Connection) -> str:
    route, transaction = connection.route, connection.transaction
    whom = f"{route.host}[{route.address}]:{route.port} from {connection.local_ip or 'any address'}"
    what = f", message {id_text(transaction.message)} for {len(transaction.rows)} recipients" if transaction is not None else ""
    return f"{whom}, waiting for {connection.client.stage.value}{what}"


def _since_ms(began_s: float, now_ms: int) -> int:
    return now_ms - int((monotonic_s() - began_s) * 1000) if began_s else 0


