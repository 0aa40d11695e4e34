"""What a child process is told at birth, and what it shares with the supervisor.  A leaf; starts no loop and no thread.

The supervisor writes a `Birth` into a memory file, executes a fresh interpreter, and the child (`engine.supervisor.child`) reads it, imports its
role's module, calls `enter` and then the module's `run(birth, config)`.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import signal
from collections.abc import Callable

import msgspec
import setproctitle

from engine.errors import EngineError, StartError
from engine.fastpath import shared_add

TRAFFIC_CELLS = 4  # messages, recipients, bytes, most connections at once: int64 each
HEARTBEAT_ROW_BYTES = 8 * (1 + TRAFFIC_CELLS)  # int64 progress, and the traffic
SHADOW_MARK = "shadow"  # the file in a spool directory that only a shadow may send from
SPOOL_PROTOCOL = 1  # of the frames between workers and spool process (engine.spool.wire)
FDS_PER_CONNECTION = 2  # its socket, and the file of a large body

_CODECS = ("ascii", "latin_1", "utf_8", "idna", "punycode", "utf_16", "base64_codec")

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def answers_socket(spool_path: str, name: str) -> str:
    """Where child *name* ("delivery/0") answers questions; it makes the socket itself."""
    return os.path.join(spool_path, "run", "ask", name.replace("/", "-"))


def spool_socket(spool_path: str) -> str:
    """Where the spool process of the spool *spool_path* answers."""
    return os.path.join(spool_path, "run", "spool.sock")


def load_codecs() -> None:
    """Import what Python imports when a codec is first used: by then the interpreter's files may have become unreadable for us."""
    for codec in _CODECS:
        importlib.import_module(f"encodings.{codec}")


class ListenSocket(msgspec.Struct, frozen=True):
    """A listening socket that the supervisor bound and holds; *port* is the real one, the offset included."""

    fd: int
    address: str
    port: int
    source: str = ""  # source=NAME of the smtp-listener


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a child gets: descriptors, paths and who to be.  Descriptors of -1 and uid or gid of -1 mean none."""

    role: str  # "listener", "spool", "delivery", "accounting"
    index: int
    module: str  # whose run(birth, config) is the process
    title: str  # for ps
    supervisor_pid: int
    row: int  # this child's row in the shared counters and heartbeats
    rows: int  # how many rows there are
    config_fd: int  # memory file: the encoded configuration Snapshot
    lifeline_fd: int  # read end of a pipe: end of file means that the supervisor is gone
    lock_fd: int = -1  # the inherited lock on the spool directory: keep it open
    counters_fd: int = -1  # memory file: int32 rows for total-max-smtp-in, then for total-max-smtp-out
    tls_fd: int = -1  # memory file: keys and certificates (engine.tls.files), for those who speak TLS
    door_fd: int = -1  # memory file: engine.door
    heartbeat_fd: int = -1  # memory file: HEARTBEAT_ROW_BYTES per row
    spool_listener_fd: int = -1  # the spool process only: the Unix socket it serves
    sockets: list[ListenSocket] = []  # this listener's own
    listening: list[tuple[str, int]] = []  # every address and port that the engine listens on, for loop detection
    shadow: tuple[str, int] | None = None  # address and port of the sink that every connection out goes to; None: to the world
    spool_path: str = ""
    source_path: str = ""  # a mover's: the spool that it empties
    source_lock_fd: int = -1  # a second lock to keep open: on that one, or, for another spool's process, on the first spool
    spool_socket: str = ""
    log_path: str = ""
    log_mode: int = 0o640  # of a log that this child is the first to make
    state_dir: str = ""  # absolute paths of state files lie below it; "" is none
    port_offset: int = 0
    workers: int = 1  # processes of this role
    delivery_workers: int = 1  # what config.slots() was asked with
    uid: int = -1
    gid: int = -1

    @property
    def name(self) -> str:
        """`listener/0`: as in logs, titles and status."""
        return f"{self.role}/{self.index}"

    def encode(self) -> bytes:
        """Bytes for `decode`."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes) -> Birth:
        """The Birth that `encode` wrote."""
        return msgspec.msgpack.decode(data, type=Birth)


def enter(birth: Birth) -> None:
    """Become the child that *birth* describes: title, user, death with the parent, no new privileges, private files.

    Call after every import: the interpreter's files may be unreadable afterwards.  Raises SystemExit if the supervisor is gone already, and
    StartError where a privilege cannot be dropped.
    """
    setproctitle.setproctitle(birth.title)
    if birth.uid >= 0 and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(birth.gid, birth.gid, birth.gid)
        os.setresuid(birth.uid, birth.uid, birth.uid)
        if 0 in os.getresuid() or 0 in os.getresgid():
            raise StartError(f"{birth.name} still has root's privileges after becoming uid {birth.uid}")
    end_with(birth.supervisor_pid)  # after setuid, which clears it
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o077)
    os.chdir("/")


