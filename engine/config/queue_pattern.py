"""Patterns over queue names, `domain/vmta` with wildcards on either side, and lists of them of which the first match decides (reference §2.15)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from engine.config.pattern import DomainPattern


@dataclass(frozen=True, slots=True)
class QueuePattern:
    """`*/*`, `yahoo.com/*`, `*/vmta1`, `[*.]example.org`, each perhaps after a `!`.  Without a slash: of every virtual MTA."""

    domain: DomainPattern
    vmta: str = "*"
    negated: bool = False

    @classmethod
    def parse(cls, text: str) -> QueuePattern:
        """The pattern *text*; ValueError if it is none."""
        literal, bracket, rest = text.removeprefix("!").rpartition("]")  # [10.0.0.0/8]/vmta
        rest, slash, vmta = rest.partition("/")
        domain = literal + bracket + rest
        if not domain or (slash and not vmta):
            raise ValueError("not a queue: domain/vmta, with * for either")
        return cls(DomainPattern.parse(domain), vmta or "*", text.startswith("!"))

    def matches(self, queue: str) -> bool:
        """Whether *queue* (`domain/vmta`) is meant, whatever stands before the pattern."""
        domain, _, vmta = queue.partition("/")
        return self.domain.matches(domain) and fnmatchcase(vmta, self.vmta)


def wanted(patterns: Iterable[QueuePattern], queue: str) -> bool:
    """What the first pattern that matches says of *queue*: no, if it is negated, or if none matches."""
    return next((not pattern.negated for pattern in patterns if pattern.matches(queue)), False)
