"""`check` finds nothing in a spool that was used, and each kind of damage in one that was damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine.mail.envelope import DUE_KEY
from engine.spool import format, index
from engine.spool.check import Problem, check
from engine.spool.ops import Exported, Settle, Settlement
from tests.spool.stepping import Spool, Worker, accept, settle


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool with live and settled messages, a large body, a sealed and an open segment, records exported and not."""
    base = tmp_path_factory.mktemp("used")
    spool = Spool(base)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=300)
    for number in range(6):
        identity = worker.new_id()
        body = worker.writer_.write(identity, [b"line %d\r\n" % number * 20])
        assert worker.do(accept(identity, body, "a/v", f"d{number}/v")) == [None]
    identity = worker.new_id()
    large = worker.writer_.begin_large(identity)
    large.write(b"x" * 3_000)
    assert worker.do(accept(identity, large.finish(), "a/v")) == [None]
    keys = [key for key, _ in spool.rows()]
    worker.do(settle(*keys[:2]), Settle([Settlement(keys[2], b"record", 1 << 50, b"\x92\xa1a\x01")], None, [b"more"]))
    worker.do(settle(keys[-1]), Exported(2, {"file": b"at"}))
    spool.crash()
    return spool.root


@pytest.fixture
def root(used: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(used, tmp_path / "spool"))


def kinds(root: Path, *, bodies: bool = True) -> set[str]:
    return {problem.kind for problem in check(root, bodies=bodies)}


def test_a_used_spool_is_whole_and_stays_as_it_is(root: Path) -> None:
    (root / format.INDEX / "lock.mdb").unlink()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    seen: list[tuple[str, int, int]] = []
    assert list(check(root, progress=lambda *step: seen.append(step))) == []
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert {what for what, _, _ in seen} == {"state", "queues", "messages", "recipients", "segments", "outbox", "bodies"}
    assert all(done == total for _, done, total in seen)


Damage = Callable[["lmdb.Transaction[bytes]", index.Tables], object]


def first(txn: lmdb.Transaction[bytes], table: Any) -> tuple[bytes, bytes]:
    cursor = txn.cursor(table)
    assert cursor.first()
    return cursor.item()


def put(name: str, key: bytes, value: bytes) -> Damage:
    return lambda txn, tables: txn.put(key, value, db=getattr(tables, name))


def change(name: str, edit: Callable[[bytes], bytes]) -> Damage:
    """The first row of a table has another value."""

    def damage(txn: lmdb.Transaction[bytes], tables: index.Tables) -> None:
        key, value = first(txn, getattr(tables, name))
        txn.put(key, edit(value), db=getattr(tables, name))

    return damage


def drop(name: str, at: int = 0) -> Damage:
    """A row of a table is gone."""

    def damage(txn: lmdb.Transaction[bytes], tables: index.Tables) -> None:
        keys = [key for key, _ in txn.cursor(getattr(tables, name))]
        txn.delete(keys[at], db=getattr(tables, name))

    return damage


def twice(txn: lmdb.Transaction[bytes], tables: index.Tables) -> None:
    """A recipient waits at two times."""
    key, value = first(txn, tables.due)
    queue, priority, due_ms, identity, number = DUE_KEY.unpack(key)
    txn.put(DUE_KEY.pack(queue, priority, due_ms + 1, identity, number), value, db=tables.due)


DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "recipient lost": (drop("due"), {"message"}),
    "recipient twice": (twice, {"recipient"}),
    "recipient of nobody": (put("due", DUE_KEY.pack(1, 205, 1, b"nobody's id!", 0), b"\x92\xa1a\x01"), {"recipient"}),
    "recipient malformed": (change("due", lambda value: b"\xc1"), {"recipient", "message"}),
    "message lost": (drop("message"), {"recipient", "segment"}),
    "message malformed": (change("message", lambda value: value[:30]), {"message", "segment"}),
    "message counts wrong": (change("message", lambda value: format.U32.pack(9) + value[4:]), {"message"}),
    "message elsewhere": (change("message", lambda value: value[:4] + format.U32.pack(7) + value[8:]), {"message", "segment"}),
    "queue lost": (drop("queue"), {"queue"}),
    "queue's name lost": (drop("queue_name", 1), {"queue", "message"}),
    "queue's number reused": (put("queue", b"other/v", format.U32.pack(1)), {"queue"}),
    "queue's number ahead": (put("state", format.NEXT_QUEUE, format.U32.pack(2)), {"queue"}),
    "segment lost": (drop("segment"), {"segment"}),
    "segment counts wrong": (change("segment", lambda value: value[:11] + b"\1" + value[12:]), {"segment"}),
    "segment never sealed": (drop("state"), {"segment"}),
    "record lost": (drop("outbox", 1), {"outbox"}),
    "first record lost": (drop("outbox", 0), {"outbox"}),
    "records from nowhere": (put("state", format.EXPORTED, format.U64.pack(99)), {"outbox"}),
    "epoch ahead": (put("state", format.NEXT_EPOCH, format.U32.pack(1)), {"state"}),
    "state unknown": (put("state", b"zz", b""), {"state"}),
    "refusals malformed": (put("state", format.EPOCH_PREFIX + format.U32.pack(1), bytes(8) + b"\xc1"), {"state", "segment"}),
    "version lost": (drop("meta", 1), {"state"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_row_is_found(root: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    env, tables = index.open_for_writing(root)
    with env.begin(write=True) as txn:
        damage(txn, tables)
    env.close()
    assert kinds(root, bodies=False) == expected


def test_damaged_and_missing_bodies_are_found_with_their_messages(root: Path) -> None:
    paths = sorted((root / format.BODIES).iterdir())
    data = bytearray(paths[0].read_bytes())
    data[60] ^= 1  # in the first body
    paths[0].write_bytes(data)
    found = list(check(root))
    assert [problem.kind for problem in found] == ["body"] and len(found[0].message) == 12 and "checksum" in str(found[0])
    paths[0].write_bytes(data[:60])
    assert {problem.text.partition(",")[0] for problem in check(root)} == {"the file ends inside it", "the file ends before it"}
    paths[0].write_bytes(bytes(len(data)))
    assert {problem.text for problem in check(root)} == {"another record lies there"}
    paths[0].unlink()
    assert kinds(root) == {"segment", "body"}
    shutil.rmtree(root / format.BODIES)
    assert kinds(root) == {"spool", "segment", "body"}


def test_files_that_nobody_names(root: Path) -> None:
    (root / format.BODIES / format.segment_name(9, 1)).touch()
    (root / format.BODIES / "notes.txt").touch()
    assert [(problem.kind, problem.where) for problem in check(root)] == [("segment", format.segment_name(9, 1))]
    (root / format.BODIES / format.segment_name(9, 1)).rename(root / format.BODIES / format.segment_name(1, 99))
    assert list(check(root)) == []  # its epoch may still resume
    env, tables = index.open_for_writing(root)
    with env.begin(write=True) as txn:
        txn.put(format.NEXT_EPOCH, format.U32.pack(9), db=tables.state)
    env.close()
    (root / format.BODIES / format.segment_name(1, 99)).rename(root / format.BODIES / format.segment_name(5, 1))
    assert kinds(root) == {"orphan"}


def test_what_is_no_spool_is_one_problem(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert [problem.kind for problem in check(tmp_path / "empty")] == ["spool"]
    (root / format.MARKER).write_text("engine spool, format 9\n")
    assert [problem.kind for problem in check(root)] == ["spool"]
    (root / format.MARKER).write_text(f"engine spool, format {format.FORMAT_VERSION}\n")
    (root / format.INDEX / "data.mdb").write_bytes(bytes(8192))
    assert [problem.kind for problem in check(root)] == ["spool"]
    assert isinstance(next(check(root)), Problem)


def test_the_recipients_of_many_messages_are_counted_in_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.check.PASS_MESSAGES", 2)
    assert list(check(root)) == []
