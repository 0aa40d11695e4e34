"""Walks a record from its first call to its last and tries states of the disk on the way."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import random
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.crash_states import recorder
from tests.crash_states.disk import Choice, Disk, Tree, Write, at_random, edges
from tests.crash_states.history import SECOND, History, Tables
from tests.crash_states.trial import DATA, NEW, digest, problems, scratch, tables_of, write_tree

MAX_FAILURES = 10
ANSWERS = "answers"


class Start(NamedTuple):
    """What a life begins on."""

    tree: Tree
    tables: Tables
    history: History
    commits: int  # that were made before


class Record(NamedTuple):
    """A life."""

    path: Path  # of the record
    root: Path  # that it is about
    start: Start
    seed: str  # of the choice of states
    omit: str = ""  # as if there were none of these: syncs of paths that match, or ANSWERS: everything is promised as soon as it is sent
    killed: bool = False  # two processes made it, and what is to be tried begins with the second

    def events(self) -> Iterator[recorder.Event]:
        """Its calls and marks."""
        for event in recorder.read(self.path, self.root):
            if event.kind == "S" and self.omit and fnmatchcase(event.path, self.omit):
                continue
            yield event
            if event.kind == recorder.MARK and self.omit == ANSWERS:
                kind, *values = msgspec.msgpack.decode(event.data)
                if kind == "sent":
                    yield event._replace(data=msgspec.msgpack.encode(["answered", *values[:2], []]))


class Failure(NamedTuple):
    """A state that is not as it should be."""

    seed: str
    event: int
    call: str
    choice: Choice
    problems: list[str]
    kept: str

    def __str__(self) -> str:
        where = f"life {self.seed}, before call {self.event} ({self.call}), kept in {self.kept or 'no place'}: {self.choice}"
        return "\n  ".join([where, *self.problems[:6]])


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

    def __init__(self, record: Record) -> None:
        self.record = record
        self.disk = Disk(record.start.tree)
        self.history = copy.deepcopy(record.start.history)
        self.commits = record.start.commits
        self.calls = 0
        self._verdicts: dict[tuple[bytes, int], list[str]] = {}

    def points(self) -> Iterator[Point]:
        """The moments before each call, during each synchronous write, and at the end; the disk and the history are as they were then."""
        now = Snapshot(self.record.start.tables, digest(self.record.start.tables))
        tried = not self.record.killed
        number = 0
        for number, event in enumerate(self.record.events()):
            if event.kind == recorder.MARK:
                if event.data == SECOND:
                    tried = True
                    self.history.decide(now.tables)
                else:
                    self.history.feed(event.data)
                continue
            self.calls += 1
            call = f"{event.kind} {event.path}"
            if tried:
                yield Point(number, call, self.disk.pending(), [now], not self.commits)
            write = recorder.apply(self.disk, event)
            if write is None:
                continue
            before = now
            if event.path == DATA:  # LMDB's meta page: the commit
                tables = tables_of(bytes(write.file.now()))
                now = Snapshot(tables, digest(tables))
            if tried:
                yield Point(number, f"during {call}", self.disk.pending(), [before, now], not self.commits)
            self.disk.complete(write)
            self.commits += event.path == DATA
        yield Point(number + 1, "end", self.disk.pending(), [now], not self.commits)

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

    record: Record
    points: int
    edges: float  # chance of each edge state
    others: float  # states at random for each point
    keep: Path | None
    jobs: int


def try_share(plan: Plan, share: int) -> tuple[int, int, list[Failure]]:
    """One process's part, a stretch of the record: states tried, distinct ones of them, and those that failed."""
    trials = Trials(plan)
    first, last = plan.points * share // plan.jobs, plan.points * (share + 1) // plan.jobs
    for number, point in enumerate(trials.walk.points()):
        if first <= number < last and len(trials.failures) < MAX_FAILURES:
            trials.try_point(point)
    return trials.tried, len(trials.seen), trials.failures


def try_all(plan: Plan) -> list[tuple[int, int, list[Failure]]]:
    """All shares; in processes of their own if there are more than one."""
    if plan.jobs == 1:
        return [try_share(plan, 0)]
    with ProcessPoolExecutor(plan.jobs, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(try_share, repeat(plan), range(plan.jobs)))


class Trials:
    """States chosen along a walk, and what was wrong with them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.walk = Walk(plan.record)
        self.tried = 0
        self.seen: set[bytes] = set()
        self.failures: list[Failure] = []

    def try_point(self, point: Point) -> None:
        """Try the states that are chosen of *point*."""
        chance = random.Random(f"{self.plan.record.seed}/{point.event}/{point.call}")
        history = [problem for snapshot in point.possible for problem in self.walk.judge(snapshot)]
        for choice in self._choices(point, chance):
            self.tried += 1
            tree = self.walk.disk.tree(choice, point.pending)
            found = history + self._problems(tree, point)
            if found:
                self.failures.append(Failure(self.plan.record.seed, point.event, point.call, choice, found, self._keep(tree, point)))
                if len(self.failures) >= MAX_FAILURES:
                    return

    def _choices(self, point: Point, chance: random.Random) -> Iterator[Choice]:
        changes = len(self.walk.disk.changes)
        for edge in edges(changes, point.pending):
            if chance.random() < self.plan.edges:
                yield edge.choice(changes, point.pending)
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
        directory = self.plan.keep / f"{self.plan.record.seed}-{point.event}-{len(self.failures)}".replace("/", "-")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_tree(directory, tree)
        return str(directory)


def cut(record: Record, at: int, chance: random.Random) -> Start:
    """What a power cut at point *at* left, by *chance*, for somebody to begin on."""
    walk = Walk(record)
    for number, point in enumerate(walk.points()):
        if number < at:
            continue
        tree = walk.disk.tree(at_random(len(walk.disk.changes), point.pending, chance), point.pending)
        data = tree.get(DATA)
        tables = tables_of(data) if data else NEW
        walk.history.decide(tables)
        return Start(tree, tables, walk.history, walk.commits)
    raise AssertionError(f"there is no point {at}")
