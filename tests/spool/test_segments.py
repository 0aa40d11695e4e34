"""What a SegmentWriter says of a write that the disk did not take whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import SpoolError
from engine.spool import SegmentWriter


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("room_bytes", [0, 1 << 30], ids=["full", "room left"])
def test_a_short_write_is_want_of_room_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool, room_bytes: int) -> None:
    link = SimpleNamespace(epoch=1, on_abandoned=None, submit=lambda operation, done: None)
    writer = SegmentWriter(tmp_path, link)
    body = writer.begin_large(b"\0" * 12) if large else None
    monkeypatch.setattr(os, "pwritev", lambda descriptor, parts, offset: 7)
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: 7)
    monkeypatch.setattr(os, "statvfs", lambda directory: SimpleNamespace(f_bavail=room_bytes, f_frsize=1))
    with pytest.raises(SpoolError, match=r"7 of \d+ bytes went in") as raised:
        if body is not None:
            body.write(b"x" * 1000)
        else:
            writer.write(b"\0" * 12, [b"x" * 1000])
    cause = raised.value.__cause__
    assert (isinstance(cause, OSError) and cause.errno == errno.ENOSPC) == (room_bytes == 0)
