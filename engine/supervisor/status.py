"""What `engine status` shows, told from the supervisor's slots."""

from __future__ import annotations

import os

from engine import __version__
from engine.control import Child, Status, Upgrade
from engine.control.views import TrafficTable
from engine.process import spool_socket
from engine.supervisor.generation import shadow
from engine.supervisor.plan import Plan
from engine.supervisor.slots import Slot


def describe(
    plan: Plan,
    now_s: float,
    counts: tuple[memoryview, ...],
    traffic: TrafficTable,
    *,
    stopping: bool,
    reloading: bool,
    turned_away: int,
    upgrade: Upgrade,
) -> Status:
    """The whole; *counts* are the open connections of each row, in and out."""
    return Status(
        version=__version__,
        pid=os.getpid(),
        uptime_s=round(now_s - plan.born_s, 1),
        ready=all(slot.ready or slot.retiring for slot in plan.slots) and not stopping,
        stopping=stopping,
        spool=plan.spool_path,
        spool_socket=spool_socket(plan.spool_path),
        others=[held.path for held in plan.others.held.values() if held.door is not None],
        listening=plan.listening,
        turned_away=turned_away,
        children=[_child(slot, now_s, counts) for slot in plan.slots],
        shadow=shadow(plan.generation),
        generation=plan.generation.number,
        reloading=reloading,
        traffic=traffic,
        upgrade=upgrade,
    )


def _child(slot: Slot, now_s: float, counts: tuple[memoryview, ...]) -> Child:
    if not slot.pid:
        state = "throttled" if slot.crashes else "waiting"
    else:
        state = "draining" if slot.told else "working" if slot.ready else "starting"
    return Child(
        name=slot.name,
        pid=slot.pid,
        state=state,
        uptime_s=round(slot.age_s(now_s), 1) if slot.pid else 0.0,
        restarts=slot.restarts,
        heartbeat_age_s=round(now_s - slot.progress_s, 1) if slot.pid else 0.0,
        smtp_in=counts[0][slot.row],
        smtp_out=counts[1][slot.row],
        title=slot.title,
    )
