"""Is the wall clock to be believed?  Bouncing mail because a clock jumped would be a loss of our own making."""

from __future__ import annotations

STEP_MS = 60_000
CONFIRM_S = 900.0


class StepGuard:
    """Suspends expiry after a step of the wall clock by more than a minute, until the new time has stood for fifteen."""

    __slots__ = ("_offset_ms", "_suspended_until_s")

    def __init__(self, wall_ms: int, monotonic_s: float) -> None:
        self._offset_ms = wall_ms - int(monotonic_s * 1000)
        self._suspended_until_s = 0.0

    def tick(self, wall_ms: int, monotonic_s: float) -> int:
        """To be called often.  The size of a step just seen in ms, else 0; slow drift (NTP slewing) is followed."""
        step = wall_ms - int(monotonic_s * 1000) - self._offset_ms
        self._offset_ms += step
        if abs(step) < STEP_MS:
            return 0
        self._suspended_until_s = monotonic_s + CONFIRM_S
        return step

    def may_expire(self, monotonic_s: float) -> bool:
        """May recipients be bounced for age now?"""
        return monotonic_s >= self._suspended_until_s
