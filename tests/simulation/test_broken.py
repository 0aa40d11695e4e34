"""The simulation sees what it is there to see: each promise, broken on purpose, fails a seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.delivery import outcome as outcome_module
from engine.delivery import slot as slot_module
from engine.process import SharedCount
from engine.scheduler.clockstep import StepGuard
from engine.scheduler.feedback import DELIVERED
from engine.scheduler.scheduler import Scheduler
from tests.simulation import processes, spool
from tests.simulation.plan import KINDS
from tests.simulation.world import live

SEEDS = 60


def nothing_is_announced(patch: pytest.MonkeyPatch) -> None:
    real = spool.Spool._answer
    patch.setattr(spool.Spool, "_answer", lambda self, upto, refused, opened, announced, stamp_ms: real(self, upto, refused, opened, {}, stamp_ms))


def retries_are_read_early(patch: pytest.MonkeyPatch) -> None:
    real = spool.Reader.due
    patch.setattr(spool.Reader, "due", lambda self, queue, after, until_ms, limit: real(self, queue, after, until_ms + 4_000, limit))


def bodies_are_mixed_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spool.Reader, "body", lambda self, body, message_id: b"something else\r\n")


def the_total_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    class Endless(SharedCount):
        def take(self) -> bool:
            super().take()
            return True

    patch.setattr(processes, "SharedCount", Endless)


def virtual_mtas_have_one_too_many(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(processes, "Scheduler", lambda settings, limit: Scheduler(settings, lambda vmta: limit(vmta) and limit(vmta) + 1))


def deferrals_are_taken_for_deliveries(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slot_module, "judge", lambda *_: DELIVERED)


def retries_come_too_soon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outcome_module, "again_ms", lambda now_ms, *_: now_ms + 1_000)


def a_stepped_clock_is_believed(patch: pytest.MonkeyPatch) -> None:
    class Trusting(StepGuard):
        def may_expire(self, monotonic_s: float) -> bool:
            return True

    patch.setattr(processes, "StepGuard", Trusting)


def settles_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spool.Spool, "_settle", lambda *_: None)


def acknowledged_mail_is_not_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spool.Spool, "_accept", lambda *_: None)


def nobody_hears_of_bounces(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(processes.Reporter, "accept_for", lambda *_: None)


BROKEN = [
    (nothing_is_announced, "calm", "forgotten"),
    (retries_are_read_early, "calm", "before it is due"),
    (bodies_are_mixed_up, "calm", "that nobody sent"),
    (the_total_is_not_kept, "limits", "total-max-smtp-out is"),
    (virtual_mtas_have_one_too_many, "limits", "max-smtp-out is"),
    (deferrals_are_taken_for_deliveries, "calm", "no peer has told so"),
    (retries_come_too_soon, "calm", "not retry-recipients-after"),
    (a_stepped_clock_is_believed, "clock", "the clock has just stepped"),
    (settles_are_forgotten, "calm", "again"),
    (acknowledged_mail_is_not_stored, "calm", "not stored"),
    (nobody_hears_of_bounces, "calm", "hears nothing"),
]


@pytest.mark.parametrize(("broken", "kind", "said"), BROKEN, ids=[broken.__name__ for broken, _, _ in BROKEN])
def test_a_broken_promise_is_seen(broken: Callable[[pytest.MonkeyPatch], None], kind: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    failures = []
    for seed in range(KINDS.index(kind), SEEDS * len(KINDS), len(KINDS)):
        failure = live(seed).failure
        failures.append(failure)
        if said in failure:
            return
    pytest.fail(f"{SEEDS} seeds of kind {kind} say nothing of it: {sorted(set(failures))[:5]}")
