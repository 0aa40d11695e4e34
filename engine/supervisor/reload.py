"""What a reload would change, and whether it may: the configuration is read and checked whole before any of it applies."""

from __future__ import annotations

import os
from collections.abc import Callable

from engine.config import build, read
from engine.config.diff import Change, diff, needs_restart
from engine.control import Changed, Reloaded
from engine.errors import StartError
from engine.supervisor import generation
from engine.supervisor.configuration import Options, load
from engine.supervisor.generation import Generation

CHANGES_SHOWN = 1000
PROBLEMS_SHOWN = 200
SHOWN_CHARACTERS = 200  # of a value


def examine(now: Generation, options: Options, workers: Callable[[int, int], tuple[int, int]]) -> tuple[Reloaded, Generation | None]:
    """What the configuration on disk would change, and the Generation that it makes; None where it cannot be applied or says nothing else."""
    conf = os.path.abspath(options.conf)
    snapshot = read(options.conf, lenient=options.lenient)
    loaded = build(snapshot)
    said = [str(problem) for problem in loaded.problems]
    if loaded.config is None:
        return Reloaded(conf, False, [line for line in said if ": error: " in line][:PROBLEMS_SHOWN], []), None
    try:
        after = generation.generation(now.number + 1, load(snapshot, options.state_dir)[0], snapshot, options, workers, now.first)
    except StartError as error:
        return Reloaded(conf, False, [str(error)], []), None
    changes = diff(now.facts, after.facts)
    refused = needs_restart(changes, now.first)
    shown = [_shown(change) for change in changes[:CHANGES_SHOWN]]
    answer = Reloaded(conf, not refused, [_why(change) for change in refused] or said[:PROBLEMS_SHOWN], shown, max(0, len(changes) - len(shown)))
    if refused or (not changes and after.where == now.where):
        os.close(after.config_fd)
        return answer, None
    return answer, after


def _shown(change: Change) -> Changed:
    return Changed(*change.fact, _cut(change.before), _cut(change.after))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


def _why(change: Change) -> str:
    return f"{_shown(change)}: only engine stop and start change this; nothing has been changed"
