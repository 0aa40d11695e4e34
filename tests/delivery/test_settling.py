"""Outcomes on their way into the spool: what happens when one cannot be stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config.settings import DomainSettings
from engine.delivery.outcome import Peer, Result
from engine.delivery.settling import DSN_WAIT_MS, Settler
from engine.errors import SpoolError
from engine.mail.envelope import Body, Due, Message
from engine.scheduler.queue import Row
from engine.spool.ops import Accept, Settle

NOW_MS = 1_000_000
MESSAGE = Message(Body(1, 1, 20, 5, 0), "a@b.example", b"", 1, False, True, "", "", "smtp", "h (127.0.0.1)", "")


class FakeScheduler:
    """What a Settler tells the scheduler."""

    def __init__(self) -> None:
        self.settling: set[bytes] = set()
        self.casualties: list[Any] = []
        self.overdue: list[Any] = []
        self.may_expire = True
        self.queues: dict[int, Any] = {}
        self.again: list[int] = []
        self.tried_again = 0

    def settled(self, _queue: object, keys: Sequence[bytes]) -> None:
        self.settling.update(keys)

    def acknowledged(self, keys: Sequence[bytes]) -> None:
        self.settling.difference_update(keys)

    def add(self, number: int, _name: str) -> object:
        return self.queues.setdefault(number, object())

    def shed(self, _queue: object) -> None:
        self.tried_again += 1

    def wake(self, _queue: object, _now_ms: int) -> None:
        """Not looked at."""

    def due_again(self, _queue: object, when_ms: int) -> None:
        self.again.append(when_ms)


class FakeLink:
    """Keeps what was submitted."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Settle, Callable[[str | None], None]]] = []

    def submit(self, operation: Settle, done: Callable[[str | None], None]) -> None:
        self.submitted.append((operation, done))


def row(index: int) -> Row:
    return Row(b"\0" * 25 + index.to_bytes(4, "big"), Due(f"u{index}@d.example", 1))


@pytest.fixture
def settler() -> tuple[Settler, FakeScheduler, FakeLink]:
    scheduler, link = FakeScheduler(), FakeLink()
    accept = Accept(b"\0" * 12, b"", 1, 1, 5, [])
    reporter = SimpleNamespace(accept_for=lambda *_: accept)
    log = SimpleNamespace(event=lambda *_: None)
    made = Settler(scheduler, link, None, reporter, log, lambda: None)  # type: ignore[arg-type]
    return made, scheduler, link


def test_a_dsn_that_cannot_be_stored_sends_nothing_twice(settler: tuple[Settler, FakeScheduler, FakeLink]) -> None:
    made, scheduler, link = settler
    queue: Any = SimpleNamespace(number=1, name="d.example/v", vmta="v", settings=DomainSettings())
    results = [
        Result(row(0), "d", "2.0.0", "smtp;250 ok"),
        Result(row(1), "b", "5.1.1", "smtp;550 no"),
        Result(row(2), "t", "4.2.1", "smtp;451 later", NOW_MS + 5),
    ]
    made.settle(queue, b"\0" * 12, MESSAGE, results, Peer(), NOW_MS)
    (outcomes, stored), (bounce, told) = link.submitted
    assert [settled.key for settled in outcomes.rows] == [row(0).key, row(2).key] and outcomes.accept is None
    assert [settled.key for settled in bounce.rows] == [row(1).key] and bounce.accept is not None

    told("sync failed: segment 00000001-00000001.seg: Input/output error")
    stored(None)
    assert scheduler.tried_again == 0  # the peer has said what it had to say
    assert scheduler.settling == {row(1).key}
    waiting, told = link.submitted[2]
    assert [(settled.key, settled.record, settled.again_ms) for settled in waiting.rows] == [(row(1).key, b"", NOW_MS + DSN_WAIT_MS)]
    told(None)
    assert scheduler.again == [NOW_MS + 5, NOW_MS + DSN_WAIT_MS] and not scheduler.settling


@pytest.mark.parametrize("how", ["stored", "refused", "unwritable"])
def test_a_delivery_is_stored_whatever_becomes_of_its_copy(settler: tuple[Settler, FakeScheduler, FakeLink], how: str) -> None:
    made, scheduler, link = settler
    copy = Accept(b"c" * 12, b"", 1, 1, 5, [])

    def copy_for(*_: object) -> Accept:
        if how == "unwritable":
            raise SpoolError("disk low")
        return copy

    reporter: Any = SimpleNamespace(copy_for=copy_for)
    made = Settler(scheduler, link, None, reporter, SimpleNamespace(event=lambda *_: None), lambda: None)  # type: ignore[arg-type]
    queue: Any = SimpleNamespace(number=1, name="d.example/v", vmta="v", settings=DomainSettings(bcc_upon_delivery="x@us.example"))
    results = [Result(row(0), "d", "2.0.0", "smtp;250 ok"), Result(row(1), "t", "4.2.1", "smtp;451 later", NOW_MS + 5)]
    made.settle(queue, b"\0" * 12, MESSAGE, results, Peer(), NOW_MS)
    settle, told = link.submitted[0]
    assert settle.accept is (None if how == "unwritable" else copy)
    if how == "refused":
        told("sync failed")
        assert scheduler.tried_again == 0
        settle, told = link.submitted[1]
        assert settle.accept is None
    assert [settled.key for settled in settle.rows] == [row(0).key, row(1).key]
    told(None)
    assert not scheduler.settling


def test_what_was_only_deferred_has_no_copy(settler: tuple[Settler, FakeScheduler, FakeLink]) -> None:
    made, _, link = settler
    queue: Any = SimpleNamespace(number=1, name="d.example/v", vmta="v", settings=DomainSettings(bcc_upon_delivery="x@us.example"))
    made.settle(queue, b"\0" * 12, MESSAGE, [Result(row(1), "t", "4.2.1", "smtp;451 later", NOW_MS + 5)], Peer(), NOW_MS)
    assert link.submitted[0][0].accept is None
