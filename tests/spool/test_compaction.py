"""Compaction: the disk stays within a bound of what is live, and no body is lost on the way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.spool import SpoolReader, format
from tests.spool.stepping import Spool, Worker, accept, settle


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.compaction.LOOK_EVERY_S", -1.0)
    monkeypatch.setattr("engine.spool.compaction.SLACK_BYTES", 0)
    monkeypatch.setattr("engine.spool.compaction.SLICE_RECORDS", 7)
    monkeypatch.setattr(format, "SEGMENT_BYTES", 5_000)


def fill(spool: Spool, worker: Worker, count: int) -> dict[bytes, bytes]:
    bodies: dict[bytes, bytes] = {}
    for number in range(count):
        identity = worker.new_id()
        bodies[identity] = b"body %d\r\n" % number * 40
        worker.send(accept(identity, worker.writer_.write(identity, [bodies[identity]]), "a/v", "b/v"))
    spool.step(6)
    worker.hear()
    return bodies


def settle_most(spool: Spool, worker: Worker, bodies: dict[bytes, bytes]) -> None:
    chance = random.Random(3)
    for identity in list(bodies):
        if chance.random() < 0.8:
            del bodies[identity]
    worker.do(settle(*[key for key, _ in spool.rows() if key[13:25] not in bodies]))


def check(spool: Spool, reader: SpoolReader, bodies: dict[bytes, bytes]) -> None:
    found = reader.messages(bodies)
    assert found.keys() == bodies.keys()
    for identity, body in bodies.items():
        assert reader.body(found[identity].body, identity) == body


def total(spool: Spool) -> int:
    return sum((spool.root / format.BODIES / name).stat().st_size for name in spool.files())


def test_sparse_segments_are_rewritten(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=5_000)
    bodies = fill(spool, worker, 120)
    reader = spool.reader()
    before = reader.messages(bodies)
    settle_most(spool, worker, bodies)
    worker.writer_.close()
    spool.step(60)
    live = sum(map(len, bodies.values()))
    assert total(spool) <= 1.3 * live
    check(spool, reader, bodies)
    assert any(before[identity].body != reader.messages([identity])[identity].body for identity in bodies)
    for identity, body in bodies.items():  # who still knows the old place finds the new one
        assert reader.body(before[identity].body, identity) == body
    spool.crash()
    spool.start()
    worker.resume()
    spool.step(20)
    check(spool, spool.reader(), bodies)
    assert worker.do(settle(*[key for key, _ in spool.rows()])) == [None]
    assert spool.table("message") == {}
    spool.service._resume_until_s = 0
    spool.step(6)
    assert spool.files() == []
    spool.close()


def test_a_crash_between_slices_and_a_failed_sync_lose_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=5_000)
    bodies = fill(spool, worker, 120)
    settle_most(spool, worker, bodies)
    worker.writer_.close()
    for turns in range(1, 8):
        spool.step(turns)
        spool.crash()
        spool.start()
        worker.resume()
        check(spool, spool.reader(), bodies)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    spool.service.files.sync_own = fail  # type: ignore[method-assign]
    spool.step(8)
    check(spool, spool.reader(), bodies)
    del spool.service.files.sync_own
    spool.service._compactor._look_at_s = 0
    spool.step(80)
    check(spool, spool.reader(), bodies)
    assert total(spool) <= 1.6 * sum(map(len, bodies.values()))  # files of epochs that may still resume stay until then
    spool.close()


def test_a_damaged_segment_is_left_alone_and_said_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=5_000)
    bodies = fill(spool, worker, 60)
    settle_most(spool, worker, bodies)
    worker.writer_.close()
    identity = next(iter(bodies))
    body = spool.reader().messages([identity])[identity].body
    path = spool.root / format.BODIES / format.segment_name(body.epoch, body.segment)
    data = bytearray(path.read_bytes())
    data[body.offset] ^= 1
    path.write_bytes(data)
    for _ in range(4):
        spool.service._compactor._look_at_s = 0
        spool.step(30)
    assert path.read_bytes() == data
    del bodies[identity]
    check(spool, spool.reader(), bodies)
    assert spool.log_text().count("is damaged at") == 1
    spool.close()


def test_segments_that_are_all_nearly_full_are_within_the_promise_together(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=9_000)
    bodies = fill(spool, worker, 125)
    reader = spool.reader()
    segments: dict[int, list[bytes]] = {}
    for identity, found in reader.messages(bodies).items():
        segments.setdefault(found.body.segment, []).append(identity)
    for identities in segments.values():
        for identity in identities[: round(0.24 * len(identities))]:
            del bodies[identity]
    worker.do(settle(*[key for key, _ in spool.rows() if key[13:25] not in bodies]))
    worker.writer_.close()
    spool.step(60)
    assert total(spool) <= 1.3 * sum(format.RECORD_HEAD.size + len(body) for body in bodies.values())
    check(spool, reader, bodies)
    spool.close()


def test_no_more_is_copied_than_it_takes(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=5_000)
    full, sparse, fuller = (fill(spool, worker, count) for count in (100, 60, 40))
    full |= fill(spool, worker, 100)
    bodies = {identity: full[identity] for identity in full}
    bodies |= {identity: body for number, (identity, body) in enumerate(sparse.items()) if number % 7 == 0}
    bodies |= {identity: body for number, (identity, body) in enumerate(fuller.items()) if number % 4}
    reader = spool.reader()
    before = reader.messages(bodies)
    worker.do(settle(*[key for key, _ in spool.rows() if key[13:25] not in bodies]))
    worker.writer_.close()
    spool.step(100)
    after = reader.messages(bodies)
    moved = sum(before[identity].body != after[identity].body for identity in bodies)
    assert 0 < moved < 30  # not the fuller, once the sparse ones are gone
    assert total(spool) <= 1.3 * sum(map(len, bodies.values()))
    spool.close()


def test_a_segment_that_was_emptied_after_the_plan_puts_nothing_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=5_000)
    bodies = fill(spool, worker, 120)
    compactor = spool.service._compactor
    compactor._look_at_s = 1e12  # nothing is planned but by us
    settle_most(spool, worker, bodies)
    worker.writer_.close()
    spool.step(1)
    assert compactor.plan(1.0, 0) > 2
    first = compactor._todo[0]
    gone = [identity for identity, found in spool.reader().messages(bodies).items() if (found.body.epoch, found.body.segment) == first]
    todo, compactor._todo = compactor._todo, []
    worker.do(settle(*[key for key, _ in spool.rows() if key[13:25] in gone]))
    assert format.segment_name(*first) not in spool.files()
    compactor._todo = todo
    for identity in gone:
        del bodies[identity]
    spool.step(60)
    assert "put off" not in spool.log_text()
    assert total(spool) <= 1.3 * sum(map(len, bodies.values()))
    check(spool, spool.reader(), bodies)
    spool.close()


def test_a_file_that_was_given_up_is_sealed_with_the_next_slice(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=5_000)
    bodies = fill(spool, worker, 120)
    compactor = spool.service._compactor
    compactor._look_at_s = 1e12
    settle_most(spool, worker, bodies)
    worker.writer_.close()
    spool.step(1)
    compactor.plan(1.0, 0)
    compactor.step()
    left = format.SEGMENT_KEY.pack(compactor._epoch, compactor._number)
    assert spool.table("segment")[left][-1] == 0
    compactor.give_up()
    compactor.plan(1.0, 0)
    while compactor.busy:
        compactor.step()
    assert left not in spool.table("segment") or spool.table("segment")[left][-1] == 1
    check(spool, spool.reader(), bodies)
    spool.close()


def test_the_heads_of_tiny_bodies_are_no_waste(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=500)
    for _ in range(40):
        identity = worker.new_id()
        worker.send(accept(identity, worker.writer_.write(identity, [b"x"]), "a/v"))
    worker.writer_.close()
    spool.step(6)
    assert len(spool.files()) == 2
    assert spool.service._compactor.plan(1.0, 0) == 0  # else they were copied for ever
    spool.close()
