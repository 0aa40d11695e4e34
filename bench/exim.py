"""Exim from its own configuration in a directory of its own; the binary that is installed, or the one that `python -m bench.fetch` put aside."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence

from bench.peer import CONCURRENCY, FETCHED, PEERS, Daemon, Peer, fill, library_path
from bench.postfix import PROGRAMS

USER = "Debian-exim"
"""Compiled into Debian's binary, which does not start without it; its package makes it."""


def binary() -> str | None:
    """Where Exim is."""
    return shutil.which("exim4", path=f"{PROGRAMS}:{FETCHED / 'exim/usr/sbin'}")


def missing() -> str | None:
    """Why no Exim can run here, or None if one can."""
    if binary() is None:
        return "not installed (python -m bench.fetch exim)"
    if os.geteuid() != 0:
        return "starts only as root"
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return f"there is no user {USER} (python -m bench.fetch exim)"
    return None


def version() -> str:
    """Such as "4.96"."""
    asked = subprocess.run([str(binary()), "-bV"], env=_environment(), capture_output=True, text=True, timeout=10, check=False)
    words = asked.stdout.split()
    return words[2] if len(words) > 2 else "?"  # it complains of the configuration that is not there, too


def _environment() -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": library_path(FETCHED / "exim")}


class Exim(Daemon):
    """`with Exim(directory, relay_port) as exim: exim.port`."""

    def configure(self) -> Sequence[str]:
        """Spool, log and one file."""
        owner = pwd.getpwnam(USER)
        for name in ("spool", "log"):
            (self.directory / name).mkdir()
            os.chown(self.directory / name, owner.pw_uid, owner.pw_gid)
        conf = self.directory / "exim.conf"
        values = {
            "binary": binary(),
            "root": self.directory,
            "port": self.port,
            "relay_port": self.relay_port,
            "concurrency": CONCURRENCY,
            "user": USER,
            "group": owner.pw_gid,
        }
        fill(PEERS / "exim" / "exim.conf", conf, values)
        return [str(binary()), "-C", str(conf), "-bdf", "-q1m"]

    def environment(self) -> dict[str, str]:
        """With the libraries that were fetched along with it; exim.conf lets them through to deliveries."""
        return _environment()


EXIM = Peer("exim", missing, version, Exim)
