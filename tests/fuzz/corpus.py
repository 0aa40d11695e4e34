"""The inputs that are kept, a file each in `corpus/TARGET`, and what the targets say to them.

A name is a digest of its content, or `bug-` and what it once broke: those stay whatever they cover.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parent / "corpus"
TRACED = (str(Path(__file__).parents[2] / "engine"), str(Path(__file__).parent / "targets"))
MAX_BYTES = 20_000  # of one target's files together
MAX_FILES = 120

Edge = tuple[str, int, int, int]  # of the sources: file, line before, line, and how often on a scale of powers of two


def load(target: str) -> dict[str, bytes]:
    """Content by file name, in order of names; {} if nothing is kept yet."""
    return {path.name: path.read_bytes() for path in sorted((ROOT / target).glob("*"))}


def observe(target: str) -> dict[str, str]:
    """A digest of what the target says, by file name; whatever it raises goes through."""
    return {name: hashlib.sha256(repr(TARGETS[target](data)).encode("utf-8", "surrogateescape")).hexdigest() for name, data in load(target).items()}


def keep(target: str, candidates: Iterable[bytes]) -> tuple[int, int]:
    """Replace the target's files by the fewest small ones that cover as much; (files, bytes) of them.  Run on the sources."""
    directory = ROOT / target
    directory.mkdir(parents=True, exist_ok=True)
    bugs = {name: data for name, data in load(target).items() if name.startswith("bug-")}
    chosen = list(bugs.values())
    covered: set[Edge] = set().union(*(edges(target, data) for data in chosen))
    rest = [(data, edges(target, data)) for data in sorted({*load(target).values(), *candidates}, key=lambda data: (len(data), data))]
    while rest and len(chosen) < MAX_FILES:
        data, new = max(((data, found - covered) for data, found in rest), key=lambda each: len(each[1]) / (16 + len(each[0])))
        if not new:
            break
        rest = [(other, found - covered - new) for other, found in rest if found - covered - new]
        covered |= new
        if sum(map(len, chosen)) + len(data) <= MAX_BYTES:
            chosen.append(data)
    for path in directory.iterdir():
        if path.name not in bugs:
            path.unlink()
    for data in chosen[len(bugs) :]:
        (directory / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    return len(chosen), sum(map(len, chosen))


def edges(target: str, data: bytes) -> set[Edge]:
    """The steps from line to line that the engine's sources and the target make over *data*, what an assertion ended included."""
    steps: Counter[tuple[str, int, int]] = Counter()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(TRACED):
            return None
        before = 0

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal before
            if event == "line":
                steps[name, before, frame.f_lineno] += 1
                before = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        TARGETS[target](data)
    except Exception:  # noqa: BLE001, S110 - it is told of where it is run
        pass
    finally:
        sys.settrace(None)
    return {(*step, count.bit_length()) for step, count in steps.items()}
