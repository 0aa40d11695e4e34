"""Says in the log what was refused, but never more than so many lines a second: strangers must not fill the disk."""

from __future__ import annotations

from typing import Protocol

LINES_PER_TICK = 50


class Log(Protocol):
    """What it uses of engine.log.EventLog."""

    def event(self, kind: str, text: str) -> None: ...


class RefusalLog:
    """`tick` is called once a second."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._left = LINES_PER_TICK
        self._unsaid = 0

    def say(self, text: str) -> None:
        """Log a refusal, or count it."""
        if self._left > 0:
            self._left -= 1
            self._log.event("refused", text)
        else:
            self._unsaid += 1

    def tick(self) -> None:
        """A new second: say how many were only counted."""
        if self._unsaid:
            self._log.event("refused", f"{self._unsaid} more, not logged one by one")
        self._left, self._unsaid = LINES_PER_TICK, 0
