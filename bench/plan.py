"""The rows of `make bench`: which loads, by which systems, how long each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from bench.load import Load
from bench.runs import endless

RELAY, HALF, BULK = "relay", "half", "bulk"
QUEUED, DOMAINS, SOURCES, SLOTS = "queued", "domains", "sources", "slots"
FLAT = (QUEUED, DOMAINS, SOURCES, SLOTS)
"""Groups of the engine alone, each compared with its first row."""
BASE = "relay-10k"
"""The load that targets are about; half load is half of what was delivered in it."""
SLOT_SOURCES = 8  # virtual MTAs in each row of SLOTS
FOREVER = 1_000_000  # messages over one connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One load, run with every system (FLAT: the engine alone)."""

    key: str
    group: str
    title: str
    load: Load
    queued: tuple[int, ...] = ()  # recipients that wait meanwhile: one line of the table for each, in one engine
    virtual_mtas: int = 0
    delivery_workers: int = 0

    @property
    def by_recipient(self) -> bool:
        """Whether its figures count recipients."""
        return self.group == BULK


def _relay(seconds: float, sizes: Sequence[int]) -> list[Row]:
    rows = []
    for kilobytes in sizes:
        for pipeline in (False, True):
            load = Load(messages=endless(1), size_bytes=kilobytes * 1024, pipeline=pipeline, seconds=seconds)
            key = f"relay-{kilobytes}k" + "-pipelined" * pipeline
            rows.append(Row(key=key, group=RELAY, title=f"{kilobytes} KB, 50 sessions{', pipelining' * pipeline}", load=load))
    return rows


def _bulk(seconds: float, recipients: Sequence[int], sessions: Sequence[int] = (1, 50)) -> list[Row]:
    rows = []
    for count in sessions:
        for each in recipients:
            load = Load(
                messages=endless(each), size_bytes=10_240, sessions=count, recipients=each, pipeline=True, per_connection=FOREVER, seconds=seconds
            )  # fmt: skip
            title = f"bulk, 10 KB, {count} connection{'s' * (count > 1)}, {each:,} recipient{'s' * (each > 1)} a message (figures by recipient)"
            rows.append(Row(key=f"bulk-{count}x{each}", group=BULK, title=title, load=load))
    return rows


def _flat(seconds: float, queued: Sequence[int], domains: Sequence[int], sources: Sequence[int], slots: Sequence[int]) -> list[Row]:
    base = Load(messages=endless(1), seconds=seconds)
    rows = [Row(key="queued", group=QUEUED, title="{:,} recipients queued", load=base, queued=tuple(queued))]
    for count in domains:
        load = Load(messages=endless(1), seconds=seconds, domains=count)
        rows.append(Row(key=f"domains-{count}", group=DOMAINS, title=f"{count:,} destination domain{'s' * (count > 1)}", load=load))
    for count in sources:
        title = f"{count} source IP{'s' * (count > 1)}, one slot"
        rows.append(Row(key=f"sources-{count}", group=SOURCES, title=title, load=base, virtual_mtas=count, delivery_workers=1))
    for count in slots:
        title = f"{count} slot{'s' * (count > 1)}, {SLOT_SOURCES} source IPs"
        rows.append(Row(key=f"slots-{count}", group=SLOTS, title=title, load=base, virtual_mtas=SLOT_SOURCES, delivery_workers=count))
    return rows


def plan(*, quick: bool = False) -> list[Row]:
    """All rows; *quick*: fewer and shorter, the shape in three minutes."""
    half = Row(key="half", group=HALF, title="10 KB, 50 sessions, half of its own rate", load=Load(messages=endless(1), seconds=2 if quick else 6))
    if quick:
        return [*_relay(2, [10]), half, *_bulk(1.5, [100]), *_flat(2, (0, 10_000), (1, 1_000), (1, 64), (1, 2))]
    return [
        *_relay(6, [1, 10, 100]),
        half,
        *_bulk(4, [1, 100, 1_000]),
        *_flat(6, (0, 100_000, 1_000_000), (1, 1_000, 10_000, 100_000), (1, 64, 256), (1, 2, 4)),
    ]


def choose(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows that match one of the patterns (`relay`, `bulk-50x*`), with half load its base; ValueError names a pattern that matches none."""
    if not patterns:
        return list(rows)
    for pattern in patterns:
        if not any(_matches(row, pattern) for row in rows):
            raise ValueError(f"no row is called {pattern}: {', '.join(row.key for row in rows)}")
    chosen = {row.key for row in rows if any(_matches(row, pattern) for pattern in patterns)}
    if HALF in chosen:
        chosen.add(BASE)
    return [row for row in rows if row.key in chosen]


def _matches(row: Row, pattern: str) -> bool:
    return pattern == row.group or fnmatch(row.key, pattern)
