"""`python -m bench.backlog`: what a large backlog costs, and whether other mail feels it.

Five parts, each with an engine of its own: *deferred* (every recipient is told 451 and retried: memory, CPU, restart, release, disk), *due* (a
million recipients that are due when the engine starts), *expired* (a host that is down until bounce-after passes), *domains* (mail to many
destinations, against as much to one) and *dead* (many destinations that are down).
One line for each figure on standard output, all as JSON in bench/results/.  Exit status 1 if a promise is broken.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.backlog.deferred import deferred
from bench.backlog.destinations import dead, domains
from bench.backlog.due import due
from bench.backlog.expired import expired
from bench.backlog.stage import Report, Scale, Stage

PARTS = {"deferred": deferred, "due": due, "expired": expired, "domains": domains, "dead": dead}
DOWN = ("due", "expired", "dead")  # parts with a host that is down
DAY_S = 86_400


def run(part: str, scale: Scale, directory: Path, report: Report) -> None:
    """One of PARTS in *directory*."""
    if part == "due":
        scale = replace(scale, bounce_s=DAY_S)
    with ExitStack() as running:
        PARTS[part](Stage(directory / part, scale, running, down=part in DOWN), report)
