"""What the check of a configuration needs to know of the machine: facts, gathered elsewhere (`engine.supervisor.surroundings`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.config.pattern import Address


@dataclass(frozen=True, slots=True)
class FileFact:
    """One file: its permission bits, or why there are none."""

    mode: int = 0
    missing: bool = False
    problem: str = ""  # it could not be looked at


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The machine as it is now."""

    addresses: frozenset[Address] | None = None  # None: not known, nothing is said of them
    files: Mapping[str, FileFact] = field(default_factory=dict)  # by path; what is not in it is not known
