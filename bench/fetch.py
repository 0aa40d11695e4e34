"""`python -m bench.fetch [exim] [haraka]`: put peers into var/peers, for `make bench` alone.

Debian lets one mail transport agent be installed at a time; so these packages are unpacked, not installed: nothing is started, nothing outside
var/peers is changed, but for the system user Debian-exim that Exim asks for by name and that its package would make.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.peer import FETCHED, library_path

TIMEOUT_S = 600
HARAKA = "Haraka@^3"


class FetchError(Exception):
    """Why it is not there."""


def _run(command: Sequence[str], directory: Path) -> None:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        raise FetchError(f"{' '.join(command)}: {(done.stderr.strip() or done.stdout.strip())[-500:]}")


def _user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        _run(["useradd", *options, name], Path("/"))


def _unpack(directory: Path, packages: Sequence[str], program: str) -> None:
    """Download the packages and unpack them there; FetchError if *program* lacks a library then."""
    _run(["apt-get", "-q", "download", *packages], directory)
    for package in directory.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(directory)], directory)
        package.unlink()
    environment = {**os.environ, "LD_LIBRARY_PATH": library_path(directory)}
    needs = subprocess.run(["ldd", str(directory / program)], env=environment, capture_output=True, text=True, timeout=10, check=False).stdout
    if lacking := [line.split()[0] for line in needs.splitlines() if "not found" in line]:
        raise FetchError(f"{program} needs {', '.join(lacking)}: install the libraries that its package depends on")


def _exim(directory: Path) -> None:
    program = "usr/sbin/exim4"
    _unpack(directory, ["exim4-daemon-light", "libidn12"], program)
    (directory / program).chmod(0o755)  # set-uid it would not find its library; and root starts it anyway
    _user("Debian-exim")


def _haraka(directory: Path) -> None:
    _run(
        ["npm", "install", "--prefix", str(directory), "--omit=dev", "--omit=optional", "--no-audit", "--no-fund", "--ignore-scripts", HARAKA],
        directory,
    )


FETCHERS: dict[str, Callable[[Path], None]] = {"exim": _exim, "haraka": _haraka}


def main(words: Sequence[str] | None = None) -> int:
    """The command; 1 if something could not be fetched."""
    names = list(sys.argv[1:] if words is None else words) or list(FETCHERS)
    if unknown := [name for name in names if name not in FETCHERS]:
        raise SystemExit(f"{', '.join(unknown)}: not among {', '.join(FETCHERS)}")
    status = 0
    for name in names:
        directory = FETCHED / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            FETCHERS[name](directory)
        except FetchError as error:
            shutil.rmtree(directory, ignore_errors=True)
            print(f"{name}: {error}")
            status = 1
            continue
        print(f"{name}: {directory}")
    return status


if __name__ == "__main__":
    sys.exit(main())
