"""What a tree of processes costs: exact CPU time when it has ended, CPU by role and anonymous memory while it lives.

`Measured` starts a command under a small keeper process (`python -m bench.processes REPORT COMMAND...`) that is the subreaper of everything
below it: whatever is orphaned, even by kill -9, is reaped by the keeper, so that its own RUSAGE_CHILDREN is the whole tree's.  Where a
control group (v2) can be made and is asked for, its clock counts: in microseconds, and also what nobody waited for.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NUMBERS = itertools.count()
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ROLE = re.compile(r"^engine: ([a-z]+(?:/\d+)?)")
_SUPERVISOR = re.compile(r" -m engine(\.supervisor\.successor take-over| start) ")  # until it names itself


@dataclass(frozen=True, slots=True)
class Process:
    """One living process, read from /proc."""

    pid: int
    parent: int
    role: str  # "listener/0" of an engine title, otherwise the program's short name
    cpu_us: int  # its own
    reaped_cpu_us: int  # of the children that it has waited for
    anonymous_bytes: int
    resident_bytes: int


def _read(pid: int) -> Process | None:
    """The process, or None if it has ended meanwhile."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    sizes = {key: int(value) * 1024 for key, value in re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", status, re.MULTILINE)}
    found = _ROLE.match(title)
    role = found[1] if found else "supervisor" if _SUPERVISOR.search(title) else name
    user, system, reaped_user, reaped_system = (int(field) * TICK_US for field in fields[11:15])
    return Process(pid, int(fields[1]), role, user + system, reaped_user + reaped_system, sizes.get("RssAnon", 0), sizes.get("VmRSS", 0))


def tree(root: int) -> list[Process]:
    """Every living process at and below *root*, root first."""
    children: dict[int, list[Process]] = defaultdict(list)
    own = None
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := _read(int(entry))):
            children[process.parent].append(process)
            own = process if process.pid == root else own
    if own is None:
        return []
    found, todo = [], [own]
    while todo:
        process = todo.pop()
        found.append(process)
        todo += children[process.pid]
    return found


def cpu_by_role(processes: Sequence[Process], keeper: int) -> dict[str, int]:
    """Microseconds by role, numbers of one role together; `ended` is what reaped children had used."""
    spent: dict[str, int] = defaultdict(int)
    for process in processes:
        if process.pid != keeper:
            spent[process.role.partition("/")[0]] += process.cpu_us
        spent["ended"] += process.reaped_cpu_us
    return dict(spent)


class ControlGroup:
    """A cgroup of its own: the CPU time of all that ran in it, children that their parents never waited for included (Exim's deliveries)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def make(cls, name: str) -> ControlGroup | None:
        """A new one below ours; None where we may not, or no cgroup2 is mounted."""
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        mount = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
        ours = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None)
        if mount is None or ours is None:
            return None
        path = Path(mount) / ours.lstrip("/") / name
        try:
            path.mkdir()
        except OSError:
            return None
        return cls(path)

    def entering(self, command: Sequence[str]) -> list[str]:
        """The command that runs *command* in it."""
        return ["/bin/sh", "-c", 'echo $$ 2>/dev/null >"$0"; exec "$@"', str(self._path / "cgroup.procs"), *command]

    def used_us(self) -> int:
        """CPU microseconds so far; 0 if nothing could enter."""
        found = re.search(r"^usage_usec (\d+)", (self._path / "cpu.stat").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def close(self) -> None:
        """Remove it, if it is empty."""
        try:
            self._path.rmdir()
        except OSError:
            return


class Measured:
    """A command running under a keeper; its output goes to *log*.  With *cgroup* it runs in a control group, where one can be made."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        report: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        cgroup: bool = False,
    ) -> None:
        self._report = report
        report.unlink(missing_ok=True)
        self._group = ControlGroup.make(f"bench-{os.getpid()}-{next(_NUMBERS)}") if cgroup else None
        if self._group:
            command = self._group.entering(command)
        with log.open("ab") as out:
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", str(Path(__file__).resolve()), str(report), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=None if environment is None else dict(environment),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def keeper(self) -> int:
        """Pid of the keeper: root of the tree, itself no part of what is measured."""
        return self._keeper.pid

    def processes(self) -> list[Process]:
        """The living processes, without the keeper."""
        return [process for process in tree(self.keeper) if process.pid != self.keeper]

    def cpu_by_role(self) -> dict[str, int]:
        """Microseconds so far."""
        return cpu_by_role(tree(self.keeper), self.keeper)

    def used_us(self) -> int:
        """Microseconds so far of all processes: the control group's, otherwise as `cpu_by_role` adds them up."""
        return (self._group.used_us() if self._group else 0) or sum(self.cpu_by_role().values())

    def alive(self) -> bool:
        """Whether anything of the tree still runs."""
        return self._keeper.poll() is None

    def signal(self, number: int) -> None:
        """Send *number* to the command itself (the keeper passes it on)."""
        if self.alive():
            self._keeper.send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL for every process of the tree but the keeper, until none is left (10 s)."""
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                _kill(process.pid, signal.SIGKILL)
            time.sleep(0.005)
        self.wait(10)

    def wait(self, timeout_s: float) -> dict[str, int]:
        """{"status", "cpu_us"} once the whole tree has ended; subprocess.TimeoutExpired, ChildProcessError if the keeper itself was killed."""
        if status := self._keeper.wait(timeout_s):
            raise ChildProcessError(f"the keeper of {self._report.parent} ended with status {status}: the CPU time of its tree is unknown")
        found: dict[str, int] = json.loads(self._report.read_text())
        if self._group:
            found["cpu_us"] = max(found["cpu_us"], self._group.used_us())
            self._group.close()
            self._group = None
        return found

    def close(self, timeout_s: float = 30) -> dict[str, int]:
        """End it: SIGTERM, after *timeout_s* SIGKILL for all; what `wait` says."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
            return self.wait(10)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _reap() -> Iterator[tuple[int, int]]:
    while True:
        try:
            yield os.wait()
        except ChildProcessError:
            return


def _keep(report: str, command: Sequence[str]) -> int:
    """Run *command* as subreaper until no process below is left; all of it ends if our parent is killed, so that a test run leaves nothing behind."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getppid()

    def orphaned(_number: int, _frame: FrameType | None) -> None:
        if os.getppid() != parent:  # the signal comes for the end of the thread that started us, too
            for process in tree(os.getpid())[1:]:
                _kill(process.pid, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, orphaned)
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) or prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    living: list[int] = []
    early: list[int] = []  # came before there was anybody to pass them on to

    def forward(number: int, _frame: FrameType | None) -> None:
        for pid in living:
            _kill(pid, number)
        if not living:
            early.append(number)

    for number in PASSED_ON:
        signal.signal(number, forward)
    child = subprocess.Popen(command, start_new_session=True)  # what it sends to its own group is not for us
    living.append(child.pid)
    for missed in early:
        _kill(child.pid, missed)
    status = 0
    for pid, code in _reap():
        if pid == child.pid:
            living.clear()
            status = os.waitstatus_to_exitcode(code)
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN)  # too late to matter, and the report has to be written
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    part = Path(f"{report}.part")
    part.write_text(json.dumps({"status": status, "cpu_us": round((used.ru_utime + used.ru_stime) * 1e6)}))
    part.replace(report)
    return 0


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1], sys.argv[2:]))
