"""What a disk may hold after a power cut: the model.

Files. A write lies in the page cache until its file is synced; only a write through a descriptor with O_DSYNC is on the disk when it returns. Until
then it may be lost, be there whole, or be torn: any of its sectors (512 bytes) or of its pages (4096) may be there without the others, whatever
was written before or after. A sector itself is never torn. A file may have its new length while what was written there is lost: it reads as zeros.

Names. Creating, removing and renaming are changes of a directory; each may be lost by itself until the directory is synced, in any order, and
whatever lies in a directory is lost with its name. Syncing a file does not keep its name (ext4 would). A rename is one change: the file has its
old name or its new one, in a rename between two directories too, which is kept once either of them is synced.

That is more than any one file system does (journals keep the order of names; ext4 with data=ordered writes data before lengths), so that what
survives it survives all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple

SECTOR = 512
PAGE = 4096
Tree = dict[str, bytes | None]  # path below the root -> contents of a file, None for a directory


class Write:
    """Bytes that go to *offset* of a file, or (data None) its new length."""

    def __init__(self, file: File, offset: int, data: bytes | None) -> None:
        self.file = file
        self.offset = offset
        self.data = data

    def apply(self, contents: bytearray, pieces: Iterable[tuple[int, int]] | None = None) -> None:
        """Change *contents*; *pieces*: only these parts of the data, as (start, end) in the file."""
        if self.data is None:
            _resize(contents, self.offset)
            return
        for start, end in pieces if pieces is not None else [(self.offset, self.offset + len(self.data))]:
            if len(contents) < end:
                _resize(contents, end)
            contents[start:end] = self.data[start - self.offset : end - self.offset]

    def over(self, data: bytes, offset: int) -> bytes:
        """*data*, which lies at *offset*, where this one has been written over it."""
        assert self.data is not None
        start, end = max(self.offset, offset), min(self.offset + len(self.data), offset + len(data))
        return data if start >= end else data[: start - offset] + self.data[start - self.offset : end - self.offset] + data[end - offset :]

    def units(self, unit: int) -> list[tuple[int, int]]:
        """The parts of it that are written or not, each as a whole."""
        end = self.offset + len(self.data or b"")
        edges = [self.offset, *range((self.offset // unit + 1) * unit, end, unit), end]
        return list(pairwise(edges))


class File:
    """A file whatever its name: what is on the disk, and what is only in the page cache, in order."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[Write] = []

    def now(self) -> bytearray:
        """What a reader sees while the power is on."""
        contents = bytearray(self.durable)
        for write in self.pending:
            write.apply(contents)
        return contents

    def sync(self) -> None:
        self.durable = self.now()
        self.pending = []


class Directory:
    """Names on the disk, and names that processes see."""

    def __init__(self) -> None:
        self.durable: dict[str, Node] = {}
        self.now: dict[str, Node] = {}


Node = File | Directory


class Change(NamedTuple):
    """A change of names that is not on the disk: *old* goes, *new* comes, together."""

    old: tuple[Directory, str] | None
    new: tuple[Directory, str] | None
    node: Node

    def apply(self, names: dict[int, dict[str, Node]]) -> None:
        """Change *names*, the entries of each directory by its id()."""
        for place, comes in ((self.old, False), (self.new, True)):
            if place is None:
                continue
            entries = names.setdefault(id(place[0]), dict(place[0].durable))
            if comes:
                entries[place[1]] = self.node
            elif entries.get(place[1]) is self.node:
                del entries[place[1]]


class Choice(NamedTuple):
    """What of the pending work is on the disk: numbers of changes; number of a write -> its parts, None for all; whether lengths are."""

    changes: frozenset[int]
    writes: dict[int, list[tuple[int, int]] | None]
    lengths: bool = False


