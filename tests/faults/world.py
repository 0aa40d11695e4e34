"""An engine among faults, and the account of its mail: what was acknowledged, and what became of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import shutil
import smtplib
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.engine_process import EngineProcess
from engine.spool import SpoolReader
from engine.supervisor.spooldir import LOCK, MARK
from tests.sinks.sink import Sink
from tests.system.engine import eventually

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1s
    retry-recipients-after 1s
    bounce-after 4d
    connection-idle-timeout 1s
</domain>
<domain origin.example>
    type discard
</domain>
"""
BODY = b"Subject: x\r\n\r\n" + b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n" * 20
FAULTS_BYTES = 4096


class Faults:
    """What fails, for every process that was started with `environment`: lines as shim.c reads them."""

    def __init__(self, shim: Path, path: Path) -> None:
        self.environment = {"LD_PRELOAD": str(shim), "FAULTS": str(path)}
        self._path = path
        path.write_bytes(bytes(FAULTS_BYTES))
        path.chmod(0o644)

    def set(self, *lines: str) -> None:
        """These and no others, from now on."""
        data = "".join(f"{line}\n" for line in lines).encode().ljust(FAULTS_BYTES, b"\0")
        assert len(data) == FAULTS_BYTES
        with self._path.open("r+b", buffering=0) as file:
            file.write(b"\0")  # readers see none, or all of them
            file.write(data[1:])
            file.seek(0)
            file.write(data[:1])

    def clear(self) -> None:
        """All is well again."""
        self.set()


class Disk:
    """A small file system, mounted at *path*, whose owner is the engine's user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.chown(path, "nobody")
        path.chmod(0o755)

    def fill(self, leave_bytes: int = 0) -> None:
        """Let no more than *leave_bytes* be free."""
        with (self.path / "filling").open("ab", buffering=0) as file:
            while (free := self._free()) > leave_bytes:
                file.write(bytes(min(free - leave_bytes, 1 << 20)))

    def empty(self) -> None:
        """Take away what `fill` put there."""
        (self.path / "filling").unlink()

    def _free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bfree * found.f_frsize


class FaultyEngine(EngineProcess):
    """An engine whose system calls fail as *faults* says; *timing* are fields of the supervisor's Timing, if any."""

    def __init__(self, directory: Path, conf_text: str, faults: Faults, timing: Mapping[str, float]) -> None:
        super().__init__(directory, conf_text)
        self._faults = faults
        self._timing = timing
        self.log_path = self.directory / "log"

    def log(self) -> str:
        """See EngineProcess."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def limit(self, role: str, what: str, soft: str) -> str:
        """Give one process another soft limit of *what* (`nofile`, `data`), a number or `unlimited`; what it had."""
        words = ["prlimit", f"--pid={self.pid(role)}", f"--{what}"]
        before = self._as_its_user(*words, "--output=SOFT", "--noheadings", "--raw")
        self._as_its_user(*words[:2], f"--{what}={soft}:")
        return before

    def _as_its_user(self, *words: str) -> str:
        """Run a command as the engine's user, as root may lack CAP_SYS_RESOURCE in a container; what it prints."""
        become: dict[str, Any] = {} if os.geteuid() else {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20, **become).stdout.strip()

    def no_more_descriptors(self, role: str) -> str:
        """Let one process open nothing more; the soft limit that it had."""
        taken = {int(name) for name in os.listdir(f"/proc/{self.pid(role)}/fd")}
        return self.limit(role, "nofile", str(min(set(range(len(taken) + 1)) - taken)))

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), **self._faults.environment}

    def make_spool(self) -> Path:
        """The spool directory as the supervisor makes it, so that something can be mounted in it before the engine starts."""
        path = self.directory / "spool"
        path.mkdir(mode=0o700)
        (path / LOCK).write_bytes(MARK)
        if os.geteuid() == 0:
            shutil.chown(path, "nobody")
        return path

    def command(self, *words: str) -> list[str]:
        """See EngineProcess."""
        command = super().command(*words)
        if words[0] != "start" or not self._timing:
            return command
        return [command[0], "-m", "tests.system.impatient", str(self.conf), json.dumps(dict(self._timing))]


