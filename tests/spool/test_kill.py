"""kill -9 of a real spool process, at random and in every named state: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from engine.errors import SpoolError
from engine.mail import message_id
from engine.spool import SegmentWriter, SpoolLink, SpoolReader, format
from engine.spool.ops import Settle, Settlement
from tests.spool.spool_process import STATES
from tests.spool.stepping import accept

REPOSITORY = Path(__file__).resolve().parents[2]
MESSAGES = 240
WITHIN_S = 25.0


class SpoolProcess:
    """The spool process in *base*; its listening socket is held here, as by the supervisor."""

    def __init__(self, base: Path) -> None:
        self.root = base / "spool"
        self.socket_path = str(base / "socket")
        self.log = base / "log"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.socket_path)
        self.listener.listen(64)
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0

    def start(self, state: str = "-", count: int = 0) -> None:
        fd = self.listener.fileno()
        script = str(Path(__file__).with_name("spool_process.py"))
        arguments = [sys.executable, script, str(self.root), str(fd), str(self.log), state, str(count)]
        self.process = subprocess.Popen(arguments, pass_fds=[fd], env=os.environ | {"PYTHONPATH": str(REPOSITORY)})

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.listener.close()


class Traffic:
    """A listener that accepts MESSAGES messages of two recipients and a slot that settles each of them, until all is done."""

    def __init__(self, spool: SpoolProcess) -> None:
        self.spool = spool
        self.accepted: set[bytes] = set()
        self.refused: list[str] = []
        self.settled = 0
        self.in_flight: set[bytes] = set()
        self.lost: list[Exception] = []
        self.progress = asyncio.Event()

    async def run(self) -> None:
        slot = await SpoolLink.connect(self.spool.socket_path, role="delivery", index=0, virtual_mtas=["v"], fallback=True, on_lost=self.lost.append)
        listener = await SpoolLink.connect(self.spool.socket_path, role="listener", index=0, on_lost=self.lost.append)
        writer = SegmentWriter(self.spool.root / format.BODIES, listener, segment_bytes=10_000)
        reader = SpoolReader(self.spool.root)
        for number in range(MESSAGES):
            identity = listener.new_id()
            body = writer.write(identity, [b"body of %d\r\n" % number * 50])
            listener.submit(accept(identity, body, f"d{number % 5}/v", "e/v"), lambda reason, identity=identity: self.answered(identity, reason))
            if number % 8 == 7:
                self.settle(slot, reader)
                await asyncio.sleep(0)
                if listener.pending > 16:
                    await listener.drain()
        await listener.drain()
        while self.settled < 2 * len(self.accepted) and not self.lost:
            self.settle(slot, reader)
            await slot.drain()
        writer.close()
        await listener.drain()
        assert not reader.queues(0, 10)
        reader.close()
        slot.close()
        listener.close()

    def answered(self, identity: bytes, reason: str | None) -> None:
        if reason is None:
            self.accepted.add(identity)
        else:
            self.refused.append(reason)

    def settle(self, slot: SpoolLink, reader: SpoolReader) -> None:
        for queue, _ in reader.queues(0, 100):
            for key, _ in reader.due(queue, None, 1 << 62, 200)[0]:
                if key in self.in_flight:
                    continue
                message = reader.messages([key[13:25]])[key[13:25]]
                assert reader.body(message.body, key[13:25])
                self.in_flight.add(key)
                slot.submit(Settle([Settlement(key, key[13:])]), self.done)

    def done(self, reason: str | None) -> None:
        assert reason is None
        self.settled += 1


async def keep_alive(spool: SpoolProcess, traffic: Traffic, marks: list[int], armed: list[tuple[str, int]]) -> None:
    """Start *spool* whenever it has died, each time with the next of *armed*; kill it whenever the progress passes the next of *marks*."""
    while True:
        assert spool.process is not None
        if marks and len(traffic.accepted) + traffic.settled >= marks[0]:
            marks.pop(0)
            spool.kill()
        if spool.process.poll() is not None:
            assert spool.process.returncode == -signal.SIGKILL
            spool.deaths += 1
            spool.start(*(armed.pop() if armed else ("-", 0)))
        await asyncio.sleep(0)


def check(spool: SpoolProcess, traffic: Traffic) -> None:
    """Every recipient of every acknowledged message has one record, no other has any, and nothing is left."""
    assert not traffic.lost and not traffic.refused
    assert len(traffic.accepted) == MESSAGES
    assert spool.stop() == 0
    reader = SpoolReader(spool.root)
    records = Counter(record for _, record in reader.outbox(0, 10_000))
    assert set(records.values()) == {1}
    assert records.keys() == {identity + bytes([0, 0, 0, index]) for identity in traffic.accepted for index in (0, 1)}
    assert reader.queues(0, 10) == [] and reader.messages(traffic.accepted) == {}
    reader.close()


async def drive(spool: SpoolProcess, traffic: Traffic, marks: list[int], armed: list[tuple[str, int]]) -> None:
    keeper = asyncio.ensure_future(keep_alive(spool, traffic, marks, armed))
    work = asyncio.ensure_future(traffic.run())
    done, _ = await asyncio.wait([keeper, work], timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
    keeper.cancel()
    for task in done:
        task.result()
    assert work in done, f"still at work: {len(traffic.accepted)} accepted, {traffic.settled} settled"


def play(tmp_path: Path, marks: list[int], armed: list[tuple[str, int]]) -> int:
    """Run the traffic through the deaths that are asked for; how many there were."""
    spool = SpoolProcess(tmp_path)
    try:
        spool.start(*(armed.pop() if armed else ("-", 0)))

        async def session() -> Traffic:
            traffic = Traffic(spool)
            await drive(spool, traffic, marks, armed)
            return traffic

        check(spool, asyncio.run(session()))
    finally:
        spool.close()
    return spool.deaths


@pytest.mark.system
@pytest.mark.parametrize("state", sorted(STATES))
def test_killed_in_a_state(tmp_path: Path, state: str) -> None:
    assert play(tmp_path, [], [(state, 2), (state, 5)]) >= 1


@pytest.mark.system
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random(tmp_path: Path, seed: int) -> None:
    marks = sorted(random.Random(seed).randrange(3 * MESSAGES - 100) for _ in range(4))
    assert play(tmp_path, marks, []) == 4


@pytest.mark.system
def test_a_worker_whose_epoch_was_closed_is_told(tmp_path: Path) -> None:
    spool = SpoolProcess(tmp_path)
    spool.start()

    async def session() -> None:
        lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        link = await SpoolLink.connect(spool.socket_path, role="listener", index=0, on_lost=lost.set_result)
        link.epoch += 100  # as if it had been closed
        spool.kill()
        spool.start()
        error = await asyncio.wait_for(lost, 10)
        assert isinstance(error, SpoolError) and "is closed" in str(error)
        answers: list[str | None] = []
        link.submit(Settle([]), answers.append)
        await asyncio.sleep(0)
        assert answers and "is closed" in str(answers[0])
        link.close()

    try:
        asyncio.run(session())
    finally:
        spool.close()


def test_ids_are_of_the_epoch(tmp_path: Path) -> None:
    spool = SpoolProcess(tmp_path)
    spool.start()

    async def session() -> None:
        link = await SpoolLink.connect(spool.socket_path, role="listener", index=0, on_lost=lambda _: None)
        assert [message_id.unpack(link.new_id()) for _ in range(2)] == [(0, link.epoch, 1), (0, link.epoch, 2)]
        refused: list[str | None] = []
        link.submit(Settle([], None, ["\ud800"]), refused.append)  # type: ignore[list-item]
        await asyncio.sleep(0)
        assert refused and str(refused[0]).startswith("cannot be stored")
        link.close()

    try:
        asyncio.run(session())
        assert spool.stop() == 0
    finally:
        spool.close()
