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
from engine.spool import SegmentWriter, SpoolReader, format, moving, offline
from engine.spool.check import check
from engine.spool.copying import Copier
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


def without_body(source: Path, number: int) -> tuple[Path, bytes]:
    """Damage the body of message *number*: the file, and what it was."""
    needle = b"%d\r\n" % number * 2
    for path in (source / "spool" / "bodies").iterdir():
        data = path.read_bytes()
        if needle in data:
            path.write_bytes(data.replace(needle, b"!!!!!!"[: len(needle)], 1))
            return path, data
    raise AssertionError(number)


def left(source: Path) -> list[str]:
    """The recipients in the other spool."""
    with offline.opened(source / "spool") as spool, spool.env.begin() as txn:
        return [msgspec.msgpack.decode(value, type=Due).address for _, value in txn.cursor(spool.tables.due)]


@pytest.mark.parametrize("end", ["ack", "unheard"])
def test_what_could_not_be_read_moves_once_its_body_is_back(tmp_path: Path, end: str) -> None:
    """An operator puts a file back from a copy and starts again: that mail is not taken for what was moved."""
    bodies = filled(tmp_path / "old", 4)
    path, data = without_body(tmp_path / "old", 2)
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    fates = iter(["ack", "ack", end, "ack"])
    try:
        run(tmp_path / "old", ours, fates, log)
    except Killed:
        assert end == "unheard"
    assert sorted(found(ours)) == sorted(address for address in bodies if not address.startswith("2-"))
    path.write_bytes(data)
    run(tmp_path / "old", ours, iter(()), log)
    assert found(ours) == bodies and left(tmp_path / "old") == []
    ours.close()
    assert list(check(tmp_path / "spool")) == [] and list(check(tmp_path / "old" / "spool")) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["ack", "lost", "unheard", "undeleted", "deleted", "damaged", "mended"]), max_size=20), st.integers(1, 9))
