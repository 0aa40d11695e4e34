"""Which queues a slot sends: a function of the configuration alone, never of who happens to be connected."""

from __future__ import annotations

from engine.log import EventLog


class Ownership:
    """`owns(vmta)` for one slot.  Queues of virtual MTAs that are configured no more fall to the first (*fallback*), which says so once."""

    def __init__(self, ours: frozenset[str], everybodys: frozenset[str], fallback: bool, log: EventLog) -> None:
        self._ours = ours
        self._everybodys = everybodys
        self._fallback = fallback
        self._log = log
        self._said: set[str] = set()

    def __call__(self, vmta: str) -> bool:
        """Whether this slot, and no other, sends the mail of virtual MTA *vmta*."""
        if vmta in self._ours:
            return True
        if not self._fallback or vmta in self._everybodys:
            return False
        if vmta not in self._said:
            self._said.add(vmta)
            self._log.event("fallback", f"virtual MTA {vmta!r} is configured no more: its queues are served here, and their mail bounces")
        return True