class World:
    """Engine, peer and faults; `send` numbers messages and remembers which were acknowledged."""

    def __init__(self, engine: FaultyEngine, sink: Sink, faults: Faults) -> None:
        self.engine = engine
        self.sink = sink
        self.faults = faults
        self.acknowledged: set[str] = set()
        self.spools = ["spool"]  # names of its directories
        self._numbers = itertools.count(1)  # clients may be threads

    def send(self, body: bytes = BODY, *, domain: str = "dest.example") -> int:
        """One message; the code of the last reply, 0 if there was none."""
        recipient = f"u{next(self._numbers)}@{domain}"
        try:
            with smtplib.SMTP("127.0.0.1", self.engine.port, timeout=20) as client:
                client.sendmail("sender@origin.example", [recipient], body)
        except smtplib.SMTPRecipientsRefused as error:
            return int(next(iter(error.recipients.values()))[0])
        except smtplib.SMTPResponseException as error:
            return int(error.smtp_code)
        except (smtplib.SMTPException, OSError):
            return 0
        self.acknowledged.add(recipient)
        return 250

    def behave(self, behaviour: str) -> None:
        """What the peer does from now on; connections on which it behaved otherwise are cut."""
        self.sink.behave(behaviour)
        with self.sink._changed:
            for sock in self.sink._sockets:
                with contextlib.suppress(OSError):  # it is going already
                    sock.shutdown(socket.SHUT_RDWR)

    def says(self, *words: str, timeout_s: float = 20) -> str:
        """The first line of the log with all of *words*, once there is one."""
        found: list[str] = []

        def said() -> bool:
            found[:] = [line for line in self.engine.log().splitlines() if all(word in line for word in words)]
            return bool(found)

        self.eventually(said, f"a log line with {words}", timeout_s)
        return found[0]

    def eventually(self, true: Callable[[], object], what: str, timeout_s: float) -> None:
        """`eventually`, and at the deadline what the engine has said."""
        try:
            eventually(true, what, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.engine.said()}") from None

    def accepts_again(self, timeout_s: float = 20) -> None:
        """Return once mail is accepted."""
        self.eventually(lambda: self.send() == 250, "mail is accepted again", timeout_s)

    def queued(self) -> set[str]:
        """Recipients in all spools."""
        found: set[str] = set()
        for name in self.spools:
            reader = SpoolReader(self.engine.directory / name)
            try:
                found |= {due.address for queue, _ in reader.queues(0, 1000) for _, due in reader.due(queue, None, 1 << 62, 100_000)[0]}
            finally:
                reader.close()
        return found

    def account(self, *, still_queued: int = 0, duplicates: int = 0, timeout_s: float = 30) -> None:
        """Everything acknowledged is delivered and has its one record, but for *still_queued*; at most *duplicates* came more than once."""

        def recorded() -> Counter[str]:
            return Counter(record["rcpt"] for record in self.engine.iter_records("d", "b") if record["rcpt"] != "sender@origin.example")

        wanted = len(self.acknowledged) - still_queued
        self.eventually(lambda: len(recorded()) >= wanted, f"{wanted} records", timeout_s)
        arrived = Counter(recipient for message in self.sink.messages for recipient in message.recipients)
        records, left = recorded(), self.queued()
        assert len(left & self.acknowledged) == still_queued, (left, still_queued)
        lost = self.acknowledged - set(arrived) - left
        assert not lost, f"acknowledged and lost: {sorted(lost)}"
        assert set(records.values()) <= {1}, records.most_common(3)
        assert set(records) == set(arrived), "each arrived one has its record, and no other"
        assert sum(times - 1 for times in arrived.values()) <= duplicates, arrived.most_common(3)
