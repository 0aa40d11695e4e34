"""What a child is told at birth, as its slot and the plan say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from engine.process import Birth, spool_socket
from engine.supervisor import certificates

if TYPE_CHECKING:
    from engine.supervisor.plan import Plan
    from engine.supervisor.slots import Slot


def birth(plan: Plan, slot: Slot) -> Birth:
    """The Birth of the next process in *slot*."""
    born = slot.generation
    assert born is not None
    other = plan.others.held.get(slot.source_path)
    own = other if slot.role == "spool" else None  # the process of a spool that is not the first has to do with no other
    door = None if slot.role != "spool" else plan.spool_listener if own is None else own.door
    spool_path, lock_fd = (plan.spool_path, plan.lock_fd) if own is None else (own.path, own.lock_fd)
    second_lock_fd = plan.lock_fd if own is not None else other.lock_fd if other is not None else -1
    return Birth(
        role=slot.role,
        index=slot.index,
        module=slot.module,
        title=f"engine: {slot.title or slot.name}",
        supervisor_pid=os.getpid(),
        row=slot.row,
        rows=plan.rows,
        config_fd=born.config_fd,
        lifeline_fd=plan.lifeline[0],
        lock_fd=lock_fd,
        counters_fd=plan.counters_fd,
        door_fd=plan.door_fd,
        heartbeat_fd=plan.heartbeat_fd,
        tls_fd=plan.certificates.fd if slot.role in certificates.ROLES else -1,
        spool_listener_fd=door.fileno() if door is not None else -1,
        sockets=slot.sockets,
        listening=born.listening,
        shadow=born.shadow,
        spool_path=spool_path,
        source_path=slot.source_path,
        source_lock_fd=second_lock_fd,
        spool_socket=spool_socket(spool_path),
        log_path=plan.log_path,
        log_mode=plan.log_mode,
        state_dir=plan.options.state_dir,
        port_offset=plan.options.port_offset,
        workers=sum(other.role == slot.role for other in plan.slots),
        delivery_workers=born.delivery_workers,
        uid=plan.uid,
        gid=plan.gid,
    )
