"""A real spool process for tests, which kills itself where it is told to: `python spool_process.py ROOT LISTENER_FD LOG STATE COUNT`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from engine.process import HEARTBEAT_ROW_BYTES, Birth
from engine.spool import committer, worker
from engine.spool.changes import Changes
from engine.spool.committer import Committer
from engine.spool.files import SegmentFiles
from engine.spool.service import SpoolService
from engine.spool.session import Session

# state -> the function after (or, with a minus, before) which it dies
STATES: dict[str, tuple[type, str, bool]] = {
    "gathered": (Committer, "_commit", True),
    "synced": (Committer, "_sync_bodies", False),
    "applied": (Changes, "finish", False),
    "committed": (Changes, "adopt", True),
    "told": (SpoolService, "_answer", False),
    "answering": (Session, "flush", True),
    "emptied": (SegmentFiles, "unlink", True),
    "unlinked": (SegmentFiles, "unlink", False),
}


def arm(state: str, count: int) -> None:
    """Die at the *count*th time that *state* is reached."""
    owner, name, before = STATES[state]
    real: Callable[..., Any] = getattr(owner, name)
    left = count

    def armed(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        left -= 1
        if before and left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **keywords)
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    if owner is Changes:  # compiled: it stays as it is
        committer.Changes = type("Armed", (Changes,), {name: armed})  # type: ignore[misc]
    else:
        setattr(owner, name, armed)


def main() -> int:
    root, listener_fd, log_path, state, count = sys.argv[1:]
    if state != "-":
        arm(state, int(count))
    heartbeat = os.memfd_create("heartbeat")
    os.truncate(heartbeat, HEARTBEAT_ROW_BYTES)
    birth = Birth(
        role="spool",
        index=0,
        module="engine.spool.worker",
        title="spool",
        supervisor_pid=os.getppid(),
        row=0,
        rows=1,
        config_fd=-1,
        lifeline_fd=-1,
        heartbeat_fd=heartbeat,
        spool_listener_fd=int(listener_fd),
        spool_path=root,
        log_path=log_path,
    )
    return worker.run(birth, SimpleNamespace(spools=()))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
