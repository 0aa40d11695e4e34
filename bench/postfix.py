"""A Postfix instance of its own beside everything else: configuration, queue and data under one directory, on an ephemeral loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.peer import CONCURRENCY, PEERS, Daemon, Peer, fill

PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin"


def missing() -> str | None:
    """Why no Postfix can run here, or None if one can."""
    if shutil.which("postfix", path=PROGRAMS) is None:
        return "not installed (python -m tests.peers.install)"
    if os.geteuid() != 0:
        return "starts only as root"
    return None


def version() -> str:
    """Such as "3.7.11"."""
    asked = subprocess.run(
        ["postconf", "-hd", "mail_version"], env={**os.environ, "PATH": PROGRAMS}, capture_output=True, text=True, timeout=10, check=False
    )
    return asked.stdout.strip()


class Postfix(Daemon):
    """`with Postfix(directory, relayhost="[127.0.0.1]:2600") as postfix: postfix.port`; *directory* is made and must not exist.

    With *mailbox_domain*, mail for that domain goes into Maildir files under `directory/mail` instead (`messages()`).
    """

    def __init__(self, directory: Path, *, relayhost: str = "", processes: int = 100, mailbox_domain: str = "") -> None:
        super().__init__(directory)
        self._relayhost, self._processes, self._domain = relayhost, processes, mailbox_domain
        self._etc = self.directory / "etc"

    def configure(self) -> Sequence[str]:
        """Queue, data and two files of configuration."""
        queue, data = self.directory / "queue", self.directory / "data"
        queue.mkdir()
        data.mkdir()
        owner = pwd.getpwnam("postfix")
        os.chown(data, owner.pw_uid, owner.pw_gid)
        values = {
            "root": self.directory,
            "queue": queue,
            "data": data,
            "log": self.directory / "log",
            "port": self.port,
            "relayhost": self._relayhost,
            "processes": self._processes,
            "concurrency": CONCURRENCY,
        }
        for name in ("main.cf", "master.cf"):
            fill(PEERS / "postfix" / name, self._etc / name, values)
        if self._domain:
            mail = self.directory / "mail"
            mail.mkdir()
            os.chown(mail, owner.pw_uid, owner.pw_gid)
            with (self._etc / "main.cf").open("a") as file:
                uid = owner.pw_uid
                file.write(f"\nvirtual_mailbox_domains = {self._domain}\nvirtual_mailbox_base = {mail}\nvirtual_mailbox_maps = static:all/\n")
                file.write(f"virtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:{owner.pw_gid}\nvirtual_minimum_uid = {min(100, uid)}\n")
                file.write("virtual_mailbox_limit = 0\n")
        return ["postfix", "-c", str(self._etc), "start-fg"]

    def environment(self) -> dict[str, str]:
        """Its programs are not on everybody's path."""
        return {**os.environ, "PATH": PROGRAMS}

    def ask_to_stop(self) -> None:
        """By its own command."""
        subprocess.run(
            ["postfix", "-c", str(self._etc), "stop"], env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )

    def messages(self) -> list[bytes]:
        """What it has stored for the mailbox domain, as files on disk (LF line ends)."""
        return [path.read_bytes() for path in sorted((self.directory / "mail").glob("all/new/*"))]


POSTFIX = Peer("postfix", missing, version, lambda directory, port: Postfix(directory, relayhost=f"[127.0.0.1]:{port}"))
