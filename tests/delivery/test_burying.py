"""Bounces by the thousand: few at once, so that other mail's outcomes need not wait behind them, and the next as soon as there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from engine.config.settings import DomainSettings
from engine.delivery.settling import BURIED_MOST, Settler
from engine.mail.envelope import Body, Due, Message
from engine.scheduler.queue import Queue, Row
from engine.scheduler.scheduler import EXPIRED, Scheduler
from engine.spool.ops import Settle

NOW_MS = 1_000_000
MESSAGE = Message(Body(1, 1, 20, 5, 0), "a@b.example", b"", 1, False, True, "", "", "smtp", "h (127.0.0.1)", "")


class Burial:
    """A Settler with a real scheduler, between a disk and a spool process that only listen."""

    def __init__(self) -> None:
        settings = DomainSettings(bounce_after_s=60.0, max_smtp_out=5)
        self.scheduler = Scheduler(lambda domain, vmta: settings, lambda vmta: 0)
        self.queue: Queue = self.scheduler.add(1, "d.example/v")
        self.submitted: list[tuple[Settle, Callable[[str | None], None]]] = []
        self.rooms = 0
        link = SimpleNamespace(submit=lambda operation, done: self.submitted.append((operation, done)))
        reader = SimpleNamespace(messages=lambda ids: dict.fromkeys(ids, MESSAGE))
        reporter, log = SimpleNamespace(accept_for=lambda *_: None), SimpleNamespace(event=lambda *_: None)
        self.settler = Settler(self.scheduler, cast(Any, link), cast(Any, reader), cast(Any, reporter), cast(Any, log), self._room)

    def _room(self) -> None:
        self.rooms += 1

    def lose(self, messages: int, recipients: int = 1) -> None:
        casualties: deque[tuple[Queue, Row, str, str]] = self.scheduler.casualties
        for number in range(messages):
            for index in range(recipients):
                row = Row(b"\0" * 13 + number.to_bytes(12, "big") + index.to_bytes(4, "big"), Due(f"u{index}@d.example", 1))
                self.queue.in_flight.add(row.key)
                casualties.append((self.queue, row, EXPIRED, "x-engine;too old"))


def test_no_more_than_a_few_are_unacknowledged() -> None:
    burial = Burial()
    burial.lose(1_000)
    assert not burial.settler.bury(NOW_MS)
    assert len(burial.submitted) == BURIED_MOST
    assert not burial.settler.bury(NOW_MS)
    assert len(burial.submitted) == BURIED_MOST and burial.rooms == 0


def test_the_first_acknowledgement_asks_for_the_next() -> None:
    burial = Burial()
    burial.lose(1_000)
    burial.settler.bury(NOW_MS)
    for _, done in list(burial.submitted):
        done(None)
    assert burial.rooms == 1
    burial.settler.bury(NOW_MS)
    assert len(burial.submitted) == 2 * BURIED_MOST


def test_all_come_to_their_end_though_some_are_refused() -> None:
    burial = Burial()
    burial.lose(500)
    answered = 0
    while burial.scheduler.casualties or answered < len(burial.submitted):
        burial.settler.bury(NOW_MS)
        for operation, done in burial.submitted[answered:]:
            done("disk full" if answered % 7 == 0 else None)
            answered += len(operation.rows)
    assert answered == 500
    assert not burial.scheduler.settling


def test_recipients_of_one_message_go_together() -> None:
    burial = Burial()
    burial.lose(2, recipients=3)
    assert burial.settler.bury(NOW_MS)
    assert [len(operation.rows) for operation, _ in burial.submitted] == [3, 3]
