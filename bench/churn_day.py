"""The shape of a day of mail: how much comes in which hour, how large it is, what becomes of it, and what is restarted when.  From a seed, no I/O."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# Share of the day's mail by hour: a night that is nearly still, a morning's peak, a second one after noon, an evening that fades.
HOURLY = (1, 1, 1, 1, 1, 2, 4, 8, 14, 16, 12, 8, 5, 9, 14, 11, 7, 5, 4, 3, 2, 2, 1, 1)
BURST_HOURS = (3, 10, 15, 20)  # a list with old addresses: many bounces within the hour
SIZES = ((0.70, 1_000, 3_000), (0.94, 3_000, 12_000), (0.995, 12_000, 60_000), (1.0, 60_000, 300_000))  # up to this share: from, to
RECIPIENTS = ((0.88, 1, 1), (0.98, 2, 5), (1.0, 10, 60))
SPOOL_RESTARTS = {5: "term", 9: "kill", 14: "kill", 18: "term", 22: "kill"}  # by hour: how the spool process ends in its middle
WORKER_RESTARTS = (2, 7, 9, 11, 13, 15, 17, 21)  # hours in whose middle one worker of each kind ends
QUEUES = 400


class Hour(NamedTuple):
    """One hour of the day."""

    number: int
    messages: int
    deferred: float  # share of recipients that are told to wait
    bounced: float
    spool_ends: str  # "", "term", "kill"
    workers_end: bool


class Mail(NamedTuple):
    """One message: its size in bytes, and the queues of its recipients."""

    size_bytes: int
    queues: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day of *messages*, drawn from *seed*."""

    messages: int
    seed: int
    restarts: bool = True

    def hours(self) -> Iterator[Hour]:
        """All 24."""
        chance = random.Random(self.seed)
        for number, weight in enumerate(HOURLY):
            bounced = 0.15 if number in BURST_HOURS else 0.005
            yield Hour(
                number,
                max(1, self.messages * weight // sum(HOURLY)),
                chance.uniform(0.01, 0.10),
                bounced,
                SPOOL_RESTARTS.get(number, "") if self.restarts else "",
                self.restarts and number in WORKER_RESTARTS,
            )


def mail(chance: random.Random) -> Mail:
    """The next message."""
    return Mail(_draw(SIZES, chance), tuple({int(chance.random() ** 2 * QUEUES) for _ in range(_draw(RECIPIENTS, chance))}))


def waits_until(hour: int, chance: random.Random) -> int:
    """The hour at which a recipient that was deferred in *hour* is tried again: most of them not soon, some beyond the day."""
    return hour + 1 + int(chance.random() * 16)


def _draw(table: tuple[tuple[float, int, int], ...], chance: random.Random) -> int:
    drawn = chance.random()
    for upto, least, most in table:
        if drawn < upto:
            return chance.randint(least, most)
    return table[-1][2]
