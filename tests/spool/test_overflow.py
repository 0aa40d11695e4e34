"""A spool that takes mail while the first one cannot is emptied into it: each recipient and record once, whoever comes and dies meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import SpoolError
from engine.log import EventLog
from engine.mail.envelope import Due
from engine.spool import SegmentWriter, format, identity, overflow, queries
from engine.spool.check import check
from engine.spool.ops import Settle, Settlement
from engine.spool.overflow import Overflow
from tests.spool.stepping import Spool, Worker, accept, settle
from tests.spool.test_moving import Killed, Link

QUEUES = ("a.example/v", "b.example/v", "c.example/w")


class Pair:
    """The first spool, another one with mail of its own, and a mover between them that can be killed."""

    def __init__(self, base: Path) -> None:
        self.first, self.other = (Spool(_made(base / name)) for name in ("first", "other"))
        identity.ensure(self.other.service.env, self.other.service.tables, self.other.service.ledger)
        self.client = Worker(self.other)
        self.client.writer_ = self.client.writer(segment_bytes=2_000)
        self.bodies: dict[str, bytes] = {}
        self.room = ""
        self.log = EventLog(str(base / "told"), "mover/0")
        self._mover: Overflow | None = None
        self._workers: list[Worker] = []

    def take(self, *queues: str) -> bytes:
        """A message with a recipient in each of *queues* comes in; its id."""
        new, number = self.client.new_id(), len(self.bodies)
        body = b"%d\r\n" % number * 40
        told = accept(new, self.client.writer_.write(new, [body]), *queues)
        recipients = [
            msgspec.structs.replace(each, due=msgspec.msgpack.encode(Due(f"{number + at}@x.example", 7, attempts=3)))
            for at, each in enumerate(told.recipients)
        ]
        assert self.client.do(msgspec.structs.replace(told, recipients=recipients)) == [None]
        self.bodies |= {f"{number + at}@x.example": body for at in range(len(queues))}
        return new

    def step(self, fates: Iterator[str] = iter(())) -> bool:
        """One step of the mover; Killed, and then the next one begins anew."""
        if self._mover is None:
            self._workers = [Worker(self.other, role="mover"), Worker(self.first, role="mover")]
            their, link = (Patient(worker, fates) for worker in self._workers)
            writer: Any = SegmentWriter(self.first.root / format.BODIES, link, segment_bytes=3_000)  # type: ignore[arg-type]
            self._mover = Overflow(
                self.other.reader(), their, self.first.reader(), link, writer, self.log, lambda: self.room  # type: ignore[arg-type]
            )  # fmt: skip
        try:
            return asyncio.run(self._mover.step())
        except Killed:
            self.end()
            raise

    def end(self) -> None:
        for worker in self._workers:
            worker.close()
        self._mover, self._workers = None, []

    def empty(self) -> None:
        """Step until nothing is left."""
        for _ in range(1000):
            if not self.step():
                return
        raise AssertionError("the mover comes to no end")

    def found(self) -> dict[str, bytes]:
        """Bodies by recipient in the first spool; fails for one that is there twice."""
        reader, bodies = self.first.reader(), dict[str, bytes]()
        for key, value in self.first.rows():
            due = msgspec.msgpack.decode(value, type=Due)
            assert due.address not in bodies and (due.attempts, due.queued_ms) == (3, 7)
            bodies[due.address] = b"".join(reader.body_chunks(reader.messages([key[13:25]])[key[13:25]].body, key[13:25]))
        return bodies

    def close(self) -> None:
        self.end()
        for spool in (self.first, self.other):
            spool.close()
            assert list(check(spool.root)) == []


class Patient(Link):
    """A Link whose fates come from whoever steps."""


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_all_of_it_moves_and_what_comes_later_too(pair: Pair) -> None:
    for _ in range(3):
        for number in range(20):
            pair.take(*QUEUES[: 1 + number % 3])
        pair.empty()
        assert pair.found() == pair.bodies and pair.other.rows() == []
    assert not pair.step(), "and nothing is done where there is nothing to do"
    assert {pair.first.reader().queue_name(number) for number, _ in pair.first.reader().queues(0, 10)} == set(QUEUES)
    pair.close()
    pair.log.flush()
    assert "moved id=" in (pair.first.base.parent / "told").read_text()


ACTIONS = st.lists(
    st.one_of(st.sampled_from(QUEUES), st.sampled_from(["all", "step", "step", "restart"]), st.sampled_from(["lost", "unheard"])), max_size=40
)


@settings(max_examples=80, deadline=None)
@given(ACTIONS, st.integers(1, 5))
def test_mail_comes_in_everywhere_and_the_mover_dies_anywhere(actions: list[str], step_rows: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        patched.setattr(overflow, "STEP_ROWS", step_rows)
        pair = Pair(Path(name))
        fates: list[str] = []
        consumed = _from(fates)
        for action in actions:
            if action in QUEUES:
                pair.take(action)
            elif action == "all":
                pair.take(*QUEUES)
            elif action in ("lost", "unheard"):
                fates += ["ack"] * (len(fates) % 3) + [action]
            elif action == "restart":
                pair.end()
            else:
                try:
                    pair.step(consumed)
                except Killed:
                    continue
        fates.clear()
        pair.end()
        pair.empty()
        assert pair.found() == pair.bodies and pair.other.rows() == []
        pair.close()


def _from(fates: list[str]) -> Iterator[str]:
    while True:
        yield fates.pop(0) if fates else "ack"


def test_records_of_a_time_when_it_was_an_engines_first_come_too(pair: Pair) -> None:
    pair.take(*["a.example/v"] * 5)
    for number, (key, _) in enumerate(pair.other.rows()):
        pair.client.do(settle(key, record=b"record %d" % number))
    pair.bodies.clear()
    pair.empty()
    pair.empty()
    assert [bytes(record) for _, record in pair.first.reader().outbox(0, 100)] == [b"record %d" % number for number in range(5)]
    assert pair.other.reader().outbox(0, 100) == []
    pair.close()


def test_what_is_due_later_is_moved_when_it_is_due(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.take("a.example/v", "b.example/v")
    (key, due), _ = pair.other.rows()
    later_ms = pair.other.service.ledger.stamp_ms + 3_600_000
    pair.client.do(Settle([Settlement(key, again_ms=later_ms, due=due)]))
    pair.empty()
    assert len(pair.found()) == 1 and len(pair.other.rows()) == 1
    assert not pair.step()
    monkeypatch.setattr(overflow, "wall_ms", lambda: later_ms + 1)
    monkeypatch.setattr("engine.spool.committer.wall_ms", lambda: later_ms + 1)
    pair.empty()
    assert pair.found() == pair.bodies
    pair.close()


def test_nothing_is_written_while_the_first_has_no_room(pair: Pair) -> None:
    pair.take("a.example/v")
    before = pair.first.files()
    for room, refusal in (("disk low: 1 MB free", None), ("", "disk low: says the spool process")):
        pair.room = room
        pair.first.service.space.refusal = refusal
        pair.first.service._next_space_check_s = 1e12
        with pytest.raises(SpoolError, match="disk low"):
            pair.empty()
        assert pair.first.files() == before and pair.found() == {}
    pair.room, pair.first.service.space.refusal = "", None
    pair.empty()
    assert pair.found() == pair.bodies
    pair.close()


def test_what_cannot_be_read_waits_an_hour_and_holds_nobody_up(pair: Pair) -> None:
    for _ in range(4):
        pair.take(*QUEUES)
    for path in (pair.other.root / format.BODIES).iterdir():
        data = bytearray(path.read_bytes())
        if b"3\r\n3\r\n" in data:
            data[data.index(b"3\r\n3\r\n")] = 0x21
            path.write_bytes(data)
    pair.empty()
    assert pair.found() == {address: body for address, body in pair.bodies.items() if not body.startswith(b"3\r\n")}
    left = pair.other.rows()
    now_ms = pair.other.service.ledger.stamp_ms
    assert len(left) == 3 and all(int.from_bytes(key[5:13], "big") >= now_ms + overflow.ASIDE_MS - 60_000 for key, _ in left)
    pair.log.flush()
    assert "quarantine" in (pair.first.base.parent / "told").read_text()


def test_one_that_leaves_the_configuration_is_shut_before_it_says_that_it_is_empty(pair: Pair) -> None:
    """Nothing can come in between the answer and the end of its process: not what was sent before the question, and not what comes after it."""

    def ask(shut: bool) -> str:
        return str(queries.answer(pair.other.service, msgspec.msgpack.encode({"q": "shut", "shut": shut}))["left"])

    assert ask(True) == ""
    new = pair.client.new_id()
    body = pair.client.writer_.write(new, [b"x"])
    assert pair.client.do(accept(new, body, "a.example/v")) == ["shut: this spool leaves the configuration"]
    assert ask(False) == ""
    service = pair.other.service
    new = pair.client.new_id()
    pair.client.send(accept(new, body, "a.example/v"))
    for session in service._sessions.values():
        if session.role == "listener":
            session.read()
    service._gather(1e12)
    assert ask(True) == "1 messages and 0 records wait in it", "it was taken, though it is not in the tables yet"
    pair.other.step()
    assert ask(True) == "1 messages and 0 records wait in it"


def test_spools_give_ids_of_their_own_and_have_names(pair: Pair) -> None:
    ledger, service = pair.other.service.ledger, pair.other.service
    shard, name = ledger.shard, pair.other.reader().name()
    assert shard and len(name) == 2 * identity.NAME_BYTES and pair.first.service.ledger.shard == 0
    identity.ensure(service.env, service.tables, ledger)
    assert (ledger.shard, pair.other.reader().name()) == (shard, name)
    identity.ensure(pair.first.service.env, pair.first.service.tables, pair.first.service.ledger)
    assert pair.first.service.ledger.shard != 0


def test_what_it_wrote_as_a_first_one_is_not_taken_for_moved(pair: Pair) -> None:
    """Its retries may lie below the mark of an earlier time, after the wall clock stepped back: they were let go as if they had been moved."""
    pair.take(*QUEUES)
    pair.empty()
    service = pair.other.service
    identity.forget(service.env, service.tables)
    assert pair.other.reader().name() == ""
    pair.take(QUEUES[0])
    ((key, due),) = pair.other.rows()
    assert pair.client.do(Settle([Settlement(key, again_ms=1, due=due)])) == [None]
    pair.end()
    identity.ensure(service.env, service.tables, service.ledger)
    pair.empty()
    assert pair.found() == pair.bodies
    pair.close()
