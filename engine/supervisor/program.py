"""The program as it is installed now: how it is started, and how this process becomes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import engine
from engine.supervisor import signals
from engine.supervisor.spawn import memory_file
from engine.supervisor.state import State, encode

MODULE = "engine.supervisor.successor"  # every version has it, and takes these arguments


def arguments(*words: str) -> list[str]:
    """The argument vector of the installed program in the role of our successor."""
    return [sys.executable, "-P", "-m", MODULE, *words]


def environment() -> dict[str, str]:
    """Our environment, so that the program is looked for where ours was found when it was started; not along the paths of the interpreter that we
    are, since the installed one may be another.
    """
    found = dict(os.environ)
    home = os.path.dirname(os.path.dirname(engine.__file__))
    if not sys.flags.safe_path and sys.path[:1] == [home]:  # `python -m engine` in a source tree
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (home, found.get("PYTHONPATH"))))
    return found


def become(document: State, more: Mapping[str, str]) -> None:
    """Be the installed program from now on, with *document*'s descriptors and *more* in the environment.  OSError: nothing has changed.

    Signals wait from here until the successor listens to them: the default action of each would be the end of the engine.
    """
    fd = memory_file("state", encode(document))
    signals.block()
    try:
        for each in (fd, *document.descriptors):
            os.set_inheritable(each, True)
        os.execve(sys.executable, arguments("take-over", str(fd)), {**environment(), **more})
    finally:
        for each in document.descriptors:
            os.set_inheritable(each, False)
        os.close(fd)
        signals.unblock()
