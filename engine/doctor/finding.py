"""One finding: what was seen, how bad it is, what to do.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

Severity: TypeAlias = Literal["ok", "hint", "warning", "problem"]

SEVERITIES: Final[tuple[Severity, ...]] = ("ok", "hint", "warning", "problem")


class Finding(NamedTuple):
    """*subject* is what it is about (an address, a listener, a domain); *advice* is "" where nothing is to be done."""

    severity: Severity
    topic: str  # port, name, spf, listener, relay, tls, application
    subject: str
    text: str
    advice: str = ""


def exit_code(findings: Iterable[Finding]) -> int:
    """2 with a problem, 1 with a warning, 0 otherwise: hints ask for nothing."""
    worst = max((SEVERITIES.index(finding.severity) for finding in findings), default=0)
    return max(worst - 1, 0)
