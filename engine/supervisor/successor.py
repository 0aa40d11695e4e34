"""The program that takes a running supervisor's place: `python -m engine.supervisor.successor trial STATE_FD ANSWER_FD`, then `take-over STATE_FD`.

A trial only says whether it could.  Whoever takes over was executed by the supervisor, so it is that process: its children are ours.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import traceback
from collections.abc import Mapping

import msgspec

from engine import __version__
from engine.config import Snapshot, read
from engine.door import door_bytes
from engine.errors import EngineError
from engine.log import EventLog, escape
from engine.process import end_with, load_codecs
from engine.supervisor import certificates, state
from engine.supervisor.certificates import Certificates
from engine.supervisor.configuration import load
from engine.supervisor.generation import Generation, generation, wanted
from engine.supervisor.others import Held, Others
from engine.supervisor.plan import Plan
from engine.supervisor.start import MODULES, say, workers
from engine.supervisor.state import SpoolState, State
from engine.supervisor.supervisor import Supervisor
from engine.supervisor.trial import Verdict


def main(argv: list[str]) -> int:
    """Try, or take over and run until it is stopped; the exit code."""
    document = _content(int(argv[2]))
    if argv[1] == "trial":
        os.write(int(argv[3]), msgspec.json.encode(Verdict(__version__, examine(document))))
        return os.EX_OK
    os.close(int(argv[2]))
    return take_over(document)


def examine(document: bytes, modules: Mapping[str, str] = MODULES) -> list[str]:
    """Why this program cannot go on where the one that wrote *document* stands; nothing if it can."""
    try:
        before = state.decode(document)
        end_with(before.pid)
        roles = {role: importlib.import_module(name) for role, name in modules.items()}
        load_codecs()
        now = in_force(before)
        os.close(now.config_fd)
        if (most := len(before.children) + len(wanted(now))) > before.rows:
            return [f"{most} processes would live at once, and there is room for {before.rows}: wait until some have drained"]
        if (size_bytes := os.fstat(before.door_fd).st_size) != door_bytes(before.rows):
            return [f"the running engine {before.version} counts clients in {size_bytes} bytes, this program in {door_bytes(before.rows)}"]
        certificates.taken_over(before.tls_fd, now.config)
        for path in (before.spool_path, *(other.path for other in before.others)):
            roles["spool"].admit(path)
        # not what is taken over; but should we be killed, the service manager starts this program with what is on disk then
        certificates.read(load(read(before.options.conf, lenient=before.options.lenient), before.options.state_dir)[0])
    except EngineError as error:
        return str(error).splitlines()
    except Exception as error:  # noqa: BLE001 - whatever it trips over would have been the end of a running engine
        return [f"{type(error).__name__}: {error}", *traceback.format_exc(limit=-1).splitlines()[1:3]]
    return []


def take_over(document: bytes, modules: dict[str, str] = MODULES) -> int:
    """Be the supervisor that *document* describes.  What fails here ends the engine: its children end with the lifeline, and a new start follows."""
    before = None
    try:
        before = state.decode(document)
        for fd in before.descriptors:
            os.set_inheritable(fd, False)
        supervisor = Supervisor(adopt(before, modules), say)
        supervisor.take_over(before)
    except Exception as error:
        say(f"cannot take over, and ends: {error}")
        if before is not None:
            log = EventLog(before.log_path, "supervisor/0", (before.uid, before.gid), before.log_mode)
            log.event("upgrade", escape(f"{__version__} cannot take over, and ends: {traceback.format_exc()}", 4000))
            log.close()
        raise
    return supervisor.run()


def in_force(before: State) -> Generation:
    """The configuration in force, built by this program; StartError if it cannot."""
    snapshot = Snapshot.decode(_content(before.config_fd))
    return generation(before.generation + 1, load(snapshot, before.options.state_dir)[0], snapshot, before.options, workers, before.spool_path)


def adopt(before: State, modules: dict[str, str]) -> Plan:
    """The Plan that goes on with the processes and descriptors of *before*."""
    now = in_force(before)
    pems = certificates.taken_over(before.tls_fd, now.config)
    for fd in (before.config_fd, before.tls_fd):  # the living have them, and nobody else needs them any more
        os.close(fd)
    return Plan(
        slots=[state.adopted(child, modules.get(child.role, "")) for child in before.children],
        generation=now,
        options=before.options,
        modules=modules,
        workers=workers,
        rows=before.rows,
        lock_fd=before.lock_fd,
        counters_fd=before.counters_fd,
        door_fd=before.door_fd,
        heartbeat_fd=before.heartbeat_fd,
        lifeline=before.lifeline,
        certificates=Certificates(pems, now.config, fresh=False),
        spool_path=before.spool_path,
        others=Others(before.uid, before.gid, before.asking_gid, [_held(other) for other in before.others]),
        spool_listener=socket.socket(fileno=before.spool_listener_fd),
        control_listener=socket.socket(fileno=before.control_listener_fd),
        log_path=before.log_path,
        log_mode=before.log_mode,
        uid=before.uid,
        gid=before.gid,
        born_s=before.born_s,
    )


def _held(other: SpoolState) -> Held:
    return Held(other.path, other.lock_fd, socket.socket(fileno=other.door_fd) if other.door_fd >= 0 else None)


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
