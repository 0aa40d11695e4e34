"""Asks the installed program whether it could take our place: a child of its own that reads the State, loads everything, and writes a Verdict."""

from __future__ import annotations

import fcntl
import os
import signal

import msgspec

from engine.supervisor import signals
from engine.supervisor.program import arguments, environment
from engine.supervisor.spawn import memory_file, start_program
from engine.supervisor.state import State, encode

SAID_BYTES = 64 << 10  # that a trial may say
LINES_SHOWN = 20


class Verdict(msgspec.Struct, frozen=True):
    """What a trial has found; no *problems*: it could take over."""

    version: str  # of the installed program; "" if it did not come to say it
    problems: list[str] = []


class Trial:
    """One trial under way; OSError where it cannot be started."""

    def __init__(self, document: State, until_s: float) -> None:
        self.generation = document.generation  # of the configuration that it is tried with
        self.until_s = until_s
        self._answer, self._said = _sealed("answer"), _sealed("said")
        state = memory_file("state", encode(document))
        try:
            inherited = [state, self._answer, document.config_fd, document.tls_fd, document.door_fd]
            self.pid = start_program(arguments("trial", str(state), str(self._answer)), environment(), inherited, output=self._said)
        except OSError:
            self._close()
            raise
        finally:
            os.close(state)

    def poll(self, now_s: float) -> Verdict | None:
        """What it says, once it has ended or its time is over; None before."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if now_s < self.until_s:
                return None
            self.end()
            return Verdict("", ["the installed program has not answered in time"])
        answer, said = _text(self._answer), _text(self._said)
        self._close()
        try:
            verdict = msgspec.json.decode(answer, type=Verdict)
        except msgspec.MsgspecError:
            verdict = Verdict("", [f"the installed program does not answer ({_ended(status)})", *said.strip().splitlines()[-LINES_SHOWN:]])
        return verdict

    def end(self) -> None:
        """Nobody waits for what it says any more."""
        signals.send(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._close()

    def _close(self) -> None:
        os.close(self._answer)
        os.close(self._said)


def _sealed(name: str) -> int:
    """A memory file of SAID_BYTES that cannot grow."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SAID_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def _text(fd: int) -> str:
    return os.pread(fd, SAID_BYTES, 0).rstrip(b"\0").decode(errors="replace")


def _ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signals.name(-code)}" if code < 0 else f"exit status {code}"
