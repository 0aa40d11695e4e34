"""Looks at the machine for the check of a configuration: its addresses, and the files that the configuration names.  Opens none of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from engine.config.surroundings import FileFact, Surroundings
from engine.supervisor.sockets import local_addresses


def look(paths: Iterable[str]) -> Surroundings:
    """The machine as it is now; what cannot be found out is left open.  Raises nothing."""
    try:
        addresses = frozenset(local_addresses())
    except (OSError, ValueError):
        return Surroundings(None, {path: _file(path) for path in paths})
    return Surroundings(addresses, {path: _file(path) for path in paths})


def _file(path: str) -> FileFact:
    try:
        return FileFact(stat.S_IMODE(os.stat(path).st_mode))
    except (FileNotFoundError, NotADirectoryError):
        return FileFact(missing=True)
    except (OSError, ValueError) as error:
        return FileFact(problem=getattr(error, "strerror", None) or str(error))
