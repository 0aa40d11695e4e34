"""The lives that are recorded: one from the beginning, and second ones on what kills and power cuts left of it."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.crash_states import disk, recorder
from tests.crash_states.explore import Failure, Plan, Record, Start, Walk, cut, try_all
from tests.crash_states.history import History
from tests.crash_states.trial import NEW, scratch, write_tree

WORKLOAD = "tests.crash_states.workload"
STATES_AGAIN = 100  # of each second life


class Result(NamedTuple):
    """What was tried."""

    calls: int
    commits: int
    points: int  # between calls at which states were built
    edges: int  # edge states that there are at these points
    tried: int
    distinct: int  # for each process that tried
    seconds: float
    failures: list[Failure]

    def __str__(self) -> str:
        return (
            f"{self.calls} calls with {self.commits} commits; {self.points} points with {self.edges} edge states; "
            f"{self.tried} states tried, {self.distinct} distinct, in {self.seconds:.1f} s; {len(self.failures)} failures"
        )


def explore(
    seed: str, states: int, *, again: int = 0, omit: str = "", keep: Path | None = None, jobs: int = 1
) -> Iterator[tuple[str, Result]]:
    """Record a life that *seed* chooses and try *states* of the disk, in *jobs* processes; what they were, and those that fail go to *keep*.

    *again*: so many lives besides are cut at a point of the first, so many are killed at some call; on what they leave a second life begins, and
    STATES_AGAIN of each are tried.  *omit*: a fault to find (Record).
    """
    chance = random.Random(seed)
    new = Start({}, NEW, History(), 0)
    with tempfile.TemporaryDirectory(prefix="crash-states-", dir=scratch()) as name:
        directory = Path(name)
        first = Record(recorder.run(directory / "first", WORKLOAD, [seed, "first"]), directory / "first" / "root", new, seed, omit)
        result = try_record(first, states, keep, jobs)
        yield "the first life", result
        for number in range(again):
            start = cut(first, chance.randrange(result.points), chance)
            place = directory / f"cut-{number}"
            write_tree(place / "root", start.tree)
            record = Record(recorder.run(place, WORKLOAD, [seed, "second"]), place / "root", start, f"{seed}/cut-{number}", omit)
            yield "a life after a power cut", try_record(record, STATES_AGAIN, keep, 1)
        for number in range(again):
            place = directory / f"killed-{number}"
            recorder.run(place, WORKLOAD, [seed, "first"], die_at=chance.randrange(1, result.calls * 9 // 10))
            record = Record(recorder.run(place, WORKLOAD, [seed, "second"]), place / "root", new, f"{seed}/killed-{number}", omit, killed=True)
            yield "a life after a kill", try_record(record, STATES_AGAIN, keep, 1)


def try_record(record: Record, states: int, keep: Path | None, jobs: int) -> Result:
    """Try *states* of a life: all edge states and others at random, or a sample of both if *states* are too few for that."""
    started_s = time.monotonic()
    walk = Walk(record)
    points = edges = 0
    for point in walk.points():
        points += 1
        edges += sum(1 for _ in disk.edges(len(walk.disk.changes), point.pending))
    assert walk.disk.tree_now() == recorder.tree_of(record.root), "the record lacks calls: it does not make the files that are there"
    edge = 1.0 if states >= edges else 0.6 * states / edges
    shares = try_all(Plan(record, points, edge, (states - edge * edges) / points, keep, jobs))
    tried = sum(share[0] for share in shares)
    distinct = sum(share[1] for share in shares)
    failures = [failure for share in shares for failure in share[2]]
    return Result(walk.calls, walk.commits - record.start.commits, points, edges, tried, distinct, time.monotonic() - started_s, failures)


def total(results: list[Result]) -> Result:
    """Their sum."""
    return Result(
        calls=sum(result.calls for result in results),
        commits=sum(result.commits for result in results),
        points=sum(result.points for result in results),
        edges=sum(result.edges for result in results),
        tried=sum(result.tried for result in results),
        distinct=sum(result.distinct for result in results),
        seconds=sum(result.seconds for result in results),
        failures=[failure for result in results for failure in result.failures],
    )
