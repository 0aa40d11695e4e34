"""A spool that no engine runs on, made small: everything live is where it was, whenever that is cut short."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine.errors import SpoolError, StartError
from engine.spool import SpoolReader, format, offline
from engine.spool.ops import Exported
from tests.spool.stepping import Spool, Worker, accept, settle

SEGMENT_BYTES = 20_000
KEEP_EACH = 10


class Copied(Exception):
    """Where a test cuts it short."""


def used(tmp_path: Path, count: int = 300, body: bytes = b"0123456789\r\n" * 30) -> dict[bytes, bytes]:
    """A spool in tmp_path/spool that nobody closed, of whose *count* messages every tenth is left; those, by id."""
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=SEGMENT_BYTES)
    kept: dict[bytes, bytes] = {}
    for number in range(count):
        identity = worker.new_id()
        content = b"%d " % number + body
        worker.send(accept(identity, worker.writer_.write(identity, [content]), f"d{number}.example/v"))
        if number % KEEP_EACH == 0:
            kept[identity] = content
        if number % 50 == 49:
            spool.step()
            worker.hear()
    worker.do(settle(*[key for key, _ in spool.rows() if key[13:25] not in kept]))
    worker.do(Exported(100, {"acct": b"here"}))
    spool.crash()
    worker.socket.close()
    return kept


def whole(root: Path, kept: dict[bytes, bytes]) -> None:
    """Everything of *kept* is there, and nothing else."""
    reader = SpoolReader(root)
    try:
        messages = reader.messages(kept)
        assert messages.keys() == kept.keys()
        assert {identity: reader.body(message.body, identity) for identity, message in messages.items()} == kept
        rows = [key for queue, _ in reader.queues(0, 1000) for key, _ in reader.due(queue, None, 1 << 62, 1000)[0]]
        assert sorted(key[13:25] for key in rows) == sorted(kept)
        assert reader.positions() == {"acct": b"here"}
        numbers = [number for number, _ in reader.outbox(0, 1000)]
        assert numbers == list(range(101, 271))  # 270 settled, 100 of them exported
    finally:
        reader.close()


def test_it_gives_space_back_and_the_engine_goes_on(tmp_path: Path) -> None:
    kept = used(tmp_path)
    root = tmp_path / "spool"
    done = offline.compact(root)
    whole(root, kept)
    assert done.bodies_before_bytes > 5 * done.bodies_after_bytes
    assert done.index_after_bytes < done.index_before_bytes
    assert done.segments_emptied > 3 and done.segments_damaged == 0
    assert (root / "index" / "data.mdb").stat().st_size == done.index_after_bytes
    assert (root / "index" / "data.mdb").stat().st_mode & 0o777 == 0o600
    assert not (root / format.DRAFT).exists()
    spool = Spool(tmp_path)
    assert "epochs_waiting=0 orphans_removed=0" in spool.log_text()
    worker = Worker(spool)
    worker.writer_ = worker.writer()
    identity = worker.new_id()
    assert identity not in kept
    assert worker.do(accept(identity, worker.writer_.write(identity, [b"new"]), "d0.example/v")) == [None]
    assert worker.do(settle(*[key for key, _ in spool.rows()])) == [None]
    assert spool.table("message") == {}
    spool.close()


def test_twice_changes_nothing_more(tmp_path: Path) -> None:
    kept = used(tmp_path)
    first = offline.compact(tmp_path / "spool")
    second = offline.compact(tmp_path / "spool")
    whole(tmp_path / "spool", kept)
    assert (second.segments_emptied, second.bodies_after_bytes) == (0, first.bodies_after_bytes)


@pytest.mark.parametrize("where", ["mkdir", "copy", "fsync", "compare", "replace", "sync_directory", "_move", "sync_own"])
def test_cut_short_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    kept = used(tmp_path)
    root = tmp_path / "spool"
    owner: Any = {
        "mkdir": Path, "copy": offline, "fsync": os, "compare": offline, "replace": os, "sync_directory": format,
        "_move": offline.Compactor, "sync_own": offline.SegmentFiles,
    }[where]  # fmt: skip
    name = {"copy": "_copy_index", "compare": "_same_rows"}.get(where, where)
    real = getattr(owner, name)
    calls = 0

    def cut(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > (1 if where == "_move" else 0) and (where != "fsync" or format.DRAFT in os.readlink(f"/proc/self/fd/{arguments[0]}")):
            raise Copied
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, cut)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed: nobody tidies up
    with pytest.raises(Copied):
        offline.compact(root)
    monkeypatch.undo()
    whole(root, kept)
    offline.compact(root)
    whole(root, kept)
    assert not (root / format.DRAFT).exists()


def test_without_room_it_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = used(tmp_path, count=300)
    before = (tmp_path / "spool" / "index" / "data.mdb").stat().st_size
    monkeypatch.setattr(offline, "MARGIN_BYTES", 1 << 60)
    with pytest.raises(StartError, match="nothing was changed"):
        offline.compact(tmp_path / "spool")
    assert (tmp_path / "spool" / "index" / "data.mdb").stat().st_size == before
    whole(tmp_path / "spool", kept)


def test_a_damaged_segment_is_left_and_the_others_are_not(tmp_path: Path) -> None:
    kept = used(tmp_path)
    root = tmp_path / "spool"
    identity = next(iter(kept))
    reader = SpoolReader(root)
    body = reader.messages([identity])[identity].body
    reader.close()
    path = root / "bodies" / format.segment_name(body.epoch, body.segment)
    data = bytearray(path.read_bytes())
    data[body.offset] ^= 1
    path.write_bytes(data)
    done = offline.compact(root)
    assert done.segments_damaged == 1 and done.segments_emptied > 3
    assert path.read_bytes() == data


def test_a_damaged_index_is_said_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used(tmp_path)

    def corrupted(*_: Any) -> None:
        raise lmdb.CorruptedError("mdb_env_copy2: MDB_CORRUPTED: Located page was wrong type")

    monkeypatch.setattr(offline, "_copy_index", corrupted)
    with pytest.raises(SpoolError, match="MDB_CORRUPTED"):
        offline.compact(tmp_path / "spool")


def test_where_there_is_no_spool(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="there is no spool in"):
        offline.compact(tmp_path)
    assert list(tmp_path.iterdir()) == []
