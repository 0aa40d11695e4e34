"""The parent's loop: waits for signals, heartbeats and questions; starts, watches and ends children.  Nothing clever in a signal handler."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import setproctitle

from engine import __version__
from engine.clock import monotonic_s
from engine.control import Child, Status, Stopping
from engine.log import EventLog
from engine.process import Birth, ListenSocket, answers_socket, counter_rows, heartbeat_cells
from engine.supervisor import spooldir
from engine.supervisor.desk import Desk
from engine.supervisor.slots import Slot, Timing
from engine.supervisor.spawn import spawn
from engine.supervisor.systemd import Notifier
from engine.supervisor.takeover import Takeover

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
# Listeners first, so that no more comes in; the spool process last, since the others' last words are operations to it.
STOP_ORDER = ("listener", "mover", "delivery", "sink", "accounting", "spool")
TICK_S = 1.0
BOOTING_TICK_S = 0.05  # while somebody has not beaten yet: first heartbeats are looked for, not sent


@dataclass(slots=True, kw_only=True)
class Plan:
    """All that is decided before the first child starts."""

    slots: list[Slot]  # in start order
    config_fd: int
    lock_fd: int
    counters_fd: int
    heartbeat_fd: int
    spool_path: str
    spool_listener: socket.socket
    control_listener: socket.socket
    log_path: str
    shutdown_timeout_s: float
    log_mode: int = 0o640
    delivery_workers: int = 1  # what config.slots() was asked with
    listening: list[tuple[str, int]] = field(default_factory=list)
    state_dir: str = ""
    port_offset: int = 0
    uid: int = -1
    gid: int = -1
    timing: Timing = field(default_factory=Timing)


class Supervisor:
    """Runs a Plan until it is told to stop; holds no LMDB, no event loop, no thread."""

    def __init__(self, plan: Plan, say: Callable[[str], None], notifier: Notifier | None = None) -> None:
        """*say* prints one line for whoever started us; *notifier*: the service manager's, if it is not the environment's."""
        self.plan = plan
        self.log = EventLog(plan.log_path, "supervisor/0", (plan.uid, plan.gid), plan.log_mode)
        self.stopping = False
        self._say = say
        self._notifier = notifier or Notifier()
        self._slots = plan.slots
        self._born_s = monotonic_s()
        self._exit_code = 0
        self._announced = False
        self._hurried = False
        self._stop_by_s = 0.0
        self._lifeline = os.pipe2(os.O_CLOEXEC)
        self._beats = heartbeat_cells(plan.heartbeat_fd, len(plan.slots))
        self._counts = tuple(view.cast("i") for view in counter_rows(plan.counters_fd, len(plan.slots)))
        self._selector = selectors.DefaultSelector()
        self._takeover = Takeover(self._selector)
        self._desk = Desk(self._selector, plan.control_listener, {"status": lambda: (self.status(), False), "stop": self._asked_to_stop})
        self._signals = _signals_into(self._selector, self._on_signal)

    def run(self) -> int:
        """Until every child has ended after a stop; the exit code."""
        setproctitle.setproctitle(f"engine: supervisor {self.plan.spool_path}")
        self.log.event("starts", f"version={__version__} pid={os.getpid()} spool={self.plan.spool_path} children={len(self._slots)}")
        while True:
            now_s = monotonic_s()
            self._reap(now_s)
            if self.stopping and not any(slot.pid for slot in self._slots):
                break
            self._observe(now_s)
            self._respawn(now_s)
            self._retire(now_s)
            self._mind_doors(now_s)
            self._desk.close_idle(now_s)
            self._notifier.beat(now_s)
            self.log.flush()
            for key, events in self._selector.select(self._until_next(monotonic_s())):
                key.data(events)
        return self._end()

    # --- children ------------------------------------------------------------------------------------------------------------------

    def _reap(self, now_s: float) -> None:
        """Wait for every process that has ended; only then may its successor start and its counts be taken back."""
        for slot in self._slots:
            if not slot.pid:
                continue
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if not pid:
                continue
            code = os.waitstatus_to_exitcode(status)
            lived_s = slot.age_s(now_s)
            for counts in self._counts:
                counts[slot.row] = 0
            was_ready = slot.ready
            slot.ended(now_s, self.plan.timing)
            how = f"signal={_signal_name(-code)}" if code < 0 else f"exit={code}"
            again = "" if self.stopping else f" next start in {max(0.0, slot.not_before_s - now_s):.1f} s"
            self.log.event("ended", f"{slot.name} pid={pid} {how} lived={lived_s:.1f}s{again}")
            if code == os.EX_CONFIG and not was_ready and not self._announced:
                self._give_up(slot)

    def _give_up(self, slot: Slot) -> None:
        """A child refused before the engine was ever ready: whoever typed the command reads the reason better than a log."""
        self._say(f"{slot.name} refuses to start; stopping")
        self._exit_code = os.EX_CONFIG
        self.stop()
        self._hurry()

    def _observe(self, now_s: float) -> None:
        """Read the heartbeats; kill who holds its loop."""
        for slot in self._slots:
            if not slot.pid:
                continue
            if slot.observe(self._beats[slot.row], now_s):
                self.log.event("works", f"{slot.name} pid={slot.pid} after {slot.age_s(now_s):.1f} s")
            if slot.hung(now_s, self.plan.timing):
                self.log.event("hung", f"{slot.name} pid={slot.pid} made no progress for {now_s - slot.progress_s:.0f} s: killed")
                slot.progress_s = now_s
                _signal(slot.pid, signal.SIGKILL)
        if not self._announced and all(slot.ready for slot in self._slots):
            self._announced = True
            where = " ".join(f"{address}:{port}" for address, port in self.plan.listening)
            self.log.event("ready", where)
            self._say(f"ready: {where}")
            self._notifier.ready(f"{len(self._slots)} processes, listening on {where}")

    def _respawn(self, now_s: float) -> None:
        """Start every slot that is wanted, not living and not throttled; the others once the spool process has worked for the first time."""
        if self.stopping:
            return
        spool_works = all(slot.worked for slot in self._slots if slot.role == "spool")
        changed = False
        for slot in self._slots:
            if slot.pid or slot.not_before_s > now_s or not (spool_works or slot.role == "spool"):
                continue
            self._beats[slot.row] = 0
            try:
                slot.started(spawn(self._birth(slot)), now_s)
            except OSError as error:
                slot.not_before_s = now_s + TICK_S
                self.log.event("cannot-start", f"{slot.name} {error.strerror}")
                continue
            changed = True
            self.log.event("started", f"{slot.name} pid={slot.pid} restarts={slot.restarts}")
        if changed:
            self._record()

    def _record(self) -> None:
        """Write down our processes; without the record a later start waits longer and refuses, so a full disk is only logged."""
        processes = [(spooldir.SUPERVISOR, os.getpid())] + [(slot.name, slot.pid) for slot in self._slots if slot.pid]
        try:
            spooldir.record(self.plan.spool_path, processes)
        except OSError as error:
            self.log.event("cannot-record", f"{self.plan.spool_path}: {error.strerror}")

    def _birth(self, slot: Slot) -> Birth:
        plan = self.plan
        return Birth(
            role=slot.role,
            index=slot.index,
            module=slot.module,
            title=f"engine: {slot.title or slot.name}",
            supervisor_pid=os.getpid(),
            row=slot.row,
            rows=len(self._slots),
            config_fd=plan.config_fd,
            lifeline_fd=self._lifeline[0],
            lock_fd=plan.lock_fd,
            counters_fd=plan.counters_fd,
            heartbeat_fd=plan.heartbeat_fd,
            spool_listener_fd=plan.spool_listener.fileno() if slot.role == "spool" else -1,
            sockets=slot.sockets,
            listening=plan.listening,
            spool_path=plan.spool_path,
            source_path=slot.source_path,
            source_lock_fd=slot.source_lock_fd,
            spool_socket=spooldir.spool_socket(plan.spool_path),
            log_path=plan.log_path,
            state_dir=plan.state_dir,
            port_offset=plan.port_offset,
            workers=sum(other.role == slot.role for other in self._slots),
            delivery_workers=plan.delivery_workers,
            uid=plan.uid,
            gid=plan.gid,
        )

    # --- listening sockets ---------------------------------------------------------------------------------------------------------

    def _mind_doors(self, now_s: float) -> None:
        """Answer on the sockets of slots that nobody serves, and stop when somebody does."""
        for slot in self._slots:
            if not slot.sockets:
                continue
            at_s = slot.unattended_at(self._born_s, self.plan.timing)
            wanted = at_s is not None and at_s <= now_s and not self.stopping
            if wanted == self._takeover.holds(slot.name):
                continue
            if wanted:
                self._takeover.begin(slot.name, slot.sockets)
                self.log.event("takeover", f"{slot.name} has no working listener: its clients get 421")
            else:
                self._takeover.end(slot.name)
                self.log.event("handback", slot.name)

    # --- ending --------------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to drain; once more: end at once."""
        if self.stopping:
            self._hurry()
            return
        self.stopping = True
        self._stop_by_s = monotonic_s() + self.plan.shutdown_timeout_s
        self.log.event("stopping", f"within {self.plan.shutdown_timeout_s:g} s")
        self._notifier.stopping(self.plan.shutdown_timeout_s + len(STOP_ORDER) * self.plan.timing.least_drain_s)
        for slot in self._slots:  # refused connections go elsewhere; what is in the listeners' own accept queues they still serve
            self._takeover.end(slot.name)
            _close(slot.sockets)
            slot.sockets = []

    def _hurry(self) -> None:
        if self._hurried:
            return
        self._hurried = True
        self.log.event("stopping", "at once")
        for slot in self._slots:
            if slot.pid:
                self._tell(slot, monotonic_s() + self.plan.timing.hurry_s)

    def _retire(self, now_s: float) -> None:
        """While stopping: tell the next stage to drain when the one before has ended; who is past its deadline is told to stop, then killed."""
        if self.stopping and not self._hurried:
            living = [slot for slot in self._slots if slot.pid]
            stage = [slot for role in STOP_ORDER for slot in living if slot.role == role]
            for slot in stage:
                if slot.role == stage[0].role and not slot.told:
                    self._tell(slot, max(self._stop_by_s, now_s + self.plan.timing.least_drain_s))
        for slot in self._slots:
            if not slot.pid or not slot.kill_at_s or slot.kill_at_s > now_s:
                continue
            if slot.told == 1:
                self.log.event("hurried", f"{slot.name} pid={slot.pid} has not drained in time: it is told to stop")
                self._tell(slot, now_s + self.plan.timing.hurry_s)
            else:
                self.log.event("killed", f"{slot.name} pid={slot.pid} did not end in time")
                slot.kill_at_s = now_s + TICK_S  # once more, should the kernel take its time
                _signal(slot.pid, signal.SIGKILL)

    def _tell(self, slot: Slot, kill_at_s: float) -> None:
        slot.told += 1
        slot.kill_at_s = kill_at_s
        _signal(slot.pid, signal.SIGTERM)

    def _end(self) -> int:
        """Everybody is gone: leave nothing behind that looks like a running engine."""
        self.log.event("ended", f"supervisor pid={os.getpid()} exit={self._exit_code}")
        self.log.close()
        run = os.path.join(self.plan.spool_path, spooldir.RUN)
        for name in (spooldir.PIDS, spooldir.SPOOL_SOCKET, spooldir.CONTROL_SOCKET):  # while they are surely ours
            try:
                os.unlink(os.path.join(run, name))
            except FileNotFoundError:
                continue
        shutil.rmtree(os.path.dirname(answers_socket(self.plan.spool_path, "")), ignore_errors=True)
        signal.set_wakeup_fd(-1)
        self.plan.spool_listener.close()
        os.close(self.plan.lock_fd)  # before the desk closes: who waited for our end may start the next engine
        self._desk.close()
        self._selector.close()
        return self._exit_code

    # --- signals and questions -----------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stop()
        elif number == signal.SIGUSR1:
            self.log.reopen()
            self.log.event("reopened", "the log (the other processes do so by themselves, within a second)")
        elif number == signal.SIGHUP:
            self.log.event("ignored", "SIGHUP: a changed configuration applies after engine stop and start")

    def _asked_to_stop(self) -> tuple[object, bool]:
        self.stop()
        return Stopping(os.getpid(), max(0.0, self._stop_by_s - monotonic_s())), True

    def status(self) -> Status:
        """What `engine status` shows."""
        now_s = monotonic_s()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(now_s - self._born_s, 1),
            ready=all(slot.ready for slot in self._slots) and not self.stopping,
            stopping=self.stopping,
            spool=self.plan.spool_path,
            spool_socket=spooldir.spool_socket(self.plan.spool_path),
            listening=[f"{address}:{port}" for address, port in self.plan.listening],
            turned_away=self._takeover.answered,
            children=[self._child(slot, now_s) for slot in self._slots],
        )

    def _child(self, slot: Slot, now_s: float) -> Child:
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
            smtp_in=self._counts[0][slot.row],
            smtp_out=self._counts[1][slot.row],
            title=slot.title,
        )

    def _until_next(self, now_s: float) -> float:
        """Seconds to sleep when nothing happens."""
        if any(slot.pid and not slot.ready for slot in self._slots):
            return BOOTING_TICK_S
        times = [slot.kill_at_s for slot in self._slots if slot.pid and slot.kill_at_s]
        if not self.stopping:
            times += [slot.not_before_s for slot in self._slots if not slot.pid]
        for slot in self._slots:
            at_s = slot.unattended_at(self._born_s, self.plan.timing) if slot.sockets else None
            if at_s is not None and not self._takeover.holds(slot.name):
                times.append(at_s)
        return max(0.0, min([TICK_S] + [at_s - now_s for at_s in times]))


def _signals_into(selector: selectors.BaseSelector, handle: Callable[[int], None]) -> tuple[socket.socket, socket.socket]:
    """Make signals readable like messages: the interpreter writes their numbers into a socket of the loop."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)

    def read(_events: int) -> None:
        try:
            numbers = reading.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            handle(number)

    selector.register(reading, selectors.EVENT_READ, read)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)
    return reading, writing


def _signal_name(number: int) -> str:
    """`SIGKILL`; real-time signals have no name of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _signal(pid: int, number: int) -> None:
    """Signal a child that we have not waited for yet, so its pid is still its own."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # gone: the next turn waits for it
        return


def _close(sockets: Iterable[ListenSocket]) -> None:
    for listening in sockets:
        os.close(listening.fd)
