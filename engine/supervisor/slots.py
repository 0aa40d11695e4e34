"""A slot: one child that should live, what is known about the process in it, and when it may be started again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.process import ListenSocket

if TYPE_CHECKING:
    from engine.supervisor.generation import Generation


@dataclass(frozen=True, slots=True)
class Timing:
    """Every patience of the supervisor, in seconds."""

    takeover_s: float = 1.0  # a listening socket whose worker is down longer is answered by the supervisor
    boot_grace_s: float = 10.0  # ... but a worker that is just starting gets this long
    healthy_s: float = 10.0  # a child that lived this long has not crashed at its start
    first_backoff_s: float = 0.1
    longest_backoff_s: float = 30.0
    hung_s: float = 60.0  # without progress: killed
    boot_s: float = 300.0  # without a first heartbeat: killed (the spool process may have much to recover)
    least_drain_s: float = 5.0  # what a stage of the shutdown gets however little of the time is left
    trial_s: float = 60.0  # for the installed program to say that it could take over
    hurry_s: float = 2.0  # from the second SIGTERM to SIGKILL


@dataclass(slots=True, eq=False)
class Slot:
    """One child to keep alive; the fields below *state* change as its processes come and go."""

    role: str
    index: int
    module: str
    row: int
    title: str = ""
    sockets: list[ListenSocket] = field(default_factory=list)
    source_path: str = ""  # the spool, not the first one, that it serves or empties
    generation: Generation | None = None  # the configuration that its next process is born with
    basis: tuple[object, ...] = ()  # what its process lives by: see generation.Wanted
    after: list[Slot] = field(default_factory=list)  # predecessors: nothing is started here before each of them has been waited for

    # state
    pid: int = 0  # 0: no process
    spawned_s: float | None = None  # when its last process was started
    down_since_s: float | None = None  # when its last process that worked, or else its first one, ended
    ready: bool = False  # its process has beaten
    worked: bool = False  # so has one of its processes, ever
    progress: int = 0
    progress_s: float = 0.0
    crashes: int = 0  # in a row, each soon after its start
    not_before_s: float = 0.0
    restarts: int = 0
    told: int = 0  # SIGTERMs sent
    retiring: bool = False  # its process is the last one: a new configuration has no use for it
    kill_at_s: float = 0.0  # 0: no deadline

    @property
    def name(self) -> str:
        """`listener/0`."""
        return f"{self.role}/{self.index}"

    def age_s(self, now_s: float) -> float:
        """Seconds since its last process was started."""
        return 0.0 if self.spawned_s is None else now_s - self.spawned_s

    def started(self, pid: int, now_s: float) -> None:
        """A process of ours is in the slot."""
        if self.spawned_s is not None:
            self.restarts += 1
        self.pid = pid
        self.spawned_s = self.progress_s = now_s
        self.ready = False
        self.progress = self.told = 0
        self.kill_at_s = 0.0

    def ended(self, now_s: float, timing: Timing) -> None:
        """Its process was waited for: decide when the next may start."""
        if self.ready or self.down_since_s is None:
            self.down_since_s = now_s
        if self.ready and self.age_s(now_s) >= timing.healthy_s:
            self.crashes = 0
            self.not_before_s = now_s
        else:
            self.crashes += 1
            self.not_before_s = now_s + min(timing.longest_backoff_s, timing.first_backoff_s * 2 ** min(self.crashes - 1, 20))
        self.pid = 0
        self.ready = False
        self.kill_at_s = 0.0

    def observe(self, progress: int, now_s: float) -> bool:
        """Note the child's heartbeat; whether this is its first."""
        if progress == self.progress:
            return False
        self.progress, self.progress_s = progress, now_s
        first = not self.ready
        self.ready = self.worked = True
        return first

    def hung(self, now_s: float, timing: Timing) -> bool:
        """Whether the process holds its loop: it makes no progress."""
        patience_s = timing.hung_s if self.ready else timing.boot_s
        return bool(self.pid) and not self.told and now_s - self.progress_s > patience_s

    def unattended_at(self, born_s: float, timing: Timing) -> float | None:
        """When its listening sockets must be taken over; None while a worker serves them.  *born_s*: when the supervisor began."""
        if self.ready:
            return None
        if self.spawned_s is None:
            return born_s + timing.boot_grace_s
        if (self.pid and not self.crashes) or self.down_since_s is None:
            return self.spawned_s + timing.boot_grace_s
        return self.down_since_s + timing.takeover_s
