"""Body segments as the spool process handles them: syncs them before the commit that names them, unlinks them after the commit that empties them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from engine.spool import format

Segment = tuple[int, int]  # epoch, number

MAX_OPEN = 256


class SegmentFiles:
    """The files in *directory*; one process only calls this."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.failed: dict[Segment, str] = {}  # abandoned: a sync of them failed, and none is tried again
        self._open: OrderedDict[Segment, int] = OrderedDict()

    def sync(self, segments: Iterable[Segment]) -> dict[Segment, str]:
        """Make what lies in *segments* durable, their names included; returns why, for those that could not be."""
        problems: dict[Segment, str] = {}
        opened: list[Segment] = []
        wanted = [segment for segment in segments if segment not in self.failed or problems.setdefault(segment, self.failed[segment]) is None]
        for segment in wanted:
            try:
                if segment not in self._open:
                    self._open[segment] = self._open_file(segment)
                    opened.append(segment)
                self._open.move_to_end(segment)
                self._sync_file(self._open[segment])
            except OSError as error:
                problems[segment] = self._abandon(segment, error)
        if any(segment not in problems for segment in opened):
            try:
                self._sync_directory()
            except OSError as error:
                for segment in opened:
                    problems[segment] = self._abandon(segment, error)
        while len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return problems

    def sync_own(self, descriptor: int) -> None:
        """Make what this process itself wrote durable; OSError if it cannot be: write there no more."""
        self._sync_file(descriptor)

    def unlink(self, segment: Segment) -> None:
        """Remove the file; one that is gone already is fine.  OSError if the file system refuses."""
        self._close(segment)
        self.failed.pop(segment, None)
        try:
            os.unlink(self.directory / format.segment_name(*segment))
        except FileNotFoundError:
            return

    def size_bytes(self, segment: Segment) -> int:
        """Size of its file, 0 if there is none."""
        try:
            return os.stat(self.directory / format.segment_name(*segment), follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def names(self) -> Iterator[tuple[Segment, int]]:
        """Segments that exist, with their sizes in bytes; files of other names are none of ours."""
        with os.scandir(self.directory) as entries:
            for entry in entries:
                segment = format.parse_segment_name(entry.name)
                if segment is not None and entry.is_file(follow_symlinks=False):
                    try:
                        yield segment, entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:  # its worker aborted it meanwhile
                        continue

    def close(self) -> None:
        """Give all descriptors back."""
        for segment in list(self._open):
            self._close(segment)

    def _abandon(self, segment: Segment, error: OSError) -> str:
        self._close(segment)
        reason = f"sync failed: segment {format.segment_name(*segment)}: {error.strerror or error}"
        self.failed[segment] = reason
        return reason

    def _close(self, segment: Segment) -> None:
        descriptor = self._open.pop(segment, None)
        if descriptor is not None:
            os.close(descriptor)

    def _open_file(self, segment: Segment) -> int:
        return os.open(self.directory / format.segment_name(*segment), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _sync_file(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def _sync_directory(self) -> None:
        format.sync_directory(self.directory)
