"""What a supervisor leaves to the program that takes its place: a document in a memory file, and the descriptors that it names.

The document outlives the program that wrote it.  A field may be added with a default and nobody is disturbed; whatever a reader of today would
misunderstand needs another FORMAT, and then `engine upgrade` refuses and the way is engine stop and start.
"""

from __future__ import annotations

import os

import msgspec

from engine.errors import StartError
from engine.process import HEARTBEAT_ROW_BYTES, SPOOL_PROTOCOL, ListenSocket
from engine.supervisor.configuration import Options
from engine.supervisor.plan import Plan
from engine.supervisor.slots import Slot

FORMAT = 1


class ChildState(msgspec.Struct, frozen=True, kw_only=True):
    """A slot and the process in it, if there is one."""

    role: str
    index: int
    row: int
    pid: int  # 0: none
    title: str = ""
    spawned_s: float | None = None
    ready: bool = False
    progress: int = 0
    progress_s: float = 0.0
    restarts: int = 0
    told: int = 0
    kill_at_s: float = 0.0
    retiring: bool = False
    sockets: list[ListenSocket] = []
    source_path: str = ""


class SpoolState(msgspec.Struct, frozen=True):
    """A spool beside the first one."""

    path: str
    lock_fd: int
    door_fd: int = -1  # of its spool process; -1: it is deliver-only


class TrafficState(msgspec.Struct, frozen=True, kw_only=True):
    """Sums so far, as Traffic has them: messages, recipients, bytes; in, then out."""

    gone: tuple[int, ...]
    seconds: list[tuple[int, ...]]
    minutes: list[tuple[int, ...]]
    until_minute: int
    top_minute: tuple[int, ...]
    top_hour: tuple[int, ...]
    top_connections: list[int]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that goes on: times are of the monotonic clock, descriptors are open in the process that reads this."""

    format: int = FORMAT
    version: str  # of the program that wrote it
    pid: int  # the supervisor's, which its successor keeps
    attempt: int  # how many upgrades have been asked for
    spool_protocol: int = SPOOL_PROTOCOL  # what the living processes speak with each other
    row_bytes: int = HEARTBEAT_ROW_BYTES
    options: Options
    generation: int
    config_fd: int  # memory file: the configuration in force
    rows: int
    lock_fd: int
    counters_fd: int
    door_fd: int
    heartbeat_fd: int
    lifeline: tuple[int, int]
    tls_fd: int  # memory file: keys and certificates
    spool_listener_fd: int
    control_listener_fd: int
    spool_path: str
    others: list[SpoolState]
    asking_gid: int
    log_path: str
    log_mode: int
    uid: int
    gid: int
    born_s: float
    turned_away: int
    traffic: TrafficState
    children: list[ChildState]

    @property
    def descriptors(self) -> list[int]:
        """Every descriptor that must survive."""
        found = {self.config_fd, self.lock_fd, self.counters_fd, self.heartbeat_fd, *self.lifeline, self.tls_fd}
        found |= {self.spool_listener_fd, self.control_listener_fd, self.door_fd}
        for other in self.others:
            found |= {other.lock_fd, other.door_fd}
        for child in self.children:
            found.update(listening.fd for listening in child.sockets)
        return sorted(found - {-1})


class _Head(msgspec.Struct):
    format: int
    version: str


def state(plan: Plan, version: str, attempt: int, turned_away: int, traffic: TrafficState) -> State:
    """What is to be left of *plan* as it stands now."""
    return State(
        version=version,
        pid=os.getpid(),
        attempt=attempt,
        options=plan.options,
        generation=plan.generation.number,
        config_fd=plan.generation.config_fd,
        rows=plan.rows,
        lock_fd=plan.lock_fd,
        counters_fd=plan.counters_fd,
        door_fd=plan.door_fd,
        heartbeat_fd=plan.heartbeat_fd,
        lifeline=plan.lifeline,
        spool_listener_fd=plan.spool_listener.fileno(),
        control_listener_fd=plan.control_listener.fileno(),
        tls_fd=plan.certificates.fd,
        spool_path=plan.spool_path,
        others=[
            SpoolState(held.path, held.lock_fd, held.door.fileno() if held.door is not None else -1) for held in plan.others.held.values()
        ],
        asking_gid=plan.others.asking_gid,
        log_path=plan.log_path,
        log_mode=plan.log_mode,
        uid=plan.uid,
        gid=plan.gid,
        born_s=plan.born_s,
        turned_away=turned_away,
        traffic=traffic,
        children=[_child(slot) for slot in plan.slots],
    )


def encode(document: State) -> bytes:
    """Bytes for `decode`."""
    return msgspec.msgpack.encode(document)


def decode(data: bytes) -> State:
    """The State that `encode` wrote; StartError for one of another format, or whose processes share memory in another layout."""
    try:
        head = msgspec.msgpack.decode(data, type=_Head)
        if head.format != FORMAT:
            raise StartError(f"the running engine {head.version} hands over its state in format {head.format}, this program reads format {FORMAT}")
        found = msgspec.msgpack.decode(data, type=State)
    except msgspec.MsgspecError as error:
        raise StartError(f"the running engine's state cannot be read: {error}") from error
    if found.row_bytes != HEARTBEAT_ROW_BYTES:
        raise StartError(f"the running engine {found.version} shares rows of {found.row_bytes} bytes, this program {HEARTBEAT_ROW_BYTES}")
    return found


def _child(slot: Slot) -> ChildState:
    return ChildState(**{name: getattr(slot, name) for name in ChildState.__struct_fields__})


def adopted(child: ChildState, module: str) -> Slot:
    """The slot that *child* was written from."""
    slot = Slot(child.role, child.index, module, child.row)
    for name in ChildState.__struct_fields__:
        setattr(slot, name, getattr(child, name))
    slot.worked = child.ready
    return slot
