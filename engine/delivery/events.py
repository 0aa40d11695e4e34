"""What went wrong last, queue by queue: bounded in queues and in events, so that dead destinations cost no memory that grows with their number."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from engine.control.views import Event
from engine.delivery.outcome import Peer, Result
from engine.log import escape

EVENTS_MOST = 20_000  # over all queues of a slot; the queue that has been quiet longest is forgotten first
EVENTS_OF_A_QUEUE = 1_000  # whatever max-events-recorded says
RECIPIENT_EVENTS = 50  # of one queue, with track-recipient-events (as PowerMTA)
TEXT_CHARS = 300


class _Line:
    """Events of one kind, by queue."""

    __slots__ = ("_by_queue", "_events")

    def __init__(self) -> None:
        self._by_queue: OrderedDict[int, deque[Event]] = OrderedDict()
        self._events = 0

    def add(self, number: int, event: Event, most: int) -> None:
        """*event* is the last of queue *number*, of which *most* are kept."""
        most = min(most, EVENTS_OF_A_QUEUE)
        events = self._by_queue.pop(number, None)
        if events is None or events.maxlen != most:
            self._events -= len(events or ())
            events = deque(events or (), maxlen=most)
            self._events += len(events)
        self._events += len(events) < most
        events.append(event)
        self._by_queue[number] = events
        while self._events > EVENTS_MOST and len(self._by_queue) > 1:
            self._events -= len(self._by_queue.popitem(last=False)[1])

    def of(self, number: int) -> list[Event]:
        """Of queue *number*, oldest first."""
        return list(self._by_queue.get(number, ()))

    def numbers(self) -> list[int]:
        """The queues that have some."""
        return list(self._by_queue)

    def __len__(self) -> int:
        return self._events


class Events:
    """Of one slot: errors of each queue (max-events-recorded), and what became of its recipients (track-recipient-events)."""

    __slots__ = ("_errors", "_recipients")

    def __init__(self) -> None:
        self._errors = _Line()
        self._recipients = _Line()

    def queue_failed(self, number: int, most: int, why: str, peer: Peer, now_ms: int, kind: str = "tq") -> None:
        """Nothing of the queue could be tried, because of *why*; *kind* "dns" where that was its look-up."""
        if most:
            self._errors.add(number, Event(now_ms, kind, escape(why, TEXT_CHARS), "", peer.source_ip, peer.mta), most)

    def settled(self, number: int, most: int, tracks: bool, results: Sequence[Result], peer: Peer, now_ms: int) -> None:
        """These became of recipients: refusals and deferrals are errors of the queue; all are events if it *tracks* them."""
        for result in results:
            if result.type == "d" and not tracks:
                continue
            event = Event(now_ms, result.type, escape(result.diag, TEXT_CHARS), escape(result.row.due.address), peer.source_ip, peer.mta)
            if tracks:
                self._recipients.add(number, event, RECIPIENT_EVENTS)
            if most and result.type != "d":
                self._errors.add(number, event, most)

    def errors(self, number: int) -> list[Event]:
        """The queue's last errors, oldest first."""
        return self._errors.of(number)

    def recipients(self, number: int) -> list[Event]:
        """What became of its recipients, oldest first; [] unless they are tracked."""
        return self._recipients.of(number)

    def last(self, number: int) -> Event | None:
        """The queue's last error."""
        errors = self._errors.of(number)
        return errors[-1] if errors else None

    def failing(self) -> list[int]:
        """Numbers of the queues with errors."""
        return self._errors.numbers()
