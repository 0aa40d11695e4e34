"""Many worlds, one after the other; a module of its own, since spawned workers cannot import `__main__`."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterable, Iterator

from tests.simulation.world import Outcome, live

COLLECT_EVERY = 20  # worlds: between them, never within one


def outcomes(seeds: Iterable[int], until_s: float) -> Iterator[Outcome]:
    """Live *seeds*, until the monotonic clock reads *until_s*."""
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that the end of their world keeps from their first line
            for number, seed in enumerate(seeds, 1):
                outcome = live(seed)
                yield outcome if outcome.failure else outcome.without_trace()
                if number % COLLECT_EVERY == 0:
                    gc.collect()
                if time.monotonic() > until_s:
                    return
            gc.collect()
    finally:
        gc.enable()


def part(arguments: tuple[int, int, int, float]) -> list[Outcome]:
    """The outcomes of every *step*-th seed: what one worker lives."""
    first, end, step, until_s = arguments
    return list(outcomes(range(first, end, step), until_s))
