"""From a configuration path to a running engine: every check that may refuse comes first, then one Plan, then the supervisor's loop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace

from engine.config import Config, Snapshot, read
from engine.door import door_file
from engine.errors import StartError
from engine.process import HEARTBEAT_ROW_BYTES
from engine.supervisor import certificates, ground, sockets, spooldir
from engine.supervisor.certificates import Certificates
from engine.supervisor.configuration import Options, load
from engine.supervisor.generation import generation, other_spools, shadow, wanted
from engine.supervisor.others import Others
from engine.supervisor.plan import Plan
from engine.supervisor.slots import Slot
from engine.supervisor.spawn import memory_file
from engine.supervisor.supervisor import Supervisor

__all__ = ["MODULES", "Options", "Plan", "prepare", "say", "start", "workers"]

MODULES = {
    "spool": "engine.spool.worker",
    "accounting": "engine.accounting.worker",
    "delivery": "engine.delivery.worker",
    "listener": "engine.listener.worker",
    "mover": "engine.spool.moving",
    "sink": "engine.sink.worker",
}

LEAST_ROWS = 128  # of shared counts and heartbeats: processes of several configurations live side by side for a while


def start(options: Options) -> int:
    """Run the engine in the foreground until it is stopped; its exit code.  StartError if it cannot start."""
    snapshot = read(options.conf, lenient=options.lenient)
    config, problems = load(snapshot, options.state_dir)
    for problem in problems:
        say(str(problem))
    if "." not in config.server.host_name[0]:
        say(f"warning: we call ourselves {config.server.host_name[0]!r}, which is no full domain name: say host-name in the configuration")
    if options.shadow:
        say("SHADOW: no mail leaves this host: every delivery goes to a built-in sink, which throws it away")
        for spool in config.spools:
            if spool.deliver_only:
                say(f"SHADOW: spool {spool.path} is deliver-only: what lies in it is left alone")
    try:
        plan = prepare(config, snapshot, options)
    except OSError as error:
        raise StartError(f"cannot start: {error}") from error
    supervisor = Supervisor(plan, say)
    if options.shadow:
        supervisor.log.event("SHADOW", f"no mail leaves this host: every delivery goes to the built-in sink at {shadow(plan.generation)}")
    return supervisor.run()


def say(line: str) -> None:
    """Tell whoever started us; a closed terminal is no reason to stop."""
    try:
        print(f"engine: {line}", file=sys.stderr, flush=True)
    except OSError:
        return


def prepare(config: Config, snapshot: Snapshot, options: Options, modules: dict[str, str] = MODULES) -> Plan:
    """The Plan for *config*, with its lock held and its sockets bound.  StartError names what is missing and what to do."""
    sink = [sockets.on_loopback()] if options.shadow else []
    options = replace(options, sink_port=sink[0].port if sink else 0)
    now = generation(1, config, snapshot, options, workers)
    server, spool = config.server, config.spool.path
    uid, gid = ground.who(server.user)
    asking_gid = ground.group(server.control_group)
    pems = certificates.read(config)
    ground.descriptors(server.total_max_smtp_in, server.total_max_smtp_out, len(now.where) * now.listeners)

    ground.directory(spool, 0o700, uid, gid, "spool")
    lock_fd = spooldir.claim(spool)
    ground.run_directory(spool, gid)
    ground.doors(spool, uid, asking_gid)
    try:
        spooldir.record(spool, [(spooldir.SUPERVISOR, os.getpid())])
    except OSError as error:  # a full disk must not keep us from sending what fills it; without the record others wait longer for our end
        say(f"warning: {spool}/{spooldir.RUN} cannot be written: {error.strerror}")
    log_mode = 0o644 if server.log_file_world_readable else 0o640
    ground.log_file(server.log_file, uid, gid, log_mode)
    ground.accounting(config.acct_files, uid, gid)
    others = Others(uid, gid, asking_gid)
    others.take(other_spools(now))
    bound = sockets.bind(now.where, now.listeners)

    slots = []
    for row, child in enumerate(wanted(now)):
        slot = Slot(child.role, child.index, modules[child.role], row, child.title, source_path=child.source, generation=now, basis=child.basis)
        if child.role == "listener":
            slot.sockets = bound[child.index]
        elif child.role == "sink":
            (slot.sockets,) = sockets.bind(now.sink, 1, sink)
        slots.append(slot)
    rows = max(LEAST_ROWS, 4 * len(slots))
    return Plan(
        slots=slots,
        generation=now,
        options=options,
        modules=modules,
        workers=workers,
        rows=rows,
        lock_fd=lock_fd,
        counters_fd=memory_file("counters", bytes(rows * 8)),
        door_fd=door_file(rows),
        heartbeat_fd=memory_file("heartbeats", bytes(rows * HEARTBEAT_ROW_BYTES)),
        certificates=Certificates(pems, config),
        spool_path=spool,
        others=others,
        spool_listener=ground.spool_door(spool, uid, gid, asking_gid),
        control_listener=ground.unix_listener(spooldir.control_socket(spool), -1, asking_gid if asking_gid >= 0 else gid, 0o660),
        log_path=server.log_file,
        log_mode=log_mode,
        uid=uid,
        gid=gid,
    )


def workers(listeners: int, deliveries: int, cores: Callable[[], int] = lambda: len(os.sched_getaffinity(0))) -> tuple[int, int]:
    """(listener processes, most delivery processes); 0 asks for half the cores each: the spool process and the kernel need the rest."""
    half = max(1, cores() // 2)
    return listeners or half, deliveries or half
