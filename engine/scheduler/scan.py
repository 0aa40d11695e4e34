"""What the scan of a queue's standing rows finds: who is too old, and whose sender is to hear that he waits (RFC 3461 §4.1, NOTIFY=DELAY).  Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from engine.config.settings import DomainSettings
from engine.mail.envelope import NOTIFY_DELAY, Due
from engine.scheduler.queue import Row
from engine.scheduler.retry import expiry_ms


class Findings(NamedTuple):
    """Of some rows."""

    expired: list[Row]
    overdue: list[Row]  # their senders are to be told of the delay
    spared: int
    earliest_ms: int  # the first expiry or warning to come among those that do not expire


def look_through(
    rows: Sequence[tuple[bytes, Due]], settings: DomainSettings, now_ms: int, in_flight: Collection[bytes], settling: Collection[bytes]
) -> Findings:
    """What is to be done about *rows*, which stand, now; nothing about those *in_flight* or *settling*."""
    expired: list[Row] = []
    overdue: list[Row] = []
    spared = 0
    earliest_ms = expiry_ms(now_ms, settings.bounce_after_s)
    every_s = settings.notify_of_delay_every_s
    for key, due in rows:
        if key in in_flight or key in settling:
            continue
        next_ms = expiry_ms(due.queued_ms, settings.bounce_after_s)
        if next_ms <= now_ms:
            expired.append(Row(key, due))
            continue
        if due.notify & NOTIFY_DELAY and every_s is not None:
            warning_ms = warning_due_ms(due, every_s)
            if warning_ms <= now_ms:
                overdue.append(Row(key, due))
                warning_ms = now_ms + int(every_s * 1000)
            next_ms = min(next_ms, warning_ms)
        spared += 1
        earliest_ms = min(earliest_ms, next_ms)
    return Findings(expired, overdue, spared, earliest_ms)


def warning_due_ms(due: Due, every_s: float) -> int:
    """When the sender of *due*, who asked for it, is to hear next that it waits: *every_s* after it came, or after he heard last."""
    return (due.notified_ms or due.queued_ms) + int(every_s * 1000)


def scan_pause_ms(settings: DomainSettings) -> int:
    """Between two looks at a queue's rows: what no look foresaw is done at the latest a twentieth of bounce-after too late, or a quarter of
    notify-of-delay-every.
    """
    pause_ms = int(settings.bounce_after_s * 50)
    if settings.notify_of_delay_every_s is not None:
        pause_ms = min(pause_ms, int(settings.notify_of_delay_every_s * 250))
    return max(1000, pause_ms)