def test_killed_anywhere_bodies_go_and_come_back(fates: list[str], step_rows: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        base = Path(name)
        bodies = filled(base / "old", 6)
        ours, log = Spool(base), EventLog("", "mover/0")
        patched.setattr(moving, "STEP_ROWS", step_rows)
        whole = without_body(base / "old", 3)
        whole[0].write_bytes(whole[1])
        copy = Copier._copy
        forget = Mover._forget
        fate = iter(fates)

        def fragile(self: Copier, *arguments: Any) -> Any:
            """The body of one message is there, or not, from one moment to the next."""
            data = copy(self, *arguments)
            if damaged[0] and arguments[0].checksum == checksum:
                raise format.BodyCorrupt("for now")
            return data

        def doubtful(self: Mover, operation: Any) -> None:
            what = next(fate, "ack")
            damaged[0] = what == "damaged" or (damaged[0] and what != "mended")
            if what == "undeleted":
                raise Killed
            forget(self, operation)
            if what == "deleted":
                raise Killed

        checksum, damaged = format.checksum(bodies["3-0@x.example"]), [False]
        patched.setattr(Mover, "_forget", doubtful)
        patched.setattr(Copier, "_copy", fragile)
        for _ in range(60):
            try:
                run(base / "old", ours, fate, log)
            except Killed:
                continue
            if not left(base / "old"):
                break
            damaged[0] = False
        assert found(ours) == bodies and records(ours) == [b"record %d" % number for number in range(5)]
        ours.close()
        assert list(check(base / "spool")) == [] and list(check(base / "old" / "spool")) == []


def test_a_refusal_in_the_middle_leaves_nothing_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other spool may be used again once it is said to be empty: nothing in it may be sent twice."""
    bodies = filled(tmp_path / "old", 6, records=0)
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    copy, copied = Copier._copy, itertools.count(1)

    def once(self: Copier, *arguments: Any) -> Any:
        if next(copied) == 5:
            raise SpoolError("body cannot be written")
        return copy(self, *arguments)

    monkeypatch.setattr(Copier, "_copy", once)
    worker = Worker(ours, role="mover")
    link: Any = Link(worker, iter(()))
    with offline.opened(tmp_path / "old" / "spool") as spool:
        mover = Mover(spool, link, ours.reader(), SegmentWriter(ours.root / format.BODIES, link), log)

        async def move() -> list[str]:
            said = []
            while True:
                try:
                    if not await mover.step():
                        return said
                except SpoolError as error:
                    said.append(str(error))
                    await link.drain()  # the loop turns, and what was submitted is answered

        assert asyncio.run(move()) == ["body cannot be written"]
    worker.close()
    assert found(ours) == bodies and left(tmp_path / "old") == []
    ours.close()


def test_a_predecessor_whose_moves_still_wait_moves_nothing_twice(tmp_path: Path) -> None:
    """It was killed while our spool had no room, and what was kept is begun anew."""
    bodies = filled(tmp_path / "old", 3)
    without_body(tmp_path / "old", 1)
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    worker = Worker(ours, role="mover", index=1)  # as if it had ended
    link: Any = Link(worker, iter(()))
    sent: list[Move] = []
    link.drain = lambda: asyncio.sleep(0)
    link.submit = lambda operation, done: sent.append(operation) if type(operation) is Move else None
    with offline.opened(tmp_path / "old" / "spool") as spool:
        mover = Mover(spool, link, ours.reader(), SegmentWriter(ours.root / format.BODIES, link), log)
        mover_rows = mover._reader.rows(b"", 100)
        asyncio.run(mover._begin())
        asyncio.run(mover._send(mover._moves(f"{mover._name}/recipients", b"", mover_rows)))
    run(tmp_path / "old", ours, iter(()), log)
    assert set(worker.do(*sent)) == {None}
    assert found(ours) == {address: body for address, body in bodies.items() if not address.startswith("1-")}
    worker.close()
    ours.close()


def test_rows_without_a_queue_or_a_message_do_not_stop_the_others(tmp_path: Path) -> None:
    bodies = filled(tmp_path / "old", 4)
    with offline.opened(tmp_path / "old" / "spool") as spool, spool.env.begin(write=True) as txn:
        (number,) = [key for key, name in txn.cursor(spool.tables.queue_name) if name == b"b.example/w"]
        txn.delete(number, db=spool.tables.queue_name)
        cursor = txn.cursor(spool.tables.message)
        assert cursor.first()
        txn.put(cursor.key(), cursor.value()[: format.MESSAGE_HEAD.size + 4 * 2] + b"\xc1", db=spool.tables.message)
    ours, log = Spool(tmp_path), EventLog(str(tmp_path / "told"), "mover/0")
    run(tmp_path / "old", ours, iter(()), log)
    log.close()
    assert sorted(found(ours)) == [f"{number}-{at}@x.example" for number in range(1, 4) for at in range(2)]
    assert len(left(tmp_path / "old")) == len(bodies) - 6
    assert (tmp_path / "told").read_text().count("stays there: its row or its queue's is missing or damaged") == 4
    ours.close()


def test_the_loop_turns_between_large_bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred of them would hold it for minutes, and its supervisor would kill it over and over."""
    bodies = filled(tmp_path / "old", 5, records=0, large=5)
    monkeypatch.setattr(moving, "STEP_BYTES", LARGE)
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    worker = Worker(ours, role="mover")
    link: Any = Link(worker, iter(()))
    most = [0]

    async def drain() -> None:
        most[0] = max(most[0], sum(type(operation) is Move for operation, _ in link._waiting))
        await Link.drain(link)

    link.drain = drain
    with offline.opened(tmp_path / "old" / "spool") as spool:
        mover = Mover(spool, link, ours.reader(), SegmentWriter(ours.root / format.BODIES, link), log)

        async def move() -> None:
            while await mover.step():
                pass

        asyncio.run(move())
    worker.close()
    assert most == [1] and found(ours) == bodies
    ours.close()


def test_compacted_between_two_lives_of_the_mover_it_is_the_same_spool(tmp_path: Path) -> None:
    """The mover was killed before it had forgotten what it had moved; compacting opens an epoch, and no worker."""
    bodies = filled(tmp_path / "old", 8)
    source = tmp_path / "old" / "spool"
    with offline.opened(source) as spool:
        keys = [key for key, _ in SpoolReader(source, (spool.env, spool.tables)).rows(b"", 100)]
        with spool.changes() as changes:
            for key in keys:
                if key[13:25] in (keys[0][13:25], keys[2][13:25]):
                    changes.apply(settle(key), 0, {})
    ours, log = Spool(tmp_path), EventLog("", "mover/0")
    with pytest.raises(Killed):
        run(tmp_path / "old", ours, iter(["ack", "unheard"]), log)
    moved = len(found(ours))
    assert moved == len(bodies) - 6 == len(left(tmp_path / "old"))
    epoch = next_epoch(source)
    offline.compact(source)
    assert next_epoch(source) > epoch, "it rewrote something"
    run(tmp_path / "old", ours, iter(()), log)
    assert len(found(ours)) == moved and left(tmp_path / "old") == []
    ours.close()


def next_epoch(source: Path) -> int:
    with offline.opened(source) as spool:
        return spool.ledger.next_epoch
