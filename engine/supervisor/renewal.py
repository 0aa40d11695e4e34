"""In which order an upgrade replaces every process: who may be told to go now.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.supervisor.slots import Slot

# Listeners first, so that no more comes in; the spool process last, since the others' last words are operations to it.
STOP_ORDER = ("listener", "mover", "delivery", "sink", "accounting", "spool")
# The spool process first, since workers of today and of tomorrow speak with either; then whoever holds up least.
SIDE_BY_SIDE = ("spool", "accounting", "mover", "listener", "delivery", "sink")


@dataclass(frozen=True, slots=True)
class Renewal:
    """Role after role goes, in *order*; *apart*: old workers and the new spool process do not understand each other."""

    order: tuple[str, ...] = ()  # of none: everybody may go at once, as in a reload
    apart: bool = False

    def may_go(self, slot: Slot, slots: Iterable[Slot]) -> bool:
        """Whether the turn of *slot*'s role has come: those before it are replaced (*apart*: gone), or one of its own kind has ended by itself,
        whose successor waits for the others.
        """
        if not self.order:
            return True
        every = list(slots)
        earlier = self.order[: self.order.index(slot.role)] if slot.role in self.order else self.order
        if not any(other.role in earlier and (other.retiring or not (other.ready or self.apart)) for other in every):
            return True
        return any(before not in every for other in every if other.role == slot.role for before in other.after)


def renewal(spool_protocol_before: int, spool_protocol: int) -> Renewal:
    """How to replace processes that speak *spool_protocol_before* by such that speak *spool_protocol*."""
    if spool_protocol_before == spool_protocol:
        return Renewal(SIDE_BY_SIDE)
    return Renewal(STOP_ORDER, apart=True)
