"""What `repair` mends in a damaged spool and what it leaves to people; no mail is lost by it in any case."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from engine.errors import SpoolError, StartError
from engine.spool import format, index
from engine.spool.check import check, parse_message
from engine.spool.repair import repair
from tests.spool.stepping import Spool, Worker, accept, settle
from tests.spool.test_check import DAMAGES, Damage, root, used

__all__ = ["root", "used"]

LEFT = {
    "recipient of nobody": {"recipient"},
    "recipient malformed": {"recipient", "message"},
    "message lost": {"recipient"},
    "message malformed": {"message"},
    "queue's number reused": {"queue"},
    "record lost": {"outbox"},
    "first record lost": {"outbox"},
    "records from nowhere": {"outbox"},
    "state unknown": {"state"},
}


def damage(root: Path, edit: Damage) -> None:
    env, tables = index.open_for_writing(root)
    with env.begin(write=True) as txn:
        edit(txn, tables)
    env.close()


def mail(root: Path) -> tuple[set[bytes], set[bytes], set[str]]:
    """Recipients by message and number, ids of messages, and the files in which their bodies lie."""
    env = index.open_copy(root / format.INDEX)
    tables = index.Tables(lambda name: env.open_db(name, create=False))
    with env.begin() as txn:
        recipients = {key[13:] for key, _ in txn.cursor(tables.due)}
        messages = dict(txn.cursor(tables.message))
    env.close()
    bodies = [found.body for value in messages.values() if (found := parse_message(value)) is not None]
    return recipients, set(messages), {format.segment_name(body.epoch, body.segment) for body in bodies}


@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - {"version lost"}))
def test_after_a_damage(root: Path, name: str) -> None:
    damage(root, DAMAGES[name][0])
    recipients, messages, files = mail(root)
    there = {path.name for path in (root / format.BODIES).iterdir()}
    lines = repair(root)
    assert {problem.kind for problem in check(root)} == LEFT.get(name, set())
    assert mail(root)[:2] == (recipients, messages)
    left = {path.name for path in (root / format.BODIES).iterdir()}
    assert files & there <= left
    if ("lost" in name and "message" in name) or "nobody" in name or "malformed" in name:
        assert left == there, "a body that nobody names may be one that a row no longer tells of"
    if name not in LEFT:
        assert lines
    repair(root)
    assert mail(root)[:2] == (recipients, messages)


def test_an_index_of_unknown_format_is_not_touched(root: Path) -> None:
    damage(root, DAMAGES["version lost"][0])
    before = mail(root)
    with pytest.raises(StartError, match="has no format version"):
        repair(root)
    assert mail(root) == before


def test_a_whole_spool_stays_as_it_is(root: Path) -> None:
    before = mail(root)
    assert repair(root) == ["1 epochs closed: their workers are gone"]
    assert repair(root) == []
    assert mail(root) == before and list(check(root)) == []


def test_orphans_go(root: Path) -> None:
    repair(root)
    orphan = root / format.BODIES / format.segment_name(1, 77)
    orphan.write_bytes(b"x")
    assert {problem.kind for problem in check(root)} == {"orphan"}
    assert repair(root) == ["1 files that no row names removed"]
    assert not orphan.exists() and list(check(root)) == []


def test_with_a_damaged_page_nothing_is_touched(root: Path) -> None:
    path = root / format.INDEX / "data.mdb"
    data = bytearray(path.read_bytes())
    env, tables = index.open_for_writing(root)
    with env.begin() as txn:
        assert txn.stat(tables.message)["depth"] >= 1
        (key, _), *_ = list(txn.cursor(tables.message))
    env.close()
    for at in range(0, len(data), 4096):  # whichever page holds the rows of `message` now or did so once
        if data[at : at + 4096].find(key) >= 0:
            data[at + 10 : at + 16] = b"\xff" * 6
    path.write_bytes(data)
    orphan = root / format.BODIES / format.segment_name(1, 77)
    orphan.write_bytes(b"x")
    with pytest.raises((SpoolError, lmdb.Error), match="nothing was touched"):
        repair(root)
    assert orphan.exists() and path.read_bytes() == data


def test_the_engine_goes_on_with_a_repaired_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer()
    for number in range(3):
        identity = worker.new_id()
        assert worker.do(accept(identity, worker.writer_.write(identity, [b"x" * 100]), "a/v", f"b{number}/v")) == [None]
    spool.crash()

    def wreck(txn: lmdb.Transaction[bytes], tables: index.Tables) -> None:
        for table in (tables.segment, tables.queue):
            txn.drop(table, delete=False)
        for key in (format.NEXT_EPOCH, format.NEXT_QUEUE):
            txn.delete(key, db=tables.state)
        for key, value in list(txn.cursor(tables.message)):
            txn.put(key, format.U32.pack(7) + value[4:], db=tables.message)

    damage(spool.root, wreck)
    assert repair(spool.root)
    assert list(check(spool.root)) == []
    spool.start()
    worker = Worker(spool)
    worker.writer_ = worker.writer()
    identity = worker.new_id()
    assert worker.do(accept(identity, worker.writer_.write(identity, [b"y"]), "c/v", "a/v")) == [None]
    assert len({key[:4] for key, _ in spool.rows()}) == 5
    assert worker.do(settle(*[key for key, _ in spool.rows()])) == [None]
    assert spool.table("message") == {} == spool.table("due")
    spool.close()
