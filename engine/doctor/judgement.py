"""What an examination saw, and all findings that it leads to.  Pure."""

from __future__ import annotations

from typing import NamedTuple

from engine.doctor import listeners, names, ports, senders
from engine.doctor.finding import Finding


class Examination(NamedTuple):
    """What was seen."""

    tries: tuple[ports.Try, ...]
    named: tuple[names.Named, ...]
    checked: tuple[senders.Checked, ...]
    listeners: tuple[listeners.Listener, ...]


def judge(seen: Examination, relaying: tuple[str, ...], now_s: float, timeout_s: float) -> list[Finding]:
    """Every finding, in the order in which a newcomer asks; *relaying* as in `listeners.judge`, *timeout_s* as the probes had it."""
    return [
        *ports.judge(seen.tries, timeout_s),
        *names.judge(seen.named),
        *senders.judge(seen.checked),
        *listeners.judge(seen.listeners, relaying, now_s, timeout_s),
    ]
