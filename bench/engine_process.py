"""A real engine in processes of its own: `python -m engine start -c FILE`, everything it writes below one directory, ephemeral ports."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from bench.peer import free_port, wait_for_greeting
from bench.processes import Measured, Process

ROOT = Path(__file__).resolve().parent.parent

# What a configuration gets unless it says it itself: pattern of the directive -> lines.
_DEFAULTS = (
    (r"^\s*smtp-listener\b", "smtp-listener 127.0.0.1:@port@\n"),
    (r"^\s*host-name\b", "host-name engine.example\n"),
    (r"^\s*postmaster\b", "postmaster postmaster@engine.example\n"),
    (r"^\s*user\b", "user nobody\n" if os.geteuid() == 0 else ""),
    (r"^\s*<source\b", "<source 127.0.0.0/8>\n    always-allow-relaying yes\n    process-x-virtual-mta yes\n</source>\n"),
    (r"^\s*<spool\b", "<spool @dir@/spool>\n</spool>\n"),
    (r"^\s*log-file\b", "log-file @dir@/log\n"),
    (r"^\s*<acct-file\b", "<acct-file @dir@/acct.csv>\n    records d,b,t,tq\n</acct-file>\n"),
)


class EngineDown(Exception):
    """The engine did not start, or ended by itself; the text quotes its output and log."""


class EngineProcess:
    """One engine and its directory, over several starts.

    In *conf_text*, `@dir@` is the directory and `@port@`, `@port2@`, `@port3@` ... are free ports, the same in every start.  What it does not
    say gets a sensible default: a listener at 127.0.0.1:@port@, host-name engine.example, relaying for 127.0.0.0/8, spool, log, and one
    accounting file with records d, b, t and tq.
    """

    def __init__(
        self, directory: Path, conf_text: str = "", *, start_timeout_s: float = 30, arguments: Sequence[str] = (), cgroup: bool = False
    ) -> None:
        self.directory = directory.resolve()
        self.conf = self.directory / "engine.conf"
        self.start_timeout_s = start_timeout_s
        self.cpu_us = 0  # of all starts that have ended, exact
        self.status: int | None = None  # exit status of the last start
        self._arguments, self._cgroup = list(arguments), cgroup
        self._measured: Measured | None = None
        self._abandoned: list[Measured] = []  # starts whose supervisor was killed: survivors may still run
        self._ports: dict[str, int] = {}
        self._starts_made = 0
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.directory, "nobody")  # its workers, who are not root, write here
        self.configure(conf_text)

    def configure(self, conf_text: str) -> None:
        """Write the configuration anew, with the defaults and the ports; the engine sees it when it starts or reloads."""
        text = "".join(lines for pattern, lines in _DEFAULTS if not re.search(pattern, conf_text, re.MULTILINE)) + conf_text
        for name in dict.fromkeys(re.findall(r"@(port\d*)@", text)):
            if name not in self._ports:
                self._ports[name] = free_port()
        for name, port in self._ports.items():
            text = text.replace(f"@{name}@", str(port))
        self.conf.write_text(text.replace("@dir@", str(self.directory)))

    @property
    def port(self) -> int:
        """@port@: the default listener's."""
        return self._ports["port"]

    def port_of(self, name: str) -> int:
        """The port behind @name@."""
        return self._ports[name]

    def command(self, *words: str) -> list[str]:
        """The argument vector of an engine command line, such as command("status", "-c", str(conf))."""
        return [sys.executable, "-m", "engine", *words]

    def run(self, *words: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a short command line (`run("check-config")`) with `-c` of this engine."""
        return subprocess.run(
            self.command(*words, "-c", str(self.conf)),
            env=self._environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def start(self, *, wait: bool = True) -> Self:
        """Start it and, unless told otherwise, wait until it greets; EngineDown."""
        if self._measured is not None and self._measured.alive():
            raise EngineDown("it runs already")
        self._starts_made += 1
        report = self.directory / f"usage-{self._starts_made}.json"  # of its own: an abandoned start writes its report later
        self._measured = Measured(
            self.command("start", "-c", str(self.conf), *self._arguments), report=report, log=self.directory / "output",
            environment=self._environment(), cwd=self.directory, cgroup=self._cgroup,
        )  # fmt: skip
        if wait:
            self.wait_until_up()
        return self

    def wait_until_up(self) -> None:
        """Return when the listener greets; EngineDown at the deadline, or once it has ended."""
        if not wait_for_greeting("127.0.0.1", self.port, self.start_timeout_s, self._measured):
            state = "it still runs" if self.alive() else "it has ended"
            said = self.said()
            self.kill9_all()
            raise EngineDown(f"no greeting from 127.0.0.1:{self.port} within {self.start_timeout_s:.0f} s ({state})\n{said}")

    def said(self) -> str:
        """The ends of its output and log, for an error message."""
        parts = [(name, self.directory / name) for name in ("output", "log")]
        return "\n".join(f"--- {name}\n{path.read_text(errors='replace')[-4000:]}" for name, path in parts if path.exists())

    def alive(self) -> bool:
        """Whether any process of it still runs."""
        return any(start.alive() for start in self._starts())

    def _starts(self) -> list[Measured]:
        return [*self._abandoned, *([self._measured] if self._measured else [])]

    def processes(self) -> list[Process]:
        """Every living process of it, survivors of a killed supervisor included."""
        return [process for start in self._starts() for process in start.processes()]

    def pids(self) -> dict[str, list[int]]:
        """Living pids by role: {"supervisor": [..], "listener/0": [..], "spool/0": [..], ...}, by their titles."""
        found: dict[str, list[int]] = {}
        for process in self.processes():
            found.setdefault(process.role, []).append(process.pid)
        return found

    def pid(self, role: str) -> int:
        """The pid of the one process of *role* ("delivery/0"; "spool" is the first of them); EngineDown if there is none."""
        for name, pids in sorted(self.pids().items()):
            if name == role or name.partition("/")[0] == role:
                return pids[0]
        raise EngineDown(f"no process has the role {role}: {self.pids()}")

    def cpu_by_role(self) -> dict[str, int]:
        """Microseconds of CPU so far in this start, `ended` for children that are gone."""
        return self._measured.cpu_by_role() if self._measured else {}

    def used_us(self) -> int:
        """The same as one figure; exact in a control group (*cgroup*)."""
        return self._measured.used_us() if self._measured else 0

    def signal(self, number: int, role: str = "supervisor") -> None:
        """Send a signal to one process."""
        os.kill(self.pid(role), number)

    def kill9(self, role: str) -> int:
        """SIGKILL for one process; its pid."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill9_all(self) -> None:
        """SIGKILL for every process, as a power cut would, and wait until none is left."""
        while self._abandoned:
            survivors = self._abandoned.pop()
            survivors.kill_all()
            self.cpu_us += survivors.wait(10)["cpu_us"]
        if self._measured is not None:
            self._measured.kill_all()
            self._ended(self._measured.wait(10))

    def kill9_supervisor(self) -> int:
        """SIGKILL for the supervisor alone, and forget this start: `start()` may follow at once, survivors or not.  Its pid."""
        pid = self.kill9("supervisor")
        if self._measured is not None:
            self._abandoned.append(self._measured)
            self._measured = None
        return pid

    def stop(self, timeout_s: float = 90) -> int:
        """SIGTERM, wait until all of it has ended (SIGKILL at the deadline); the exit status."""
        while self._abandoned:
            self.cpu_us += self._abandoned.pop().close(timeout_s)["cpu_us"]
        if self._measured is not None:
            self._ended(self._measured.close(timeout_s))
        return self.status if self.status is not None else 0

    def wait_until_ended(self, timeout_s: float) -> int:
        """The exit status once it has ended by itself; subprocess.TimeoutExpired."""
        if self._measured is not None:
            self._ended(self._measured.wait(timeout_s))
        return self.status if self.status is not None else 0

    def _ended(self, usage: dict[str, int]) -> None:
        self.status, self._measured = usage["status"], None
        self.cpu_us += usage["cpu_us"]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.alive():
            self.stop()

    def log(self) -> str:
        """The log file's text so far; "" before there is one."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def iter_records(self, *types: str, pattern: str = "acct*.csv") -> Iterator[dict[str, str]]:
        """Accounting records so far, by header name, of the given types (all without), oldest file first; a line still being written is left out."""
        for path in sorted(self.directory.glob(pattern)):
            with path.open(encoding="utf-8", newline="") as file:
                header: list[str] = []
                for row in csv.reader(line for line in file if line.endswith("\n")):
                    if row and row[0] == "type":
                        header = row
                    elif row and (not types or row[0] in types):
                        yield dict(zip(header, row, strict=False))

    def records(self, *types: str) -> list[dict[str, str]]:
        """`iter_records` as a list."""
        return list(self.iter_records(*types))

    def wait_for_records(self, count: int, *types: str, timeout_s: float = 30) -> list[dict[str, str]]:
        """The records once there are *count*; TimeoutError with what there was."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.records(*types)) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(found)} of {count} records {types or 'of any type'} within {timeout_s:.0f} s\n{self.said()}")
            time.sleep(0.02)
        return found