class Disk:
    """A directory tree of which part is on the disk; at first *tree*, all of it."""

    def __init__(self, tree: Tree | None = None) -> None:
        self.root = Directory()
        self.changes: list[Change] = []
        self._inodes: dict[int, File] = {}
        for path, contents in sorted((tree or {}).items()):
            directory, name = self.find(PurePosixPath(path))
            node: Node = Directory()
            if contents is not None:
                node = File()
                node.durable = bytearray(contents)
            directory.now[name] = directory.durable[name] = node

    # --- what processes do -------------------------------------------------------------------------------------------------------------

    def find(self, path: PurePosixPath) -> tuple[Directory, str]:
        """The directory of *path* and the name in it."""
        directory = self.root
        for part in path.parts[:-1]:
            node = directory.now[part]
            assert isinstance(node, Directory), path
            directory = node
        return directory, path.name

    def know(self, inode: int, path: PurePosixPath) -> None:
        """A call names the file of that number: one that was there from the first has it from now on."""
        if inode not in self._inodes:
            directory, name = self.find(path)
            file = directory.now[name]
            assert isinstance(file, File), path
            self._inodes[inode] = file

    def create(self, path: PurePosixPath, inode: int) -> None:
        file = self._inodes[inode] = File()
        self._link(path, file)

    def make_directory(self, path: PurePosixPath) -> None:
        self._link(path, Directory())

    def remove(self, path: PurePosixPath) -> None:
        place = directory, name = self.find(path)
        self.changes.append(Change(place, None, directory.now.pop(name)))

    def rename(self, old: PurePosixPath, new: PurePosixPath) -> None:
        source, target = self.find(old), self.find(new)
        node = source[0].now.pop(source[1])
        target[0].now[target[1]] = node
        self.changes.append(Change(source, target, node))

    def write(self, inode: int, offset: int, data: bytes | None) -> Write:
        file = self._inodes[inode]
        write = Write(file, offset, data)
        file.pending.append(write)
        return write

    def complete(self, write: Write) -> None:
        """*write* is on the disk, whatever else is: what was pending at its place goes there with it."""
        assert write.data is not None
        write.file.pending.remove(write)
        write.apply(write.file.durable)
        for other in write.file.pending:
            if other.data is not None:
                other.data = write.over(other.data, other.offset)

    def sync(self, inode: int) -> None:
        self._inodes[inode].sync()

    def is_directory(self, path: PurePosixPath) -> bool:
        """Whether *path* is one; a file that has no name any more is none."""
        node: Node | None = self.root
        for part in path.parts:
            node = node.now.get(part) if isinstance(node, Directory) else None
        return isinstance(node, Directory)

    def sync_directory(self, path: PurePosixPath) -> None:
        directory: Node = self.root
        for part in path.parts:
            assert isinstance(directory, Directory), path
            directory = directory.now[part]
        left: list[Change] = []
        for change in self.changes:
            if any(place is not None and place[0] is directory for place in (change.old, change.new)):
                names: dict[int, dict[str, Node]] = {}
                change.apply(names)
                for place in (change.old, change.new):
                    if place is not None:
                        place[0].durable = names[id(place[0])]
            else:
                left.append(change)
        self.changes = left

    def _link(self, path: PurePosixPath, node: Node) -> None:
        place = directory, name = self.find(path)
        directory.now[name] = node
        self.changes.append(Change(None, place, node))

    # --- what the power cut leaves -----------------------------------------------------------------------------------------------------

    def pending(self) -> list[Write]:
        """Writes that are in the page cache only, of files that have a name or may have one."""
        reachable: dict[int, Node] = {id(self.root): self.root}
        stack: list[Directory] = [self.root]
        candidates = [change.node for change in self.changes]
        while stack or candidates:
            nodes = [*(stack.pop().durable.values() if stack else ()), *candidates]
            candidates = []
            for node in nodes:
                if id(node) not in reachable:
                    reachable[id(node)] = node
                    if isinstance(node, Directory):
                        stack.append(node)
        return [write for node in reachable.values() if isinstance(node, File) for write in node.pending]

    def tree(self, choice: Choice, pending: list[Write]) -> Tree:
        """The disk after a power cut; *pending*: as `pending` returned it."""
        names: dict[int, dict[str, Node]] = {}
        for number, change in enumerate(self.changes):
            if number in choice.changes:
                change.apply(names)
        contents: dict[int, bytearray] = {}
        for number, write in enumerate(pending):
            if number in choice.writes or choice.lengths:
                file = contents.setdefault(id(write.file), bytearray(write.file.durable))
                if number in choice.writes:
                    write.apply(file, choice.writes[number])
                elif write.data is not None and len(file) < write.offset + len(write.data):
                    _resize(file, write.offset + len(write.data))
        return dict(self._walk(self.root, "", lambda directory: names.get(id(directory), directory.durable), contents))

    def tree_now(self) -> Tree:
        """What processes see."""
        changes = frozenset(range(len(self.changes)))
        pending = self.pending()
        return self.tree(Choice(changes, dict.fromkeys(range(len(pending)))), pending)

    def _walk(self, directory: Directory, prefix: str, entries: object, contents: dict[int, bytearray]) -> Iterator[tuple[str, bytes | None]]:
        for name, node in entries(directory).items():  # type: ignore[operator]
            if isinstance(node, Directory):
                yield prefix + name, None
                yield from self._walk(node, prefix + name + "/", entries, contents)
            else:
                yield prefix + name, bytes(contents.get(id(node), node.durable))


