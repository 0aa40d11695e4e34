"""`python -m tests.peers.install`: install Debian's packages of the programs that these tests want, where that is allowed; say what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from bench.postfix import PROGRAMS

PACKAGES = {
    "postfix": "postfix", "smtp-source": "postfix", "smtp-sink": "postfix", "swaks": "swaks", "curl": "curl", "unbound": "unbound",
    "msmtp": "msmtp", "openssl": "openssl", "node": "nodejs", "nodemailer": "node-nodemailer",
}
"""program -> Debian package"""
NODE_MODULES = "/usr/share/nodejs"  # where Debian keeps libraries of Node, of which nodemailer is one
TIMEOUT_S = 600


def path_of(program: str) -> str | None:
    """Where *program* is, or None."""
    if program == "nodemailer":
        module = os.path.join(NODE_MODULES, program)
        return module if os.path.isdir(module) and path_of("node") else None
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{PROGRAMS}")


def missing() -> list[str]:
    """Programs that are not here."""
    return [program for program in PACKAGES if path_of(program) is None]


def _apt(*words: str) -> str | None:
    """Run apt-get; None, or why it failed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            ["apt-get", "-q", *words], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        return f"apt-get {words[0]} took longer than {TIMEOUT_S} s"
    return None if done.returncode == 0 else f"apt-get {words[0]}: {(done.stderr.strip() or done.stdout.strip())[-300:]}"


def _keep_services_off() -> None:
    """Packages must not start their daemons: where Debian's policy hook is free, say no to all until we are done."""
    hook = "/usr/sbin/policy-rc.d"
    with open(hook, "x", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 101\n")
    os.chmod(hook, 0o755)


def install() -> list[str]:
    """Try; the reasons why something is still missing, [] when all is here."""
    if not missing():
        return []
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return [f"{program}: not installed, and only root with apt-get could (apt-get install {PACKAGES[program]})" for program in missing()]
    packages = sorted({PACKAGES[program] for program in missing()})
    ours = not os.path.exists("/usr/sbin/policy-rc.d")
    if ours:
        _keep_services_off()
    try:
        failed = [reason for reason in (_apt("update"), _apt("install", "-y", "--no-install-recommends", *packages)) if reason]
    finally:
        if ours:
            os.unlink("/usr/sbin/policy-rc.d")
    return [f"{program}: {'; '.join(failed) or 'its package does not contain it'}" for program in missing()]


def main() -> int:
    """Say what is here and what is not; 0 either way: a missing program is a skipped test, not a failure."""
    reasons = install()
    for program in PACKAGES:
        if path := path_of(program):
            print(f"{program}: {path}")
    for reason in reasons:
        print(f"cannot run: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
