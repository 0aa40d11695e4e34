"""Walks a record from its first call to its last and tries states of the disk on the way."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from tests.crash_states import recorder
from tests.crash_states.disk import Choice, Disk, Tree, Write, at_random, boundaries
from tests.crash_states.history import History, Tables
from tests.crash_states.trial import DATA, NEW, digest, problems, scratch, tables_of, write_tree

WORKLOAD = "tests.crash_states.workload"
MAX_FAILURES = 10


class Failure(NamedTuple):
    """A state that is not as it should be."""

    event: int
    call: str
    choice: Choice
    problems: list[str]
    kept: str

    def __str__(self) -> str:
        return "\n  ".join([f"before call {self.event} ({self.call}), kept in {self.kept or 'no place'}: {self.choice}", *self.problems[:6]])


class Result(NamedTuple):
    """What was tried."""

    calls: int
    commits: int
    points: int  # between calls at which states were built
    possible: int  # edge states there were
    tried: int
    distinct: int
    seconds: float
    failures: list[Failure]

    def __str__(self) -> str:
        return (
            f"{self.calls} calls with {self.commits} commits; {self.points} points with {self.possible} edge states; "
            f"{self.tried} states tried, {self.distinct} distinct, in {self.seconds:.1f} s; {len(self.failures)} failures"
        )


class Snapshot(NamedTuple):
    """The tables as one commit left them; they are the only thing that may be found until the next."""

    tables: Tables
    digest: bytes


class Point(NamedTuple):
    """A moment at which the power may go."""

    event: int
    call: str
    pending: list[Write]
    possible: list[Snapshot]  # what may be found
    fresh: bool  # nothing was committed yet, so that there may be no spool


class Walk:
    """A record and the disk that it makes, call by call."""

    def __init__(self, events: list[recorder.Event]) -> None:
        self.events = events
        self.disk = Disk()
        self.history = History()
        self.commits = 0
        self._verdicts: dict[tuple[bytes, int], list[str]] = {}

    def points(self) -> Iterator[Point]:
        """The moments before each call, during each synchronous write, and at the end; the disk and the history are as they were then."""
        now = Snapshot(NEW, digest(NEW))
        for number, event in enumerate(self.events):
            if event.kind == recorder.MARK:
                self.history.feed(event.data)
                continue
            call = f"{event.kind} {event.path}"
            yield Point(number, call, self.disk.pending(), [now], not self.commits)
            write = recorder.apply(self.disk, event)
            if write is None:
                continue
            before = now
            if event.path == DATA:  # LMDB's meta page: the commit
                tables = tables_of(bytes(write.file.now()))
                now = Snapshot(tables, digest(tables))
            yield Point(number, f"during {call}", self.disk.pending(), [before, now], not self.commits)
            self.disk.complete(write)
            self.commits += event.path == DATA
        yield Point(len(self.events), "end", self.disk.pending(), [now], not self.commits)

    def judge(self, snapshot: Snapshot) -> list[str]:
        """What is wrong with the tables of *snapshot* at this point."""
        key = snapshot.digest, self.history.marks
        if key not in self._verdicts:
            if len(self._verdicts) > 4:
                self._verdicts.clear()
            self._verdicts[key] = list(self.history.problems(snapshot.tables))
        return self._verdicts[key]


class Plan(NamedTuple):
    """What to try of a record."""

    record: Path
    root: Path  # that the record is about
    seed: str
    points: int
    edges: float  # chance of each edge state
    others: float  # states at random for each point
    keep: Path | None
    jobs: int


def explore(seed: str, states: int, *, omit: str = "nothing", keep: Path | None = None, jobs: int = 1) -> Result:
    """Record a life that *seed* chooses and try *states* of the disk, in *jobs* processes if more than one; those that fail go to *keep*.

    All edge states are tried and others at random, or a sample of both if *states* are too few for that.  *omit*: a fault to find (workload.py).
    """
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-states-") as name:
        directory = Path(name)
        record, root = recorder.run(directory, WORKLOAD, [seed, omit]), directory / "root"
        events = list(recorder.read(record, root))
        walk = Walk(events)
        possible = points = 0
        for point in walk.points():
            points += 1
            possible += sum(1 for _ in boundaries(len(walk.disk.changes), point.pending))
        assert walk.disk.tree_now() == recorder.tree_of(root), "the record lacks calls: it does not make the files that are there"
        edges = 1.0 if states >= possible else 0.6 * states / possible
        plan = Plan(record, root, seed, points, edges, (states - edges * possible) / points, keep, jobs)
        if jobs == 1:
            shares = [try_share(plan, 0)]
        else:
            with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
                shares = list(pool.map(try_share, repeat(plan), range(jobs)))
    calls = sum(event.kind != recorder.MARK for event in events)
    tried, distinct = (sum(share[at] for share in shares) for at in (0, 1))
    failures = [failure for share in shares for failure in share[2]]
    return Result(calls, walk.commits, points, possible, tried, distinct, time.monotonic() - started_s, failures)


def try_share(plan: Plan, share: int) -> tuple[int, int, list[Failure]]:
    """One process's part, a stretch of the record: states tried, distinct ones of them, and those that failed."""
    trials = Trials(plan)
    first, last = plan.points * share // plan.jobs, plan.points * (share + 1) // plan.jobs
    for number, point in enumerate(trials.walk.points()):
        if first <= number < last and len(trials.failures) < MAX_FAILURES:
            trials.try_point(point)
    return trials.tried, len(trials.seen), trials.failures


