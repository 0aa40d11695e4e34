"""Real supervisors over fake roles, in a directory that the workers' user can reach; every wait has a deadline."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.control import Status, ask

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
USER = "nobody"

CONF = """\
host-name engine.example
user {user}
smtp-listener 127.0.0.1:{port}
listener-workers {listeners}
delivery-workers 1
shutdown-timeout 1s
log-file {directory}/log
<spool {directory}/spool>
</spool>
<acct-file {directory}/acct.csv>
</acct-file>
"""


class Fleet:
    """One supervisor after another over the same directory, and the events that its children tell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.supervisor: subprocess.Popen[str] | None = None
        self.all: list[subprocess.Popen[str]] = []
        self.events = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.events.bind(str(directory / "events"))
        os.chmod(directory / "events", 0o777)
        self.configure()

    def configure(self, listeners: int = 1, conf: str = CONF) -> None:
        (self.directory / "engine.conf").write_text(conf.format(directory=self.directory, port=self.port, listeners=listeners, user=USER))

    def behave(self, child: str, behaviour: str) -> None:
        """What *child* ("listener/0") does from its next start on."""
        (self.directory / child.replace("/", "-")).write_text(behaviour)

    def start(self, **timing: float) -> subprocess.Popen[str]:
        """Start a supervisor; its standard error can be read."""
        started = subprocess.Popen(
            [sys.executable, "-m", "tests.supervisor.driver", str(self.directory / "engine.conf"), json.dumps(timing)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.supervisor = started
        self.all.append(started)
        return started

    def started(self, **timing: float) -> dict[str, int]:
        """Start a supervisor and wait until every child works: pids by child."""
        self.start(**timing)
        wanted = {"spool/0", "accounting/0", "delivery/0", "listener/0"}
        pids: dict[str, int] = {}
        while wanted - pids.keys():
            child, event, pid = self.next_event()
            if event == "works":
                pids[child] = pid
        return pids

    def next_event(self, timeout_s: float = PATIENCE_S) -> tuple[str, str, int]:
        """(child, event, pid) of the next event; TimeoutError."""
        self.events.settimeout(timeout_s)
        child, event, pid = self.events.recv(1024).decode().split()
        return child, event, int(pid)

    def wait_for(self, child: str, event: str) -> int:
        """The pid with which *child* tells *event*, others overheard."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            name, told, pid = self.next_event()
            if name == child and told.startswith(event):
                return pid
        raise TimeoutError(f"{child} never told {event}")

    def status(self) -> Status:
        answer: Status = ask(str(self.directory / "spool/run/control.sock"), "status")
        return answer

    def until(self, true: Callable[[Status], bool]) -> Status:
        """The first status for which *true*; asking is what paces the loop."""
        deadline = time.monotonic() + PATIENCE_S
        while not true(status := self.status()):
            assert time.monotonic() < deadline, status
            select.select([], [], [], 0.02)
        return status

    def greeting(self) -> str:
        """What a client hears first."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as client, client.makefile("r") as lines:
            return lines.readline()

    def signal(self, number: int) -> None:
        assert self.supervisor
        self.supervisor.send_signal(number)

    def ended(self, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
        """(exit code, what it said) of the last supervisor."""
        assert self.supervisor
        _, said = self.supervisor.communicate(timeout=timeout_s)
        return self.supervisor.returncode, said

    def close(self) -> None:
        for started in self.all:
            if started.poll() is None:
                started.kill()
            started.communicate(timeout=PATIENCE_S)
        self.events.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until_gone(pids: list[int], timeout_s: float = PATIENCE_S) -> None:
    """Return when none of *pids*, which are not our children, lives; AssertionError at the deadline."""
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        try:
            watching = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ended, _, _ = select.select([watching], [], [], max(0.0, deadline - time.monotonic()))
            assert ended, f"{pid} still lives"
        finally:
            os.close(watching)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that another user may enter and, where we are root, the workers' user owns."""
    directory = Path(tempfile.mkdtemp(prefix="engine-test-"))
    directory.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(directory, USER)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def fleet(reachable: Path) -> Iterator[Fleet]:
    made = Fleet(reachable)
    yield made
    made.close()
