"""The parent's loop: waits for signals, heartbeats and questions; starts, watches and ends children.  Nothing clever in a signal handler."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import sys
from collections.abc import Callable, Collection

import msgspec
import setproctitle

from engine import __version__
from engine.clock import monotonic_s
from engine.control import Reloaded, Status, Stopping, Upgrade, tell_spool
from engine.door import Door
from engine.errors import RemoteProtocolError, StartError
from engine.log import EventLog, escape
from engine.process import SPOOL_PROTOCOL, ListenSocket, answers_socket, counter_rows, heartbeat_cells, spool_socket, traffic_cells
from engine.supervisor import certificates, ground, signals, spooldir
from engine.supervisor.births import birth
from engine.supervisor.desk import Answer, Desk
from engine.supervisor.generation import Generation, Succession, Wanted, free, other_spools, succession, wanted
from engine.supervisor.plan import Plan
from engine.supervisor.program import become
from engine.supervisor.reload import examine
from engine.supervisor.renewal import STOP_ORDER, Renewal, renewal
from engine.supervisor.slots import Slot
from engine.supervisor.sockets import bind
from engine.supervisor.spawn import spawn
from engine.supervisor.state import State, state
from engine.supervisor.status import describe
from engine.supervisor.systemd import Notifier
from engine.supervisor.takeover import Takeover
from engine.supervisor.traffic import Traffic
from engine.supervisor.upgrade import Upgrading

TICK_S = 1.0
BOOTING_TICK_S = 0.05  # while somebody has not beaten yet: first heartbeats are looked for, not sent


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
        self._exit_code = 0
        self._announced = False
        self._hurried = False
        self._reloading = False
        self._renewal = Renewal()  # the order in which an upgrade's old processes go
        self._upgrading = Upgrading(self.log, self._state, plan.timing.trial_s)
        self._stop_by_s = 0.0
        self._beats = heartbeat_cells(plan.heartbeat_fd, plan.rows)
        self._counts = tuple(view.cast("i") for view in counter_rows(plan.counters_fd, plan.rows))
        self._door = Door(plan.door_fd, plan.rows, 0)
        self._door.assign(plan.generation.config.source_groups)
        self._traffic = Traffic(traffic_cells(plan.heartbeat_fd, plan.rows), self.plan.born_s)
        self._selector = selectors.DefaultSelector()
        self._takeover = Takeover(self._selector)
        answers: dict[str, Answer] = {
            "status": lambda: (self.status(), False),
            "stop": self._asked_to_stop,
            "diff": lambda: (self.reload(only_look=True), False),
            "reload": lambda: (self.reload(), False),
            "try-upgrade": lambda: (self.upgrade(only_try=True), False),
            "upgrade": lambda: (self.upgrade(), False),
        }
        self._desk = Desk(self._selector, plan.control_listener, answers)
        self._signals = signals.into(self._selector, self._on_signal)

    def run(self) -> int:
        """Until every child has ended after a stop; the exit code."""
        setproctitle.setproctitle(f"engine: supervisor {self.plan.spool_path}")
        self.log.event("starts", f"version={__version__} pid={os.getpid()} spool={self.plan.spool_path} children={len(self._slots)}")
        while True:
            now_s = monotonic_s()
            self._reap(now_s)
            self._succeed(now_s)
            if self._upgrading.turn(now_s):
                self._become_successor()
            if self.stopping and not any(slot.pid for slot in self._slots):
                break
            self._observe(now_s)
            self._respawn(now_s)
            self._retire(now_s)
            self._mind_doors(now_s)
            self.plan.certificates.look(now_s, self.log)
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
            self._door.reclaim(slot.row)
            self._traffic.ended(slot.role, slot.row)
            was_ready = slot.ready
            slot.ended(now_s, self.plan.timing)
            how = f"signal={signals.name(-code)}" if code < 0 else f"exit={code}"
            again = "" if self.stopping or slot.retiring else f" next start in {max(0.0, slot.not_before_s - now_s):.1f} s"
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
        """Read the heartbeats and the traffic; kill who holds its loop."""
        self._traffic.sample(self._rows(), now_s)
        for slot in self._slots:
            if not slot.pid:
                continue
            if slot.observe(self._beats[slot.row], now_s):
                self.log.event("works", f"{slot.name} pid={slot.pid} after {slot.age_s(now_s):.1f} s")
            if slot.hung(now_s, self.plan.timing):
                self.log.event("hung", f"{slot.name} pid={slot.pid} made no progress for {now_s - slot.progress_s:.0f} s: killed")
                slot.progress_s = now_s
                signals.send(slot.pid, signal.SIGKILL)
        if not self._announced and all(slot.ready for slot in self._slots):
            self._announced = True
            where = " ".join(self.plan.listening)
            self.log.event("ready", where)
            self._say(f"ready: {where}")
            self._notifier.ready(f"{len(self._slots)} processes, listening on {where}")

    def _respawn(self, now_s: float) -> None:
        """Start every slot that is wanted, not living and not throttled: once the first spool has worked, and listeners once any spool has.

        While stopping only spool processes, as long as others live whose last words are operations to them: what is not settled is sent again.
        """
        if self._hurried or (self.stopping and not any(slot.pid and slot.role in STOP_ORDER[:-1] for slot in self._slots)):
            return
        plan, spools = self.plan, [slot for slot in self._slots if slot.role == "spool" and not slot.retiring]
        first_works, one_works = all(slot.worked for slot in spools if not slot.source_path), any(slot.worked for slot in spools)
        changed = False
        for slot in self._slots:
            if not self._may_start(slot) or slot.not_before_s > now_s:
                continue
            if slot.role != "spool" and (self.stopping or not (first_works or (one_works and slot.role == "listener"))):
                continue
            self._beats[slot.row] = 0
            try:
                slot.started(spawn(birth(plan, slot)), now_s)
            except OSError as error:
                slot.not_before_s = now_s + TICK_S
                self.log.event("cannot-start", f"{slot.name} {error.strerror}")
                continue
            changed = True
            self.log.event("started", f"{slot.name} pid={slot.pid} restarts={slot.restarts}")
        if changed:
            self._record()

    def _may_start(self, slot: Slot) -> bool:
        """Whether a process is wanted there and missing, and no predecessor of another configuration lives."""
        return not slot.pid and not slot.retiring and not any(before in self._slots for before in slot.after)

    def _record(self) -> None:
        """Write down our processes; without the record a later start waits longer and refuses, so a full disk is only logged."""
        processes = [(spooldir.SUPERVISOR, os.getpid())] + [(slot.name, slot.pid) for slot in self._slots if slot.pid]
        try:
            spooldir.record(self.plan.spool_path, processes)
            self.plan.others.record(processes)
        except OSError as error:
            self.log.event("cannot-record", f"{self.plan.spool_path}: {error.strerror}")

    # --- listening sockets ---------------------------------------------------------------------------------------------------------

    def _mind_doors(self, now_s: float) -> None:
        """Answer on the sockets of slots that nobody serves, and stop when somebody does."""
        for slot in self._slots:
            if not slot.sockets or slot.retiring or (not slot.ready and self._others_serve()):
                continue
            at_s = slot.unattended_at(self.plan.born_s, self.plan.timing)
            wanted = at_s is not None and at_s <= now_s and not self.stopping
            if wanted == self._takeover.holds(slot.name):
                continue
            if wanted:
                self._takeover.begin(slot.name, slot.sockets)
                self.log.event("takeover", f"{slot.name} has no working listener: its clients get 421")
            else:
                self._takeover.end(slot.name)
                self.log.event("handback", slot.name)

    def _others_serve(self) -> bool:
        """Whether listeners of an older configuration still take what comes in."""
        return any(slot.retiring and slot.role == "listener" and slot.ready and not slot.told for slot in self._slots)

    def _held(self) -> dict[int, ListenSocket]:
        return {listening.fd: listening for slot in self._slots for listening in slot.sockets}

    def _keep_sockets(self, wanted: Collection[int]) -> None:
        """Close every listening socket that is not *wanted*: its port is refused as soon as no listener has it any more."""
        for fd in self._held().keys() - set(wanted):
            os.close(fd)
        for slot in self._slots:
            slot.sockets = [listening for listening in slot.sockets if listening.fd in wanted]

    # --- another configuration -----------------------------------------------------------------------------------------------------

    def reload(self, only_look: bool = False) -> Reloaded:
        """Read the configuration again and begin to apply it, or *only_look* at what that would change.  Whatever is wrong, everything runs on."""
        if self.stopping:
            raise RemoteProtocolError("the engine is stopping: nothing is reloaded")
        plan = self.plan
        try:
            answer, now = examine(plan.generation, plan.options, plan.workers)
            if now is not None and only_look:
                os.close(now.config_fd)
            elif now is not None:
                answer = self._change_to(now, answer)
        except Exception as error:  # noqa: BLE001 - no configuration, whatever it trips over, stops a running engine
            answer = Reloaded(plan.options.conf, False, [f"{type(error).__name__}: {error}"], [])
        if not only_look:
            for line in answer.problems if not answer.good else []:
                self.log.event("reload", escape(f"refused: {line}", 1000))
            for change in answer.changes if answer.good else []:
                self.log.event("reload", escape(f"generation={answer.generation} {change}", 1000))
            if answer.good and not answer.generation:
                self.log.event("reload", "nothing has changed")
        return answer

    def _change_to(self, now: Generation, answer: Reloaded) -> Reloaded:
        """Put *now* in force: all that can fail comes first."""
        server, plan, change = now.config.server, self.plan, succession(self._slots, now)
        try:
            if len(self._slots) + len(change.come) > plan.rows:
                raise StartError(f"{len(self._slots)} processes live and {len(change.come)} more would be too many: wait until some have drained")
            ground.descriptors(server.total_max_smtp_in, server.total_max_smtp_out, len(now.where) * now.listeners)
            ground.accounting(now.config.acct_files, plan.uid, plan.gid)
            pems = certificates.read(now.config)
            self._door.assign(now.config.source_groups)
            with plan.others.changed(other_spools(now)):
                doors = self._bind_for(now, {child.role for child in change.come})
        except (StartError, OSError) as error:
            os.close(now.config_fd)
            return msgspec.structs.replace(answer, good=False, problems=[str(error)])
        os.close(plan.generation.config_fd)  # those that go have it themselves, and are not started again
        plan.generation = now
        plan.certificates.replace(pems, now.config)
        self._notifier.reloading()
        for spool in now.config.accepting_spools:
            tell_spool(spool_socket(spool.path), {"q": "room", "min_free_bytes": spool.min_free_space_bytes})
        coming = self._replace(change, doors)
        return msgspec.structs.replace(answer, generation=now.number, stopping=[slot.name for slot in change.go], starting=coming)

    def _replace(self, change: Succession, doors: dict[str, list[list[ListenSocket]]]) -> list[str]:
        """Begin to put the generation in force in the others' place; the names of those that come."""
        now = self.plan.generation
        for slot in change.stay:
            slot.generation = now
        for slot in change.go:
            slot.retiring = True
        for child in change.come:
            new = self._slot_for(child, now)
            if child.role in doors:
                new.sockets = doors[child.role][child.index]
            self._slots.append(new)
        self._reloading = True
        self._succeed(monotonic_s())
        return [slot.name for slot in self._slots if slot.generation is now and slot not in change.stay]

    def _bind_for(self, now: Generation, roles: set[str]) -> dict[str, list[list[ListenSocket]]]:
        """The sockets of the new children of *roles*, by role and index; StartError, and then none is left behind."""
        held = self._held()
        doors: dict[str, list[list[ListenSocket]]] = {}
        try:
            for role, where, count in (("listener", now.where, now.listeners), ("sink", now.sink, 1)):
                if role in roles:
                    doors[role] = bind(where, count, list(held.values()))
        except StartError:
            for fd in {listening.fd for rows in doors.values() for row in rows for listening in row} - held.keys():
                os.close(fd)
            raise
        return doors

    def _slot_for(self, child: Wanted, now: Generation) -> Slot:
        """A slot without a process.  Listeners come beside the old ones, so under other numbers; others after them, under their own.  What serves
        a spool has its number for as long as that spool is there.
        """
        index, after = child.index, [slot for slot in self._slots if slot.retiring and (slot.role, slot.source_path) == (child.role, child.source)]
        if child.source and after:
            index = after[0].index
        elif child.role == "listener" or child.source:
            index = free(slot.index for slot in self._slots if slot.role == child.role)
        if child.role == "listener":
            after = []
        row = free(slot.row for slot in self._slots)
        title = f"{child.role}/{index} {child.source}" if child.source else child.title
        module = self.plan.modules[child.role]
        return Slot(child.role, index, module, row, title, source_path=child.source, generation=now, basis=child.basis, after=after)

    def _succeed(self, now_s: float) -> None:
        """Take a reload further: who is not needed any more is told to drain, who has ended is forgotten."""
        if not self._reloading:
            return
        relieved = self._renewal.apart or all(slot.ready for slot in self._slots if slot.role == "listener" and not slot.retiring)
        if relieved:
            self._keep_sockets({listening.fd for slot in self._slots if not slot.retiring for listening in slot.sockets})
        for slot in [slot for slot in self._slots if slot.retiring]:
            if not slot.pid:
                self._takeover.end(slot.name)
                self._slots.remove(slot)
            elif not slot.told and (slot.role != "listener" or relieved) and self._renewal.may_go(slot, self._slots):
                self._tell(slot, now_s + self.plan.shutdown_timeout_s)
        self.plan.others.keep({slot.source_path for slot in self._slots})
        if not self.stopping and all(slot.ready and not slot.retiring for slot in self._slots):
            self._reloading = False
            if self._renewal.order:
                self._renewal = Renewal()
                self._upgrading.done()
            self.log.event("reloaded", f"generation={self.plan.generation.number} listening on {' '.join(self.plan.listening)}")
            self._notifier.ready(f"{len(self._slots)} processes, listening on {' '.join(self.plan.listening)}")

    # --- another program -----------------------------------------------------------------------------------------------------------

    def upgrade(self, only_try: bool = False) -> Upgrade:
        """Ask the installed program whether it could take over, and unless we *only_try* become it if it says so."""
        if self.stopping or not self._announced:
            raise RemoteProtocolError(f"the engine is {'stopping' if self.stopping else 'starting'}: nothing is upgraded")
        if self._renewal.apart and not only_try:  # a third program could not tell whose words the processes that are left understand
            raise RemoteProtocolError("an upgrade still ends processes that the new ones do not understand: ask again when it is done")
        return self._upgrading.begin(only_try)

    def _state(self) -> State:
        return state(self.plan, __version__, self._upgrading.told.attempt, self._takeover.answered, self._traffic.save())

    def _become_successor(self) -> None:
        """Returns only if that fails: then everything runs on."""
        self._notifier.reloading()
        self.log.event("upgrade", f"{__version__} -> {self._upgrading.told.after}: executes {sys.executable}")
        self.log.flush()
        try:
            become(self._state(), self._notifier.taken)
        except OSError as error:
            self._upgrading.refuse([f"cannot execute {sys.executable}: {error.strerror}"])
            self._notifier.ready("running on after an upgrade that was refused")

    def take_over(self, before: State) -> None:
        """Go on for the program that left *before* and our plan's slots: want every process anew.  StartError, OSError."""
        self._announced = True
        self._takeover.answered = before.turned_away
        self._traffic.resume(before.traffic)
        self._renewal = renewal(before.spool_protocol, SPOOL_PROTOCOL)
        self._upgrading.took_over(before)
        come = wanted(self.plan.generation)
        doors = self._bind_for(self.plan.generation, {child.role for child in come})
        self._replace(Succession([], [slot for slot in self._slots if not slot.retiring], come), doors)
        signals.unblock()

    # --- ending --------------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to drain; once more: end at once."""
        if self.stopping:
            self._hurry()
            return
        self.stopping = True
        self._upgrading.give_up()
        self._stop_by_s = monotonic_s() + self.plan.shutdown_timeout_s
        self.log.event("stopping", f"within {self.plan.shutdown_timeout_s:g} s")
        self._notifier.stopping(self.plan.shutdown_timeout_s + len(STOP_ORDER) * self.plan.timing.least_drain_s)
        for slot in self._slots:  # refused connections go elsewhere; what is in the listeners' own accept queues they still serve
            self._takeover.end(slot.name)
        self._keep_sockets(())

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
                signals.send(slot.pid, signal.SIGKILL)

    def _tell(self, slot: Slot, kill_at_s: float) -> None:
        slot.told += 1
        slot.kill_at_s = kill_at_s
        signals.send(slot.pid, signal.SIGTERM)

    def _end(self) -> int:
        """Everybody is gone: leave nothing behind that looks like a running engine."""
        self.log.event("ended", f"supervisor pid={os.getpid()} exit={self._exit_code}")
        self.log.close()
        for name in (spooldir.PIDS, spooldir.SPOOL_SOCKET, spooldir.CONTROL_SOCKET):  # while they are surely ours
            try:
                os.unlink(os.path.join(self.plan.spool_path, spooldir.RUN, name))
            except FileNotFoundError:
                continue
        shutil.rmtree(os.path.dirname(answers_socket(self.plan.spool_path, "")), ignore_errors=True)
        signal.set_wakeup_fd(-1)
        self.plan.others.keep(())
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
            self.reload()

    def _asked_to_stop(self) -> tuple[object, bool]:
        self.stop()
        return Stopping(os.getpid(), max(0.0, self._stop_by_s - monotonic_s())), True

    def status(self) -> Status:
        """What `engine status` shows."""
        now_s = monotonic_s()
        return describe(
            self.plan,
            now_s,
            self._counts,
            self._traffic.table(self._rows(), sum(self._counts[0]), sum(self._counts[1])),
            stopping=self.stopping,
            reloading=self._reloading,
            turned_away=self._takeover.answered,
            upgrade=self._upgrading.told,
        )

    def _rows(self) -> list[tuple[str, int]]:
        """(role, row) of the living."""
        return [(slot.role, slot.row) for slot in self._slots if slot.pid]

    def _until_next(self, now_s: float) -> float:
        """Seconds to sleep when nothing happens."""
        if self._upgrading.until_s is not None or any(slot.pid and not slot.ready for slot in self._slots):
            return BOOTING_TICK_S
        times = [slot.kill_at_s for slot in self._slots if slot.pid and slot.kill_at_s]
        if not self.stopping:
            times += [slot.not_before_s for slot in self._slots if self._may_start(slot)]
        for slot in self._slots:
            if slot.retiring or self._others_serve():
                continue
            at_s = slot.unattended_at(self.plan.born_s, self.plan.timing) if slot.sockets else None
            if at_s is not None and not self._takeover.holds(slot.name):
                times.append(at_s)
        return max(0.0, min([TICK_S] + [at_s - now_s for at_s in times]))