class Trials:
    """States chosen along a walk, and what was wrong with them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.walk = Walk(list(recorder.read(plan.record, plan.root)))
        self.tried = 0
        self.seen: set[bytes] = set()
        self.failures: list[Failure] = []

    def try_point(self, point: Point) -> None:
        """Try the states that are chosen of *point*."""
        chance = random.Random(f"{self.plan.seed}/{point.event}/{point.call}")
        history = [problem for snapshot in point.possible for problem in self.walk.judge(snapshot)]
        for choice in self._choices(point, chance):
            self.tried += 1
            tree = self.walk.disk.tree(choice, point.pending)
            found = history + self._problems(tree, point)
            if found:
                self.failures.append(Failure(point.event, point.call, choice, found, self._keep(tree, point)))
                if len(self.failures) >= MAX_FAILURES:
                    return

    def _choices(self, point: Point, chance: random.Random) -> Iterator[Choice]:
        changes = len(self.walk.disk.changes)
        for choice in boundaries(changes, point.pending):
            if chance.random() < self.plan.edges:
                yield choice
        others = self.plan.others
        for _ in range(int(others) + (chance.random() < others % 1)):
            yield at_random(changes, point.pending, chance)

    def _problems(self, tree: Tree, point: Point) -> list[str]:
        """What is wrong with *tree*; nothing for one that was tried already."""
        allowed = {snapshot.digest for snapshot in point.possible}
        key = hashlib.blake2b(repr((point.fresh, sorted(allowed))).encode(), digest_size=16)
        for path, contents in sorted(tree.items()):
            key.update(repr((path, len(contents) if contents is not None else -1)).encode())
            key.update(contents or b"")
        if key.digest() in self.seen:
            return []
        self.seen.add(key.digest())
        with tempfile.TemporaryDirectory(prefix="crash-state-", dir=scratch()) as name:
            write_tree(Path(name), tree)
            return list(problems(Path(name), allowed, fresh=point.fresh))

    def _keep(self, tree: Tree, point: Point) -> str:
        """Where it is kept."""
        if self.plan.keep is None:
            return ""
        directory = self.plan.keep / f"{self.plan.seed}-{point.event}-{len(self.failures)}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_tree(directory, tree)
        return str(directory)
