"""What a spool directory looks like: file names, tables, the few rows that are not MessagePack, the body record's header.

    <spool>/SPOOL         marker: this directory is ours, and in which format
    <spool>/index/        the LMDB environment
    <spool>/bodies/       EPOCH-SEGMENT.seg, both 8 hexadecimal digits
    <spool>/ballast       space that is given back when the disk is full

Opens nothing that is locked: `claim` may be called by whoever comes first, the supervisor included.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

from engine.errors import SpoolError, StartError

FORMAT_VERSION = 1
MARKER = "SPOOL"
INDEX = "index"
DRAFT = "index/new"  # an index that is being made, until it takes the place of the other, on whose file system it is
DATA = "data.mdb"
BODIES = "bodies"
BALLAST = "ballast"
_MARKER_TEXT = re.compile(r"engine spool, format (\d+)\n\Z")
# What may lie in a directory that is to become a spool: what its file system and its owner put there first.
_NOT_CONTENT = re.compile(r"lost\+found|lock|[a-z]+\.(lock|sock|pid)")
_LOCK_MARK = b"engine spool\n"  # the supervisor marks its lock after it found the directory empty: what else lies there is its own

MAP_SIZE_BYTES = 64 << 30  # virtual; every process opens with the same
MAX_READERS = 2048

# --- tables -----------------------------------------------------------------------------------------------------------------------

TABLES = (b"message", b"queue", b"queue_name", b"due", b"segment", b"outbox", b"state", b"meta")
#   message     id -> MESSAGE_HEAD, numbers of its queues (u32 each), encoded Message
#   queue       name -> u32 number, never reused          queue_name   u32 number -> name
#   due         DUE_KEY -> encoded Due
#   segment     SEGMENT_KEY -> SEGMENT_ROW
#   outbox      u64 number -> record
#   state       b"epoch/" + u32 -> EPOCH_ROW + encoded refusals; b"position/" + name -> opaque;
#               b"moved/" + name -> mark of the last Move; the names below
#   meta        b"version" -> u32, b"shard" -> u16, b"moving" -> u32 + name, b"kept/" + DUE_KEY -> b""

MESSAGE_HEAD = struct.Struct(">IIIQH")  # open recipients, epoch and segment of the body, its size in bytes, number of queues that follow
SEGMENT_KEY = struct.Struct(">II")  # epoch, segment
SEGMENT_ROW = struct.Struct(">IQB")  # live messages, their bytes, sealed
EPOCH_ROW = struct.Struct(">Q")  # number of the last operation applied
U16 = struct.Struct(">H")
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
EPOCH_PREFIX = b"epoch/"
POSITION_PREFIX = b"position/"
MOVED_PREFIX = b"moved/"
NEXT_EPOCH = b"next_epoch"
NEXT_QUEUE = b"next_queue"
STAMP = b"stamp"  # due time last given to new mail, ms
EXPORTED = b"exported"  # outbox rows up to this number lie in the sinks, though they may not be deleted yet
VERSION = b"version"
SHARD = b"shard"
MOVING = b"moving"  # in a spool that is drained into another one: under which name, and its next epoch at that time
NAME = b"name"  # of a spool beside the first: what the first one knows it by
KEPT_PREFIX = b"kept/"  # ... and rows of it that were not moved, though what lies behind them was

MAX_KEY_BYTES = 511  # LMDB's bound
MAX_QUEUE_NAME_BYTES = 480

# --- body records -----------------------------------------------------------------------------------------------------------------

RECORD_HEAD = struct.Struct(">Q12sI")  # body bytes, message id, crc32 of the body
SEGMENT_BYTES = 64 << 20  # a new one is opened past this
LARGE_BODY_BYTES = 256 << 10  # larger bodies get a segment of their own
LARGE = 1 << 31  # set in the number of a segment that holds one large body: born sealed
_SEGMENT_NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})\.seg")


class BodyMissing(SpoolError):
    """A live message's body is not where its row says."""


class BodyCorrupt(SpoolError):
    """A body's bytes are not those that were written."""


def segment_name(epoch: int, segment: int) -> str:
    """File name of a segment."""
    return f"{epoch:08x}-{segment:08x}.seg"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """(epoch, segment) of a file in bodies/, None for a file that is not a segment."""
    found = _SEGMENT_NAME.fullmatch(name)
    return (int(found[1], 16), int(found[2], 16)) if found else None


def record_head(message_id: bytes, size_bytes: int, checksum: int) -> bytes:
    """The bytes in front of a body."""
    return RECORD_HEAD.pack(size_bytes, message_id, checksum)


def checksum(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """crc32, continued from *value*."""
    return zlib.crc32(data, value)


def claim(path: str | Path, lock_fd: int = -1) -> Path:
    """The spool directory at *path*, made ours if it is new or empty; StartError if it is neither empty nor ours, or of another format.

    *lock_fd*: the supervisor's open lock on it (-1: none); its mark says that the directory was found empty before the supervisor moved in.
    """
    root = Path(path)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker = root / MARKER
        try:
            text = marker.read_text("ascii")
        except FileNotFoundError:
            _claim_empty(root, marker, lock_fd)
        else:
            check_marker(root, text)
        for name in (INDEX, BODIES):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        sync_directory(root)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"spool {root} cannot be used: {error}") from error
    return root


def _claim_empty(root: Path, marker: Path, lock_fd: int) -> None:
    foreign = sorted(entry.name for entry in root.iterdir() if not _NOT_CONTENT.fullmatch(entry.name))
    if foreign and not (lock_fd >= 0 and os.pread(lock_fd, len(_LOCK_MARK) + 1, 0) == _LOCK_MARK):
        raise StartError(f"spool {root} is neither empty nor a spool of ours (it holds {foreign[0]!r}): name another directory in <spool>")
    draft = root / "spool.lock"  # a torn marker would be refused for ever: it appears whole
    draft.write_text(f"engine spool, format {FORMAT_VERSION}\n", "ascii")
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(marker)


def check_marker(root: Path, text: str) -> None:
    """StartError unless *text*, the marker in *root*, says that it is a spool of ours in this format."""
    found = _MARKER_TEXT.fullmatch(text)
    if not found:
        raise StartError(f"spool {root} is not ours: its file {MARKER} says {text[:40]!r}")
    if int(found[1]) != FORMAT_VERSION:
        raise StartError(f"spool {root} has format {found[1]}, this engine reads and writes format {FORMAT_VERSION}: use the engine that wrote it")


def sync_directory(path: str | Path) -> None:
    """Make the names in *path* durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