def end_with(parent: int) -> None:
    """From now on this process is killed when *parent*, which started it, ends; SystemExit if it has ended already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(os.EX_UNAVAILABLE)


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero) != 0:
        raise StartError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


class Heartbeat:
    """This child's proof of progress, read by the supervisor's watchdog: call `beat` from the loop at least every few seconds.

    Nobody waits for another process within its loop, so that a loop which does not come round is the one that holds.
    """

    def __init__(self, birth: Birth) -> None:
        self._cells = heartbeat_cells(birth.heartbeat_fd, birth.rows)
        self._at = birth.row

    def beat(self) -> None:
        """The loop has come round once more.  The first beat tells the supervisor that this child is at work."""
        self._cells[self._at] += 1


def heartbeat_cells(fd: int, rows: int) -> memoryview:
    """The shared heartbeats as int64 cells, one per row."""
    return memoryview(mmap.mmap(fd, rows * HEARTBEAT_ROW_BYTES)).cast("q")[:rows]


def traffic_cells(fd: int, rows: int) -> memoryview:
    """The shared traffic as int64 cells, TRAFFIC_CELLS per row."""
    return memoryview(mmap.mmap(fd, rows * HEARTBEAT_ROW_BYTES)).cast("q")[rows:]


class Traffic:
    """What this process has taken in or sent, for the supervisor to add up.  The hot path counts in attributes of its own; a tick puts them here."""

    def __init__(self, birth: Birth) -> None:
        self._cells = traffic_cells(birth.heartbeat_fd, birth.rows)[birth.row * TRAFFIC_CELLS : (birth.row + 1) * TRAFFIC_CELLS]

    def put(self, messages: int, recipients: int, size_bytes: int) -> None:
        """So much since this process began."""
        cells = self._cells
        cells[0], cells[1], cells[2] = messages, recipients, size_bytes

    def top(self, connections: int) -> None:
        """So many connections were open at once, over all processes."""
        if connections > self._cells[3]:
            self._cells[3] = connections


class SharedCount:
    """A count with one limit over all processes, exact: each process adds to its own row and sums them all."""

    def __init__(self, buffer: memoryview, row: int, limit: int, on_top: Callable[[int], None] | None = None) -> None:
        """*buffer*: one int32 per process, shared; *limit* 0 is none; *on_top* hears of every new highest sum that this process has made."""
        self._buffer = buffer
        self._row = row
        self.limit = limit
        self._top = 0
        self._on_top = on_top

    def take(self) -> bool:
        """Count one more if that stays within the limit.  Two takers at the limit may both be refused, never both be let in."""
        total: int = shared_add(self._buffer, self._row, 1)
        if self.limit and total > self.limit:
            shared_add(self._buffer, self._row, -1)
            return False
        if total > self._top:
            self._top = total
            if self._on_top is not None:
                self._on_top(total)
        return True

    def give(self) -> None:
        """One less of ours."""
        if self.mine() <= 0:
            raise EngineError("a shared count was given back more often than it was taken")
        shared_add(self._buffer, self._row, -1)

    def total(self) -> int:
        """How many all processes hold."""
        total: int = shared_add(self._buffer, self._row, 0)
        return total

    def mine(self) -> int:
        """How many this process holds."""
        return int.from_bytes(self._buffer[self._row * 4 : self._row * 4 + 4], "little", signed=True)


def counter_rows(fd: int, rows: int) -> tuple[memoryview, memoryview]:
    """The two shared counters, (total-max-smtp-in, total-max-smtp-out), as bytes of int32 rows."""
    view = memoryview(mmap.mmap(fd, rows * 8))
    return view[: rows * 4], view[rows * 4 :]


def incoming(birth: Birth, limit: int) -> SharedCount:
    """The count of open SMTP sessions over all listeners; *limit* is total-max-smtp-in."""
    return SharedCount(counter_rows(birth.counters_fd, birth.rows)[0], birth.row, limit, _on_top(birth))


def outgoing(birth: Birth, limit: int) -> SharedCount:
    """The count of open connections over all delivery slots; *limit* is total-max-smtp-out."""
    return SharedCount(counter_rows(birth.counters_fd, birth.rows)[1], birth.row, limit, _on_top(birth))


def _on_top(birth: Birth) -> Callable[[int], None] | None:
    return Traffic(birth).top if birth.heartbeat_fd >= 0 else None
