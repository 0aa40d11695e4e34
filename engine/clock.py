"""The two clocks, as plain functions; pure code takes the time as an argument and never calls these."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Milliseconds since the epoch: what is stored (due times, records)."""
    return time.time_ns() // 1_000_000


def monotonic_s() -> float:
    """Seconds on a clock that never steps: what deadlines and limits are measured with."""
    return time.monotonic()