class Edge(NamedTuple):
    """A state at the edge: `choice` makes it."""

    what: str
    number: int = 0
    unit: int = 0

    def choice(self, changes: int, pending: list[Write]) -> Choice:
        """As a choice of *changes* and *pending*."""
        names = frozenset(range(changes))
        whole: dict[int, list[tuple[int, int]] | None] = dict.fromkeys(range(len(pending)))
        number = self.number
        if self.what == "all":
            return Choice(names, whole)
        if self.what == "nothing":
            return Choice(frozenset(), {})
        if self.what == "names":
            return Choice(names, {}, lengths=self.unit > 0)
        if self.what == "writes":
            return Choice(frozenset(), whole)
        if self.what == "name lost":
            return Choice(names - {number}, whole)
        if self.what == "name kept":
            return Choice(frozenset([number]), whole)
        if self.what == "write lost":
            return Choice(names, {other: None for other in whole if other != number})
        if self.what == "write kept":
            return Choice(names, {number: None})
        units = pending[number].units(self.unit)
        half = len(units) // 2
        if self.what == "end lost":
            return Choice(names, whole | {number: units[:half]})
        return Choice(names, whole | {number: units[half:]}, lengths=True)


def edges(changes: int, pending: list[Write]) -> Iterator[Edge]:
    """All or nothing of what is pending; each piece lost alone, kept alone, or torn alone; names without data and data without names."""
    yield Edge("all")
    if not changes and not pending:
        return
    yield from (Edge("nothing"), Edge("names"), Edge("names", unit=1), Edge("writes"))
    for number in range(changes):
        yield from (Edge("name lost", number), Edge("name kept", number))
    for number, write in enumerate(pending):
        yield from (Edge("write lost", number), Edge("write kept", number))
        for unit in (SECTOR, PAGE):
            if write.data is not None and write.offset // unit != (write.offset + len(write.data) - 1) // unit:
                yield from (Edge("end lost", number, unit), Edge("begin lost", number, unit))


def at_random(changes: int, pending: list[Write], chance: random.Random) -> Choice:
    """Any of the states: each piece lost, whole or torn, with a bias that is drawn first."""
    bias = chance.choice((0.1, 0.5, 0.9))
    names = frozenset(number for number in range(changes) if chance.random() < bias)
    writes: dict[int, list[tuple[int, int]] | None] = {}
    for number, write in enumerate(pending):
        units = write.units(chance.choice((SECTOR, PAGE)))
        if write.data is not None and len(units) > 1 and chance.random() < 0.4:
            writes[number] = [unit for unit in units if chance.random() < bias]
        elif chance.random() < bias:
            writes[number] = None
    return Choice(names, writes, chance.random() < 0.5)


def _resize(contents: bytearray, size: int) -> None:
    if len(contents) < size:
        contents.extend(bytes(size - len(contents)))
    else:
        del contents[size:]
