"""From disk to windows: which queues have rows, which of them are due, which have waited too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.clock import monotonic_s
from engine.delivery.settling import Settler
from engine.log import EventLog
from engine.mail.envelope import Due
from engine.scheduler.clockstep import StepGuard
from engine.scheduler.queue import Queue, same_message
from engine.scheduler.scheduler import WINDOW_ROWS, Scheduler
from engine.spool import SpoolReader

TURN_S = 0.005  # nothing here holds the loop longer
RESTORE_AT_ONCE = 500
WAKE_AT_ONCE = 500
SCAN_ROWS = 100
AT_ONCE_MS = 1  # as the time of a timer


class Backlog:
    """Feeds the scheduler of one slot from the spool.  Every call is short; `True` from one says that it has more to do at once."""

    def __init__(
        self, scheduler: Scheduler, reader: SpoolReader, settler: Settler, steps: StepGuard, log: EventLog, owns: Callable[[str], bool], stamp_ms: int
    ) -> None:
        self._scheduler = scheduler
        self._reader = reader
        self._settler = settler
        self._steps = steps
        self._log = log
        self._owns = owns
        self._stamp_ms = stamp_ms  # new mail up to here has been announced
        self._restored = 0  # highest queue number that the search at start has passed
        self._restoring = True

    def announced(self, numbers: Sequence[int], stamp_ms: int) -> None:
        """These queues got rows, stamped after the last announcement and up to *stamp_ms*; none named: look again at everything."""
        since_ms, self._stamp_ms = self._stamp_ms + 1, max(stamp_ms, self._stamp_ms)
        if not numbers:
            self._restored, self._restoring = 0, True
            numbers = list(self._scheduler.queues)
        for number in numbers:
            self._scheduler.announce(number, since_ms)

    def look_at_clock(self, now_ms: int) -> None:
        """Before anything is decided by the wall clock: has it jumped?"""
        now_s = monotonic_s()
        step = self._steps.tick(now_ms, now_s)
        if step:
            self._scheduler.clock_stepped(step)
            self._log.event("clock", f"the wall clock stepped by {step / 1000:.0f}s: nobody is bounced for age until it has stood for 15 minutes")
        self._scheduler.may_expire = self._steps.may_expire(now_s)

    def wake_due(self, now_ms: int) -> None:
        """Queues whose time has come, a slice of them."""
        for number in self._scheduler.timers.due(now_ms, WAKE_AT_ONCE):
            queue = self._scheduler.queues.get(number)
            if queue is None:
                self._scheduler.to_load.join(number)
            else:
                self._scheduler.wake(queue, now_ms)

    def _queue(self, number: int) -> Queue:
        queue = self._scheduler.queues.get(number)
        return queue if queue is not None else self._scheduler.add(number, self._reader.queue_name(number))

    def restore(self) -> bool:
        """One slice of finding the queues that have rows, at start or after announcements were lost."""
        if not self._restoring:
            return False
        found = self._reader.queues(self._restored, RESTORE_AT_ONCE)
        for number, first_due_ms in found:
            if self._owns(self._reader.queue_name(number).rpartition("/")[2]):
                self._scheduler.timers.wake(number, first_due_ms if first_due_ms > self._stamp_ms else AT_ONCE_MS)
        if found:
            self._restored = found[-1][0]
        self._restoring = len(found) == RESTORE_AT_ONCE
        return self._restoring

    def load(self, now_ms: int) -> bool:
        """Find queues, and read due rows into the windows that want them."""
        more = self.restore()
        until_ms = max(now_ms, self._stamp_ms)
        behind_ms = now_ms if until_ms > now_ms else 0
        end_s = monotonic_s() + TURN_S
        while 0 < self._scheduler.timers.next_ms() <= now_ms and monotonic_s() < end_s:
            self.wake_due(now_ms)
        while (load := self._scheduler.next_load(now_ms)) is not None:
            number, most = load
            queue = self._scheduler.queues.get(number)
            if queue is not None:
                self._loaded(queue, self._reader.due(number, queue.frontier, until_ms, most), until_ms, behind_ms, most)
            else:
                name, rows, later_ms = self._reader.named_due(number, until_ms, most)
                if self._owns(name.rpartition("/")[2]):  # if not: its own slot is starting, and will find it
                    self._loaded(self._scheduler.add(number, name), (rows, later_ms), until_ms, behind_ms, most)
            if monotonic_s() > end_s:
                return True
        return more or 0 < self._scheduler.timers.next_ms() <= now_ms

    def _loaded(self, queue: Queue, read: tuple[list[tuple[bytes, Due]], int | None], until_ms: int, behind_ms: int, most: int) -> None:
        """*read*: up to *most* rows behind its frontier, due up to *until_ms*, and when the one behind them is due."""
        rows, next_due_ms = read
        together = min(queue.settings.max_rcpt_per_message, WINDOW_ROWS)
        if len(rows) == most < together and same_message(rows[0][0]) == same_message(rows[-1][0]):  # a message larger than one read
            most = together
            rows, next_due_ms = self._reader.due(queue.number, queue.frontier, until_ms, most)
        self._scheduler.loaded(queue, rows, next_due_ms, len(rows) < most, behind_ms)

    def expire(self, now_ms: int) -> bool:
        """Look through queues that stand still for recipients older than bounce-after, and bounce them, as long as others do not feel it."""
        end_s = monotonic_s() + TURN_S
        while self._settler.bury(now_ms):
            number = self._scheduler.next_scan(now_ms)
            if number is None:
                return False
            queue = self._queue(number)
            rows, _ = self._reader.due(number, queue.scan, now_ms, SCAN_ROWS)
            self._scheduler.scanned(queue, rows, len(rows) < SCAN_ROWS, now_ms)
            if monotonic_s() > end_s:
                return True
        return False  # the settler asks for the next turn when there is room
