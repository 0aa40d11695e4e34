"""What each queue does next, and why not.  Pure: it reads no clock and no disk; delivery asks, does, and tells what came of it.

A queue is *ready* while its window has rows and nothing is known to stand in the way of another connection.  What stands in the way takes it out:
its own limit or a connect in flight (the end of a connection puts it back), a hold (a timer does), or a limit that it shares with others
(it is *parked* in that limit's line, and one parked queue returns for each connection that ends).  All times are wall-clock milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from engine.config.settings import DomainSettings
from engine.mail.envelope import DUE_KEY, Due
from engine.scheduler.line import Line
from engine.scheduler.queue import Doom, Held, Queue, Row, Transaction, Wait, due_ms, virtual_mta_line, whole_messages
from engine.scheduler.retry import UPON_NEW_MAIL_MS, delay_ms, expired_diag
from engine.scheduler.scan import look_through, scan_pause_ms
from engine.scheduler.timers import Timers

WINDOW_ROWS = 20_000  # rows in memory over all queues of a slot
CONNECTING_MOST = 500  # connections of a slot that are still connecting: dead hosts must not eat the others' slots
CASUALTIES_MOST = 2_000  # recipients to bounce that are in memory: the others wait on disk
CASUALTIES_WAIT_MS = 250
SCANS_AT_ONCE = 100
TOTAL_OUT, CONNECTING = "total-max-smtp-out", "connections still connecting"  # lines that queues wait in
SCAN_EVERY_MS = 20_000  # passes over one queue are at least this far apart while its bounce-after allows it
SCAN_SPARED_PER_MS = 20  # and so far that reading rows in vain (5 us each) takes a tenth of the time
EXPIRED = "5.4.7"  # RFC 3463: delivery time expired


class Scheduler:
    """All queues of one delivery slot."""

    def __init__(self, settings: Callable[[str, str], DomainSettings], virtual_mta_limit: Callable[[str], int]) -> None:
        self._settings = settings
        self._virtual_mta_limit = virtual_mta_limit  # 0: none
        self.queues: dict[int, Queue] = {}
        self.held: dict[int, Held] = {}  # queues that nothing can be done for until their timer rings
        self.timers = Timers()
        self.ready: dict[int, Queue] = {}  # in the order they became ready
        self.settling: set[bytes] = set()  # keys whose settle is not acknowledged: on disk, but done with
        self.casualties: deque[tuple[Queue, Row, str, str]] = deque()  # to bounce: queue, row, status, diagnostic
        self.overdue: deque[tuple[Queue, Row]] = deque()  # that stand, and whose senders are to be told
        self.rows = 0  # in all windows
        self.connecting = 0
        self.may_expire = True  # no: the wall clock has just jumped, and nobody is to be bounced for age
        self.to_load = Line()  # queues that may have rows to read: those that are not in memory come into it in their turn
        self._parked: dict[str, dict[int, Queue]] = {}  # by limit, the oldest first
        self._open_by_virtual_mta: dict[str, int] = {}
        self._scans = Timers()  # when a queue's rows are looked through for expired ones
        self._to_scan: deque[int] = deque()

    # --- queues come and go -----------------------------------------------------------------------------------------------------------

    def add(self, number: int, name: str) -> Queue:
        """The queue *number*, in memory from now on."""
        queue = self.queues.get(number)
        if queue is None:
            domain, _, vmta = name.rpartition("/")
            queue = self.queues[number] = Queue(number, name, self._settings(domain, vmta))
            held = self.held.pop(number, None)
            if held is not None:
                queue.hold_until_ms, queue.failures, queue.held_by, _ = held
        return queue

    def announce(self, number: int, stamp_ms: int) -> None:
        """New rows, due at *stamp_ms* or later, were committed to queue *number*."""
        queue = self.queues.get(number)
        if queue is None:
            held = self.held.get(number)
            if held is None:
                self.to_load.join(number)
            elif held.upon_new_mail:
                self.held[number] = held._replace(until_ms=min(held.until_ms, stamp_ms + UPON_NEW_MAIL_MS))
                self.timers.wake(number, self.held[number].until_ms)
            return  # what is held is read when its timer rings
        if queue.hold_until_ms and queue.settings.retry_upon_new_mail:
            queue.hold_until_ms = min(queue.hold_until_ms, stamp_ms + UPON_NEW_MAIL_MS)
            self.timers.wake(number, queue.hold_until_ms)
        if queue.frontier is not None and due_ms(queue.frontier) >= stamp_ms:
            self._read_again(queue, stamp_ms)
        self._want(queue)

    def wake(self, queue: Queue, now_ms: int) -> None:
        """Its timer rang: rows may have come due, or a hold or doom has passed."""
        if queue.doom is not None and now_ms >= queue.doom.until_ms:
            queue.doom = None
        if 0 < queue.skipped_ms <= now_ms:
            self._read_again(queue, queue.skipped_ms)
        if queue.window:
            self.ready[queue.number] = queue
        self._want(queue)

    def _read_again(self, queue: Queue, stamp_ms: int) -> None:
        """A commit slipped in before the frontier (a retry came due while it was being synced): read again from its stamp on."""
        first = DUE_KEY.pack(queue.number, queue.frontier[4] if queue.frontier else 0, stamp_ms, bytes(12), 0)
        self._keep(queue, [row for row in queue.window if row.key < first])
        queue.frontier = first
        if stamp_ms <= queue.skipped_ms:
            queue.skipped_ms = 0

    def _want(self, queue: Queue) -> None:
        queue.more = True
        if len(queue.window) < self._low_water(queue):
            self.to_load.join(queue.number)

    # --- the window -------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _low_water(queue: Queue) -> int:
        return min(queue.settings.max_smtp_out, 100)

    @property
    def wants_load(self) -> bool:
        """`next_load` has an answer."""
        return bool(self.to_load) and self.rows < WINDOW_ROWS

    def next_load(self, now_ms: int) -> tuple[int, int] | None:
        """A queue to read due rows of (to `add`, if it is not in memory), and how many at the most; None if none wants any or the window is full."""
        while self.to_load and self.rows < WINDOW_ROWS:
            number = self.to_load.next()
            queue = self.queues.get(number)
            if queue is None:
                held = self.held.get(number)
                if held is not None and held.until_ms > now_ms:
                    self.timers.wake(number, held.until_ms)
                    continue
            elif queue.hold_until_ms > now_ms and not queue.open:
                self.timers.wake(number, queue.hold_until_ms)  # an earlier timer may have taken its place
                self.retire(queue)
                continue
            elif not queue.more:
                continue
            return number, 500 if self.rows < WINDOW_ROWS // 4 else 100 if self.rows < WINDOW_ROWS // 2 else 20
        return None

    def loaded(self, queue: Queue, rows: Sequence[tuple[bytes, Due]], next_due_ms: int | None, complete: bool, now_ms: int = 0) -> None:
        """*rows* were read behind the frontier; *complete*: no more were due; then the first row that is not is due at *next_due_ms*.

        *now_ms*, if not 0: they were read past it, up to the stamps of new mail; retries among them that are not due yet are for later.
        """
        if rows:
            if not complete:
                rows = whole_messages(rows, queue.settings.max_rcpt_per_message)
            queue.frontier = rows[-1][0]
            skip_in_flight, skip_settling = queue.in_flight, self.settling
            fresh = [Row(key, due) for key, due in rows if key not in skip_in_flight and key not in skip_settling]
            if now_ms:
                fresh = self._without_early(queue, fresh, now_ms)
            queue.window.extend(fresh)
            self.rows += len(fresh)
        queue.more = not complete
        if complete and next_due_ms is not None:
            self.timers.wake(queue.number, next_due_ms)
        if queue.skipped_ms:  # again and again: an earlier timer may have taken its place, and rung
            self.timers.wake(queue.number, queue.skipped_ms)
        if queue.window:
            self.ready[queue.number] = queue
        elif queue.more:
            self._want(queue)
        else:
            if not queue.open:
                queue.failures = 0
            self.retire(queue)

    def _without_early(self, queue: Queue, rows: list[Row], now_ms: int) -> list[Row]:
        """*rows* without retries that are due after *now_ms*: their time comes by the wall clock, whatever new mail is stamped."""
        early = {row.key for row in rows if due_ms(row.key) > now_ms and (row.due.attempts or row.due.last_reply)}
        if not early:
            return rows
        first_ms = min(map(due_ms, early))
        queue.skipped_ms = min(queue.skipped_ms or first_ms, first_ms)
        return [row for row in rows if row.key not in early]

    def due_again(self, queue: Queue, when_ms: int) -> None:
        """A row of *queue* was deferred to *when_ms*, and that is on disk."""
        current = self.queues.get(queue.number)
        if current is not None and current.frontier is not None and due_ms(current.frontier) >= when_ms:
            self._read_again(current, when_ms)
        self.timers.wake(queue.number, when_ms)

    def shed(self, queue: Queue) -> None:
        """Forget the window of a queue that cannot send: the rows are on disk."""
        self.rows -= len(queue.window)
        queue.window.clear()
        queue.frontier = None
        queue.skipped_ms = 0
        queue.more = True
        self.ready.pop(queue.number, None)

    def retire(self, queue: Queue) -> None:
        """Forget a queue that rests, and all but the hold of one that waits for its end; its timer, if any, stays."""
        number = queue.number
        if not queue.idle or number in self.to_load or self.queues.get(number) is not queue:
            return
        if queue.more or queue.failures:
            if not 0 < self.timers.at_ms(number) <= queue.hold_until_ms:
                return
            self.held[number] = Held(queue.hold_until_ms, queue.failures, queue.held_by, queue.settings.retry_upon_new_mail)
        else:
            self._scans.forget(number)
        del self.queues[number]
        self.ready.pop(number, None)

    # --- what to send -----------------------------------------------------------------------------------------------------------------

    def take(self, queue: Queue, now_ms: int) -> Transaction | None:
        """The next recipients to send to, all of one message; None if the window has none.  Expired and doomed ones become casualties."""
        window = queue.window
        settings = queue.settings
        bounce_after_ms = int(settings.bounce_after_s * 1000)
        rows: list[Row] = []
        message = b""
        passed = 0  # rows of the window that leave it
        while passed < len(window):
            row = window[passed]
            if row.due.queued_ms + bounce_after_ms <= now_ms and self.may_expire:
                if rows:
                    break
                if len(self.casualties) >= CASUALTIES_MOST:
                    del window[:passed]
                    self._bury_first(queue, now_ms)
                    return None
                passed += 1
                self.rows -= 1
                self._lose(queue, row, EXPIRED, expired_diag(row.due))
                continue
            if not rows:
                message = row.key[13:25]
            elif row.key[13:25] != message or row.due.verp or len(rows) >= settings.max_rcpt_per_message:
                break
            rows.append(row)
            queue.in_flight.add(row.key)
            passed += 1
            if row.due.verp:
                break
        del window[:passed]
        if not window:
            self.ready.pop(queue.number, None)
        self.rows -= len(rows)
        if queue.more and len(window) < self._low_water(queue):
            self._want(queue)
        return Transaction(queue, message, tuple(rows)) if rows else None

    def _bury_first(self, queue: Queue, now_ms: int) -> bool:
        """True: there are casualties enough, and the window of *queue*, which would make more, waits on disk for a moment."""
        if len(self.casualties) < CASUALTIES_MOST:
            return False
        self.shed(queue)
        self.timers.wake(queue.number, now_ms + CASUALTIES_WAIT_MS)
        return True

    def _lose(self, queue: Queue, row: Row, status: str, diag: str) -> None:
        queue.in_flight.add(row.key)
        self.casualties.append((queue, row, status, diag))

    def condemn(self, queue: Queue, now_ms: int) -> None:
        """Under a doom: the window's rows become casualties (those old enough), the rest waits on disk."""
        doom = queue.doom
        if doom is None or self._bury_first(queue, now_ms):
            return
        spared = False
        window, queue.window = queue.window, []
        self.rows -= len(window)
        for row in window:
            if row.due.queued_ms + doom.min_age_ms <= now_ms:
                self._lose(queue, row, doom.status, doom.diag)
            else:
                spared = True
        self.ready.pop(queue.number, None)
        if spared:
            self.shed(queue)
            self.timers.wake(queue.number, doom.until_ms)
        elif queue.more:
            self._want(queue)

    def settled(self, queue: Queue, keys: Iterable[bytes]) -> None:
        """The outcome of these rows is on its way to the spool process."""
        queue.in_flight.difference_update(keys)
        self.settling.update(keys)

    def acknowledged(self, keys: Iterable[bytes]) -> None:
        """The spool process has committed what `settled` named."""
        self.settling.difference_update(keys)

    def give_back(self, queue: Queue, rows: Sequence[Row]) -> None:
        """Rows of a transaction that was not tried after all: next in line again."""
        queue.in_flight.difference_update([row.key for row in rows])
        ours = [row for row in rows if queue.frontier is not None and row.key <= queue.frontier]  # the others will be read again
        queue.window[:0] = ours
        self.rows += len(ours)
        if ours:
            self.ready[queue.number] = queue
        if len(ours) < len(rows):
            self._want(queue)

    # --- connections ------------------------------------------------------------------------------------------------------------------

    def may_connect(self, queue: Queue, now_ms: int) -> Wait | None:
        """None: open a connection for *queue*.  Otherwise why not; the queue has been put where it will be found when that changes."""
        wait = self._obstacle(queue, now_ms)
        if not self._scans.at_ms(queue.number) and queue.scan is None:
            self._scans.wake(queue.number, now_ms + scan_pause_ms(queue.settings))
        if wait is not None:
            queue.stopped_by(wait.limit, now_ms)
            self.ready.pop(queue.number, None)
            if wait.until_ms:
                self.timers.wake(queue.number, wait.until_ms)
                if queue.open == 0:
                    self.shed(queue)
                    self.retire(queue)
        return wait

    def _obstacle(self, queue: Queue, now_ms: int) -> Wait | None:
        settings = queue.settings
        if queue.hold_until_ms > now_ms:
            return Wait(queue.hold_until_ms, queue.held_by)
        if queue.open >= settings.max_smtp_out:
            return Wait(0, "max-smtp-out")
        if queue.connecting >= len(queue.window):
            return Wait(0, "connecting")
        if queue.connecting >= max(2, queue.open - queue.connecting):
            return Wait(0, "connecting")
        limit = self._virtual_mta_limit(queue.vmta)
        if limit and self._open_by_virtual_mta.get(queue.vmta, 0) >= limit:
            return self.park(queue, virtual_mta_line(queue))
        if self.connecting >= CONNECTING_MOST:
            return self.park(queue, CONNECTING)
        return None

    def park(self, queue: Queue, limit: str) -> Wait:
        """*queue* waits in the line of *limit*, which it shares with others."""
        self.ready.pop(queue.number, None)
        self._parked.setdefault(limit, {})[queue.number] = queue
        return Wait(0, limit)

    def unpark(self, limit: str, most: int = 1) -> None:
        """There is room under *limit* again for *most* queues."""
        line = self._parked.get(limit)
        while line and most > 0:
            queue = line.pop(next(iter(line)))
            if queue.window and self.queues.get(queue.number) is queue:
                self.ready[queue.number] = queue
                most -= 1
        if line is not None and not line:
            del self._parked[limit]

    def relieve(self, most: int = 10) -> None:
        """Several times a second: room that those who were offered it did not take goes to others in line."""
        for limit in list(self._parked):
            self.unpark(limit, most)

    def has_rivals(self, queue: Queue) -> bool:
        """Other queues wait in line for a limit that connections of *queue* count under."""
        if not self._parked:
            return False
        lines = (self._parked.get(TOTAL_OUT), self._parked.get(virtual_mta_line(queue)))
        return any(line and (len(line) > 1 or queue.number not in line) for line in lines)

    def connecting_to(self, queue: Queue) -> None:
        """A connection is being opened for *queue*, and counts from now on."""
        queue.open += 1
        queue.waits_for = ""
        queue.connecting += 1
        self.connecting += 1
        self._open_by_virtual_mta[queue.vmta] = self._open_by_virtual_mta.get(queue.vmta, 0) + 1

    def connected(self, queue: Queue) -> None:
        """It greeted us: transactions may start."""
        queue.failures = 0
        queue.hold_until_ms = 0
        self._not_connecting(queue)

    def _not_connecting(self, queue: Queue) -> None:
        queue.connecting -= 1
        self.connecting -= 1
        self.unpark(CONNECTING)
        if queue.window:
            self.ready[queue.number] = queue

    def adopted(self, before: Queue, queue: Queue) -> None:
        """An idle connection that counted against *before* now serves *queue*."""
        before.open -= 1
        self._open_by_virtual_mta[before.vmta] -= 1
        queue.open += 1
        queue.waits_for = ""
        self._open_by_virtual_mta[queue.vmta] = self._open_by_virtual_mta.get(queue.vmta, 0) + 1
        if before.window:
            self.ready[before.number] = before
        self.retire(before)

    def closed(self, queue: Queue) -> None:
        """A connection that had greeted us is gone."""
        queue.open -= 1
        self._open_by_virtual_mta[queue.vmta] -= 1
        self.unpark(virtual_mta_line(queue))
        self.unpark(TOTAL_OUT)
        if queue.window:
            self.ready[queue.number] = queue
        self.retire(queue)

    def connect_abandoned(self, queue: Queue) -> None:
        """A connection was not opened after all, through no fault of the destination."""
        self._not_connecting(queue)
        self.closed(queue)

    def connect_failed(self, queue: Queue, now_ms: int, why: str, wait_s: float | None = None) -> bool:
        """No MX could be found, reached or greeted: the queue opens no connection for retry-after (or *wait_s*).

        True if that is an event of the whole queue: nothing else of it is connected or connecting, so that it stands still from now on.
        """
        if queue.hold_until_ms <= now_ms:  # the first of those that were connecting together
            queue.failures += 1
            delay = delay_ms(queue.settings.retry_after, queue.failures) if wait_s is None else int(wait_s * 1000)
            queue.hold_until_ms = now_ms + delay
            queue.held_by = why
        self._not_connecting(queue)
        stands_still = queue.open == 1
        if stands_still:
            if queue.failures == 1:
                self._scans.wake(queue.number, now_ms)
            self.shed(queue)
        self.timers.wake(queue.number, queue.hold_until_ms)
        self.closed(queue)
        return stands_still

    def doomed(self, queue: Queue, doom: Doom) -> None:
        """The destination will never take mail (while *doom* stands)."""
        queue.doom = doom
        if queue.window:
            self.ready[queue.number] = queue
        self.timers.wake(queue.number, doom.until_ms)

    def clock_stepped(self, step_ms: int) -> None:
        """The wall clock has stepped: holds and dooms are waits, not appointments, and move with it.  Due times on disk stay as they are."""
        for queue in self.queues.values():
            if queue.hold_until_ms:
                queue.hold_until_ms = max(queue.hold_until_ms + step_ms, 1)
                self.timers.wake(queue.number, queue.hold_until_ms)
            if queue.doom is not None:
                queue.doom = queue.doom._replace(until_ms=queue.doom.until_ms + step_ms)
                self.timers.wake(queue.number, queue.doom.until_ms)
        for number, held in self.held.items():
            self.held[number] = held._replace(until_ms=max(held.until_ms + step_ms, 1))
            self.timers.wake(number, self.held[number].until_ms)

    # --- expiry -----------------------------------------------------------------------------------------------------------------------

    def next_scan(self, now_ms: int) -> int | None:
        """Number of a queue whose standing rows should be looked through for expired ones, a slice of them; `scanned` must follow.  None: not now."""
        if not self.may_expire:
            return None
        if not self._to_scan:
            self._to_scan.extend(self._scans.due(now_ms, SCANS_AT_ONCE))
        while self._to_scan:
            number = self._to_scan.popleft()
            queue = self.queues.get(number)
            if number in self.held or (queue is not None and (queue.window or queue.more)):
                return number
            if queue is not None:  # nothing of it stands any more
                queue.scan = None
                self.retire(queue)
        return None

    def scanned(self, queue: Queue, rows: Sequence[tuple[bytes, Due]], complete: bool, now_ms: int) -> None:
        """*rows* were read behind `queue.scan`: those too old become casualties.  *complete*: the pass is over, and the next one planned."""
        found = look_through(rows, queue.settings, now_ms, queue.in_flight, self.settling)
        first = queue.scan is None
        queue.scan_earliest_ms = found.earliest_ms if first else min(queue.scan_earliest_ms, found.earliest_ms)
        queue.scan_spared = found.spared + (0 if first else queue.scan_spared)
        if found.expired or found.overdue:
            keys = {row.key for row in (*found.expired, *found.overdue)}
            self._keep(queue, [row for row in queue.window if row.key not in keys])
            for row in found.expired:
                self._lose(queue, row, EXPIRED, expired_diag(row.due))
            for row in found.overdue:
                queue.in_flight.add(row.key)
                self.overdue.append((queue, row))
            if queue.more:
                self._want(queue)
        if complete:
            queue.scan = None
            pause_ms = scan_pause_ms(queue.settings)
            least_ms = max(min(pause_ms, SCAN_EVERY_MS), queue.scan_spared // SCAN_SPARED_PER_MS)
            self._scans.wake(queue.number, max(now_ms + least_ms, min(now_ms + pause_ms, queue.scan_earliest_ms)))
            self.retire(queue)
        else:
            queue.scan = rows[-1][0]
            self._to_scan.append(queue.number)

    def _keep(self, queue: Queue, kept: list[Row]) -> None:
        self.rows -= len(queue.window) - len(kept)
        queue.window = kept
        if not kept:
            self.ready.pop(queue.number, None)
