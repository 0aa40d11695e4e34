"""What a spool takes on the disk against what lives in it, looked at from outside while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from engine.spool import format, index
from engine.spool.files import SegmentFiles

SEGMENTS_MOST = 1.3  # bytes of sealed segments over the live bytes in them
SLACK_SEGMENTS = 4  # ... and so many segments on top: a spool that is nearly empty is left alone
SMALL = 5  # times the slack: with less than that alive the ratio says nothing
INDEX_MOST = 1.5  # bytes of the index over the most that its pages in use ever took
INDEX_LEAST_BYTES = 16 << 20  # an index smaller than this is left alone: a few commits' pages are always free


class Sample(NamedTuple):
    """One moment, in bytes."""

    live: int  # bodies that some recipient still needs, with their heads
    sealed: int  # files that nobody writes to any more
    sealed_live: int  # ... and what lives in them
    open: int  # files that a living worker writes to
    open_live: int
    files: int
    open_files: int  # small-body segments that are open
    epochs: int  # that may write
    index_file: int
    index_used: int  # pages that hold rows, and the trees above them


@dataclass(slots=True)
class Worst:
    """The largest of a ratio, and when."""

    ratio: float = 0.0
    at: str = ""
    bytes: int = 0
    live_bytes: int = 0

    def see(self, total: int, live: int, at: str) -> None:
        """One more; *live* is not 0."""
        ratio = total / live
        if ratio > self.ratio:
            self.ratio, self.at, self.bytes, self.live_bytes = ratio, at, total, live


@dataclass(slots=True)
class Bounds:
    """What must hold of every sample."""

    segment_bytes: int
    segments: Worst = field(default_factory=Worst)
    index: Worst = field(default_factory=Worst)
    high_water: int = 0  # of index_used
    broken: list[str] = field(default_factory=list)
    passing: list[str] = field(default_factory=list)  # moments in which compaction was behind
    samples: int = 0

    def see(self, sample: Sample, at: str) -> None:
        """Look at *sample*; what is broken is said once an hour."""
        self.samples += 1
        self.high_water = max(self.high_water, sample.index_used)
        slack = SLACK_SEGMENTS * self.segment_bytes
        if sample.sealed_live > SMALL * slack:
            self.segments.see(sample.sealed, sample.sealed_live, at)
        if not self.segments_hold(sample):
            _say(self.passing, f"{at}: segments take {sample.sealed >> 20} MB for {sample.sealed_live >> 20} MB that live", at)
        if sample.open_files > 2 * sample.epochs:  # two each while the seal of the first is on its way
            _say(self.broken, f"{at}: {sample.open_files} segments are open, and {sample.epochs} workers may write", at)
        if sample.index_file > INDEX_LEAST_BYTES:
            self.index.see(sample.index_file, self.high_water, at)
            if sample.index_file > INDEX_MOST * self.high_water:
                most = f"its pages in use never more than {self.high_water >> 20} MB"
                _say(self.broken, f"{at}: the index takes {sample.index_file >> 20} MB, {most}", at)

    def segments_hold(self, sample: Sample) -> bool:
        """Whether sealed segments are within their bound."""
        return sample.sealed <= SEGMENTS_MOST * sample.sealed_live + SLACK_SEGMENTS * self.segment_bytes


def _say(lines: list[str], text: str, at: str) -> None:
    if len(lines) < 50 and not any(each.startswith(at) for each in lines):
        lines.append(text)


class Gauge:
    """Reads the spool in *root*, whose spool process may come and go."""

    def __init__(self, root: Path) -> None:
        self._files = SegmentFiles(root / format.BODIES)
        self.env, self.tables = index.open_for_reading(root)

    def sample(self) -> Sample:
        """Now: the files first, so that one which comes meanwhile counts as live only later."""
        sizes = dict(self._files.names())
        with self.env.begin() as txn:
            rows = {
                format.SEGMENT_KEY.unpack(key): format.SEGMENT_ROW.unpack(value) for key, value in txn.cursor(self.tables.segment)
            }
            epochs = self._epochs(txn)
            used = self._used_pages(txn)
        sealed = sealed_live = opened = open_live = open_files = 0
        for segment, size in sizes.items():
            messages, live, is_sealed = rows.get(segment, (0, 0, False))
            live += messages * format.RECORD_HEAD.size
            if is_sealed or segment[0] not in epochs:
                sealed += size
                sealed_live += live
            else:
                opened += size
                open_live += live
                open_files += not segment[1] & format.LARGE
        page = int(self.env.stat()["psize"])
        pages = int(self.env.info()["last_pgno"]) + 1
        return Sample(sealed_live + open_live, sealed, sealed_live, opened, open_live, len(sizes), open_files, len(epochs), pages * page, used * page)

    def _epochs(self, txn: lmdb.Transaction[bytes]) -> set[int]:
        size = len(format.EPOCH_PREFIX)
        cursor = txn.cursor(self.tables.state)
        found: set[int] = set()
        more = cursor.set_range(format.EPOCH_PREFIX)
        while more and cursor.key().startswith(format.EPOCH_PREFIX):
            found.add(format.U32.unpack(cursor.key()[size:])[0])
            more = cursor.next()
        return found

    def _used_pages(self, txn: lmdb.Transaction[bytes]) -> int:
        stats: list[dict[str, Any]] = [dict(txn.stat(getattr(self.tables, name))) for name in self.tables.__slots__]
        stats.append(dict(self.env.stat()))
        return 2 + sum(int(each[kind]) for each in stats for kind in ("branch_pages", "leaf_pages", "overflow_pages"))

    def close(self) -> None:
        """Give the index back."""
        self.env.close()
