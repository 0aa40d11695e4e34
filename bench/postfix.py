"""A Postfix instance of its own beside everything else: configuration, queue and data under one directory, on an ephemeral loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from bench.processes import Measured

TEMPLATES = Path(__file__).parent / "peers" / "postfix"
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin"


class PostfixError(Exception):
    """It did not start; the text quotes its log."""


def missing() -> str | None:
    """Why no Postfix can run here, or None if one can."""
    if shutil.which("postfix", path=PROGRAMS) is None:
        return "Postfix is not installed (python -m tests.peers.install)"
    if os.geteuid() != 0:
        return "Postfix starts only as root"
    return None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_greeting(host: str, port: int, timeout_s: float, alive: Measured | None = None) -> bool:
    """Whether a 220 came from there within *timeout_s*; gives up at once when *alive* has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and (alive is None or alive.alive()):
        try:
            with socket.create_connection((host, port), timeout=2) as peer:
                greeting = peer.recv(512)
                if greeting.startswith(b"220"):
                    peer.sendall(b"QUIT\r\n")
                    peer.recv(512)
                    return True
        except OSError:
            pass  # not listening yet, or a listener that is being replaced: asked again until the deadline
        time.sleep(0.02)
    return False


class Postfix:
    """`with Postfix(directory, relayhost="[127.0.0.1]:2600") as postfix: postfix.port`; *directory* is made and must not exist.

    With *mailbox_domain*, mail for that domain goes into Maildir files under `directory/mail` instead (`messages()`).
    """

    def __init__(self, directory: Path, *, relayhost: str = "", processes: int = 100, concurrency: int = 50, mailbox_domain: str = "") -> None:
        self.directory, self._relayhost, self._processes, self._concurrency, self._domain = (
            directory,
            relayhost,
            processes,
            concurrency,
            mailbox_domain,
        )
        self.port = 0
        self.measured: Measured

    def _write(self) -> Path:
        root = self.directory.resolve()
        etc, queue, data = root / "etc", root / "queue", root / "data"
        for path in (etc, queue, data):
            path.mkdir(parents=True)
        owner = pwd.getpwnam("postfix")
        os.chown(data, owner.pw_uid, owner.pw_gid)
        for path in (root, *root.parents):  # its processes run as another user and have to get here
            if path.stat().st_uid == os.geteuid() and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o011)
        self.port = free_port()
        values = {
            "root": str(root),
            "queue": str(queue),
            "data": str(data),
            "log": str(root / "log"),
            "port": str(self.port),
            "relayhost": self._relayhost,
            "processes": str(self._processes),
            "concurrency": str(self._concurrency),
        }
        for name in ("main.cf", "master.cf"):
            text = (TEMPLATES / name).read_text()
            for key, value in values.items():
                text = text.replace("{" + key + "}", value)
            (etc / name).write_text(text)
        if self._domain:
            mail = root / "mail"
            mail.mkdir()
            os.chown(mail, owner.pw_uid, owner.pw_gid)
            with (etc / "main.cf").open("a") as file:
                uid = owner.pw_uid
                file.write(f"\nvirtual_mailbox_domains = {self._domain}\nvirtual_mailbox_base = {mail}\nvirtual_mailbox_maps = static:all/\n")
                file.write(f"virtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:{owner.pw_gid}\nvirtual_minimum_uid = {min(100, uid)}\n")
                file.write("virtual_mailbox_limit = 0\n")
        return etc

    def __enter__(self) -> Self:
        self._etc = self._write()
        environment = {**os.environ, "PATH": PROGRAMS}
        self.measured = Measured(
            ["postfix", "-c", str(self._etc), "start-fg"],
            report=self.directory / "usage.json",
            log=self.directory / "start.log",
            environment=environment,
        )
        if not wait_for_greeting("127.0.0.1", self.port, 30, self.measured):
            self.measured.close(5)
            raise PostfixError(f"Postfix did not greet within 30 s:\n{self._log()}")
        return self

    def _log(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in (self.directory / "start.log", self.directory / "log") if path.exists())

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> dict[str, int]:
        """End it; {"status", "cpu_us"}."""
        if self.measured.alive():
            subprocess.run(
                ["postfix", "-c", str(self._etc), "stop"],
                env={**os.environ, "PATH": PROGRAMS},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
                check=False,
            )
        return self.measured.close(20)

    def messages(self) -> list[bytes]:
        """What it has stored for the mailbox domain, as files on disk (LF line ends)."""
        return [path.read_bytes() for path in sorted((self.directory / "mail").glob("all/new/*"))]
