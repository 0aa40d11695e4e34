"""From a configuration path to a running engine: every check that may refuse comes first, then one Plan, then the supervisor's loop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network

from engine.config import Config, Snapshot, read
from engine.config.settings import ServerSettings
from engine.errors import StartError
from engine.process import HEARTBEAT_ROW_BYTES, ListenSocket
from engine.supervisor import ground, sockets, spooldir
from engine.supervisor.configuration import load
from engine.supervisor.slots import Slot
from engine.supervisor.spawn import memory_file
from engine.supervisor.supervisor import Plan, Supervisor

MODULES = {
    "spool": "engine.spool.worker",
    "accounting": "engine.accounting.worker",
    "delivery": "engine.delivery.worker",
    "listener": "engine.listener.worker",
    "mover": "engine.spool.moving",
    "sink": "engine.sink.worker",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says about a start."""

    conf: str
    port_offset: int = 0
    state_dir: str = ""  # absolute, or "" for the configuration's own paths
    lenient: bool = False  # as in Snapshot; children inherit it with the text


def start(options: Options) -> int:
    """Run the engine in the foreground until it is stopped; its exit code.  StartError if it cannot start."""
    snapshot = read(options.conf, lenient=options.lenient)
    config, problems = load(snapshot, options.state_dir)
    for problem in problems:
        say(str(problem))
    if "." not in config.server.host_name[0]:
        say(f"warning: we call ourselves {config.server.host_name[0]!r}, which is no full domain name: say host-name in the configuration")
    try:
        plan = prepare(config, snapshot, options)
    except OSError as error:
        raise StartError(f"cannot start: {error}") from error
    return Supervisor(plan, say).run()


def say(line: str) -> None:
    """Tell whoever started us; a closed terminal is no reason to stop."""
    try:
        print(f"engine: {line}", file=sys.stderr, flush=True)
    except OSError:
        return


def prepare(config: Config, snapshot: Snapshot, options: Options, modules: dict[str, str] = MODULES) -> Plan:
    """The Plan for *config*, with its lock held and its sockets bound.  StartError names what is missing and what to do."""
    server, spool = config.server, config.spool.path
    uid, gid = ground.who(server.user)
    asking_gid = ground.group(server.control_group)
    listeners, deliveries = workers(server.listener_workers, server.delivery_workers)
    slots_of_delivery = config.slots(deliveries)
    where = sockets.addresses(_listeners(config), options.port_offset)
    ground.descriptors(server.total_max_smtp_in, server.total_max_smtp_out, len(where) * listeners)

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
    for acct in config.acct_files:
        ground.directory(os.path.dirname(acct.path), 0o750, uid, gid, "acct-file's directory")
        if acct.move_to:
            ground.directory(acct.move_to, 0o750, uid, gid, "move-to")
            ground.one_volume(os.path.dirname(acct.path), acct.move_to)
    bound = sockets.bind(where, listeners)

    slots = [Slot("spool", 0, modules["spool"], 0), Slot("accounting", 0, modules["accounting"], 1)]
    for index, owned in enumerate(slots_of_delivery):
        if not owned.virtual_mtas:
            continue
        slots.append(Slot("delivery", index, modules["delivery"], len(slots), " ".join([f"delivery/{index}", *owned.source_ips[:8]])))
    for index, other in enumerate(config.attached_spools):
        lock = ground.attached_spool(other.path, uid, gid)
        title = f"mover/{index} {other.path}"
        slots.append(Slot("mover", index, modules["mover"], len(slots), title, source_path=other.path, source_lock_fd=lock))
    for index, row in enumerate(bound):
        slots.append(Slot("listener", index, modules["listener"], len(slots), sockets=row))
    if server.dummy_smtp_port:
        slots.append(Slot("sink", 0, modules["sink"], len(slots), sockets=_sink_sockets(server, options.port_offset)))
    return Plan(
        slots=slots,
        config_fd=memory_file("config", snapshot.encode()),
        lock_fd=lock_fd,
        counters_fd=memory_file("counters", bytes(len(slots) * 8)),
        heartbeat_fd=memory_file("heartbeats", bytes(len(slots) * HEARTBEAT_ROW_BYTES)),
        spool_path=spool,
        spool_listener=ground.unix_listener(spooldir.spool_socket(spool), uid, *((asking_gid, 0o660) if asking_gid >= 0 else (gid, 0o600))),
        control_listener=ground.unix_listener(spooldir.control_socket(spool), -1, asking_gid if asking_gid >= 0 else gid, 0o660),
        log_path=server.log_file,
        log_mode=log_mode,
        shutdown_timeout_s=server.shutdown_timeout_s,
        delivery_workers=deliveries,
        listening=[(address, port) for address, port, _ in where],
        state_dir=options.state_dir,
        port_offset=options.port_offset,
        uid=uid,
        gid=gid,
    )


def workers(listeners: int, deliveries: int, cores: Callable[[], int] = lambda: len(os.sched_getaffinity(0))) -> tuple[int, int]:
    """(listener processes, most delivery processes); 0 asks for half the cores each: the spool process and the kernel need the rest."""
    half = max(1, cores() // 2)
    return listeners or half, deliveries or half


def _sink_sockets(server: ServerSettings, port_offset: int) -> list[ListenSocket]:
    """Bound for the sink of dummy-smtp-port; no addresses of ours for the loop check: delivering to it is its purpose."""
    (row,) = sockets.bind(sockets.addresses([(ip_network(server.dummy_smtp_ip or "0.0.0.0/0"), server.dummy_smtp_port, "")], port_offset), 1)
    return row


def _listeners(config: Config) -> list[tuple[sockets.Network, int, str]]:
    return [(listener.network, listener.port, listener.source) for listener in config.server.smtp_listener]
