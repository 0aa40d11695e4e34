"""A spool without room: mail is refused, outcomes wait, and all goes on by itself."""

from __future__ import annotations

import errno
from pathlib import Path

import lmdb
import pytest

from engine.spool import format
from engine.spool.changes import Changes
from engine.spool.ops import Settle
from engine.spool.space import Space
from tests.spool.stepping import Spool, Worker, accept, settle

BODY = [b"x" * 100]


class ScarceSpace(Space):
    """Free space as the test says; the ballast is a small file."""

    free = 1 << 40

    def free_bytes(self) -> int:
        return self.free


class PartWritten(lmdb.Error):
    """What LMDB raises on a full disk."""

    code = errno.EIO


def make(tmp_path: Path) -> tuple[Spool, Worker, ScarceSpace]:
    space = ScarceSpace(tmp_path / "spool", ballast_bytes=4096)
    spool = Spool(tmp_path, space=space)
    worker = Worker(spool)
    worker.writer_ = worker.writer()
    return spool, worker, space


def offer(worker: Worker) -> str | None:
    identity = worker.new_id()
    return worker.do(accept(identity, worker.writer_.write(identity, BODY), "a/v"))[0]


def test_below_min_free_space_mail_is_refused_but_not_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.service.SPACE_CHECK_S", 0.0)
    spool, worker, space = make(tmp_path)
    assert offer(worker) is None
    space.free = 1000
    assert (offer(worker) or "").startswith("disk low")
    assert worker.do(settle(spool.rows()[0][0])) == [None] and spool.rows() == []
    space.free = 1 << 40
    assert offer(worker) is None
    spool.close()


def test_commit_that_fails_keeps_outcomes_and_drops_the_ballast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.service.SPACE_CHECK_S", 0.0)
    monkeypatch.setattr("engine.spool.committer.RETRY_FULL_S", 0.0)
    spool, worker, space = make(tmp_path)
    ballast = spool.root / format.BALLAST
    assert ballast.stat().st_size == 4096
    assert offer(worker) is None
    key = spool.rows()[0][0]
    full = True

    class Failing(Changes):
        def finish(self) -> None:
            if full:
                raise PartWritten("mdb_txn_commit: Input/output error")
            super().finish()

    monkeypatch.setattr("engine.spool.committer.Changes", Failing)
    space.free = 1000
    identity = worker.new_id()
    worker.send(settle(key), accept(identity, worker.writer_.write(identity, BODY), "a/v"), Settle([], None, [b"tq"]))
    spool.step()
    worker.hear()
    assert worker.upto == 1 and (worker.refused[3]).startswith("disk low")  # known at once, though what came before it waits
    assert not ballast.exists() and len(spool.rows()) == 1
    full = False
    spool.step()
    worker.hear()
    assert worker.upto == 4 and list(worker.refused) == [3]
    assert spool.rows() == [] and list(spool.table("outbox").values()) == [b"record", b"tq"]
    space.free = 1 << 40
    assert offer(worker) is None
    assert ballast.exists()
    spool.close()


def test_refusal_before_its_turn_survives_a_crash_after_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.committer.RETRY_FULL_S", 0.0)
    spool, worker, _ = make(tmp_path)
    left = 2

    class Failing(Changes):
        def finish(self) -> None:
            nonlocal left
            if left:
                left -= 1
                raise lmdb.MapFullError("full")
            super().finish()

    monkeypatch.setattr("engine.spool.committer.Changes", Failing)
    identity = worker.new_id()
    worker.send(accept(identity, worker.writer_.write(identity, BODY), "a/v"))
    spool.step(6)
    spool.crash()
    spool.start()
    worker.resume()
    assert worker.upto == 1 and "disk low" in worker.refused[1] and spool.rows() == []
    spool.close()


def test_a_full_map_refuses_before_commits_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.service.SPACE_CHECK_S", 0.0)
    spool = Spool(tmp_path, map_size_bytes=1 << 20)
    worker = Worker(spool)
    worker.writer_ = worker.writer()
    accepted = 0
    while (reason := offer(worker)) is None:
        accepted += 1
        assert accepted < 10_000
    assert "the index holds" in reason
    keys = [key for key, _ in spool.rows()]
    assert len(keys) == accepted
    for start in range(0, len(keys), 20):
        worker.do(settle(*keys[start : start + 20], record=b""))
    assert spool.rows() == []
    assert offer(worker) is None
    spool.close()


def test_a_large_body_that_is_refused_for_want_of_space_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.committer.RETRY_FULL_S", 0.0)
    spool, worker, _ = make(tmp_path)
    full = True

    class Failing(Changes):
        def finish(self) -> None:
            if full:
                raise lmdb.MapFullError("full")
            super().finish()

    monkeypatch.setattr("engine.spool.committer.Changes", Failing)
    identity = worker.new_id()
    large = worker.writer_.begin_large(identity)
    large.write(b"x" * 1000)
    worker.send(accept(identity, large.finish(), "a/v"))
    spool.step()
    worker.hear()
    assert "disk low" in worker.refused[1]
    full = False
    spool.step()
    worker.hear()
    assert worker.upto == 1 and spool.files() == [] and spool.rows() == []
    spool.close()


def test_a_planned_compaction_does_not_spin_while_room_is_short(tmp_path: Path) -> None:
    spool, _, space = make(tmp_path)
    spool.service._compactor._todo = [(1, 1)]
    space.refusal = "disk low"
    assert not spool.service._has_work()
    space.refusal = None
    assert spool.service._has_work()
    spool.service._compactor._todo = []
    spool.close()
