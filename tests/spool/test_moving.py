"""A dead server's spool is emptied into ours: every recipient and every record once, whatever is killed, and nothing that cannot be read is lost."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import SpoolError
from engine.log import EventLog
from engine.mail.envelope import Due
from engine.spool import SegmentWriter, format, moving, offline
from engine.spool.check import check
from engine.spool.moving import Mover
from engine.spool.ops import Move, Operation
from tests.spool.stepping import Spool, Worker, accept, settle

LARGE = format.LARGE_BODY_BYTES + 1


class Killed(Exception):
    """The mover is gone."""


class Link:
    """What a Mover needs of a SpoolLink, to a stepped spool; *fates*: `lost` dies before the spool hears, `unheard` after it has committed."""

    def __init__(self, worker: Worker, fates: Iterator[str]) -> None:
        self.worker = worker
        self.epoch = worker.epoch
        self.on_abandoned: Callable[[int, int], None] | None = None
        self.new_id = worker.new_id
        self._fates = fates
        self._waiting: list[tuple[Operation, Callable[[str | None], None]]] = []

    def submit(self, operation: Operation, done: Callable[[str | None], None]) -> None:
        self._waiting.append((operation, done))

    async def drain(self) -> None:
        waiting, self._waiting = self._waiting, []
        fate = next(self._fates, "ack")
        if fate == "lost":
            raise Killed
        if not waiting:
            return
        answers = self.worker.do(*[operation for operation, _ in waiting])
        if fate == "unheard":
            raise Killed
        for (_, done), reason in zip(waiting, answers, strict=True):
            done(reason)


def filled(base: Path, messages: int, records: int = 5, large: int = 0) -> dict[str, bytes]:
    """A spool in *base* that nobody closed: each message has recipients in two queues, two in the first.  Bodies by recipient."""
    base.mkdir()
    spool = Spool(base)
    worker = Worker(spool)
    worker.writer_ = worker.writer(segment_bytes=2_000)
    bodies: dict[str, bytes] = {}
    for number in range(messages):
        identity, body = worker.new_id(), b"%d\r\n" % number * (LARGE // 2 if number < large else 40)
        if len(body) > format.LARGE_BODY_BYTES:
            writing = worker.writer_.begin_large(identity)
            writing.write(body)
            place = writing.finish()
        else:
            place = worker.writer_.write(identity, [body])
        told = accept(identity, place, "a.example/v", "a.example/v", "b.example/w")
        recipients = [
            msgspec.structs.replace(each, due=msgspec.msgpack.encode(Due(f"{number}-{at}@x.example", 7, attempts=3)), priority=60)
            for at, each in enumerate(told.recipients)
        ]
        assert worker.do(msgspec.structs.replace(told, recipients=recipients)) == [None]
        bodies |= {f"{number}-{at}@x.example": body for at in range(3)}
    gone = worker.new_id()
    worker.do(accept(gone, worker.writer_.write(gone, [b"gone"]), *["c.example/v"] * records))
    for number, (key, _) in enumerate([row for row in spool.rows() if row[0][13:25] == gone]):
        worker.do(settle(key, record=b"record %d" % number))
    spool.crash()
    worker.socket.close()
    return bodies


def run(source: Path, ours: Spool, fates: Iterator[str], log: EventLog, steps: int = 1000) -> int:
    """A mover from its start until there is nothing left, or it is killed; how many recipients it moved."""
    worker = Worker(ours, role="mover")
    link: Any = Link(worker, fates)
    try:
        with offline.opened(source / "spool") as spool:
            spool.close_epochs()
            writer = SegmentWriter(ours.root / format.BODIES, link, segment_bytes=3_000)
            mover = Mover(spool, link, ours.reader(), writer, log)

            async def move() -> None:
                for _ in range(steps):
                    if not await mover.step():
                        return

            asyncio.run(move())
            return mover.moved
    finally:
        worker.close()


def found(ours: Spool) -> dict[str, bytes]:
    """Bodies by recipient; fails for a recipient that is there twice."""
    reader, bodies = ours.reader(), dict[str, bytes]()
    for key, value in ours.rows():
        due = msgspec.msgpack.decode(value, type=Due)
        message = reader.messages([key[13:25]])[key[13:25]]
        assert due.address not in bodies and (due.attempts, due.queued_ms, 255 - key[4]) == (3, 7, 60)
        bodies[due.address] = b"".join(reader.body_chunks(message.body, key[13:25]))
    return bodies


def records(ours: Spool) -> list[bytes]:
    return [bytes(record) for _, record in ours.reader().outbox(0, 1000)]


def test_everything_moves_and_the_other_spool_is_empty(tmp_path: Path) -> None:
    bodies = filled(tmp_path / "old", 30, large=1)
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    assert run(tmp_path / "old", ours, iter(()), log) == 90
    assert found(ours) == bodies and records(ours) == [b"record %d" % number for number in range(5)]
    assert {ours.reader().queue_name(number) for number, _ in ours.reader().queues(0, 10)} == {"a.example/v", "b.example/w"}
    assert run(tmp_path / "old", ours, iter(()), log) == 0 and found(ours) == bodies
    ours.close()
    assert list(check(tmp_path / "spool")) == [] and list(check(tmp_path / "old" / "spool")) == []
    assert list((tmp_path / "old" / "spool" / "bodies").iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ack", "lost", "unheard", "undeleted", "deleted"]), max_size=14), st.integers(1, 9))
def test_killed_anywhere_it_moves_each_once(fates: list[str], step_rows: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        base = Path(name)
        bodies = filled(base / "old", 6)
        ours, log, fate = Spool(base), EventLog("", "mover/0"), iter(fates)
        patched.setattr(moving, "STEP_ROWS", step_rows)
        forget = Mover._forget

        def doubtful(self: Mover, operation: Any) -> None:
            """Dies before or after rows leave the other spool."""
            what = next(fate, "ack")
            if what == "undeleted":
                raise Killed
            forget(self, operation)
            if what == "deleted":
                raise Killed

        patched.setattr(Mover, "_forget", doubtful)
        for _ in range(60):
            try:
                run(base / "old", ours, fate, log)
                break
            except Killed:
                continue
        assert found(ours) == bodies and records(ours) == [b"record %d" % number for number in range(5)]
        ours.close()
        assert list(check(base / "spool")) == [] and list(check(base / "old" / "spool")) == []


def test_what_cannot_be_read_stays_and_is_named(tmp_path: Path) -> None:
    bodies = filled(tmp_path / "old", 4)
    for path in (tmp_path / "old" / "spool" / "bodies").iterdir():
        data = bytearray(path.read_bytes())
        if b"2\r\n2\r\n" in data:
            data[data.index(b"2\r\n2\r\n")] = 0x21
            path.write_bytes(data)
    ours, log = Spool(tmp_path), EventLog(str(tmp_path / "told"), "mover/0")
    for _ in range(2):
        run(tmp_path / "old", ours, iter(()), log)
        assert found(ours) == {address: body for address, body in bodies.items() if not address.startswith("2-")}
        with offline.opened(tmp_path / "old" / "spool") as spool, spool.env.begin() as txn:
            assert len(list(txn.cursor(spool.tables.due))) == 3
    log.close()
    assert "is not moved, it stays there: body at" in (tmp_path / "told").read_text()
    ours.close()


def test_a_refusal_leaves_the_rest_for_later(tmp_path: Path) -> None:
    bodies = filled(tmp_path / "old", 4)
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    ours.service.space.refusal = "disk low"
    ours.service._next_space_check_s = 1e12
    with pytest.raises(SpoolError, match="disk low"):
        run(tmp_path / "old", ours, iter(()), log)
    assert found(ours) == {}
    ours.service.space.refusal = None
    run(tmp_path / "old", ours, iter(()), log)
    assert found(ours) == bodies
    ours.close()


def test_a_spool_that_was_used_again_is_another_one(tmp_path: Path) -> None:
    """Its rows may have keys below the mark of the time before."""
    filled(tmp_path / "old", 2)
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    run(tmp_path / "old", ours, iter(()), log)
    again = Spool(tmp_path / "old")
    worker = Worker(again)
    identity = worker.new_id()
    told = accept(identity, worker.writer().write(identity, [b"again"]), "a.example/v")
    due = msgspec.msgpack.encode(Due("again@x.example", 7, attempts=3))
    worker.do(msgspec.structs.replace(told, recipients=[msgspec.structs.replace(told.recipients[0], due=due, priority=60)]))
    again.crash()
    worker.socket.close()
    run(tmp_path / "old", ours, iter(()), log)
    assert found(ours)["again@x.example"] == b"again" and len(found(ours)) == 7
    ours.close()


def test_a_move_is_applied_once_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    worker = Worker(spool, role="mover")

    def move(after: bytes, mark: bytes) -> str | None:
        (reason,) = worker.do(Move("n", after, mark, records=[mark]))
        return reason

    answers = [move(after, mark) for after, mark in ((b"", b"1"), (b"", b"1"), (b"2", b"3"), (b"1", b"2"), (b"2", b"3"), (b"1", b"2"))]
    assert answers == [None, None, "something before it was not moved", None, None, None]
    assert records(spool) == [b"1", b"2", b"3"]
    assert [move(b"", bytes([48 + n])) for n in itertools.repeat(2, 2)] == [None, None] and records(spool) == [b"1", b"2", b"3"]
    spool.close()
