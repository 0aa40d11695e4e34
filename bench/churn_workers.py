"""The processes around a spool, as bench.churn plays them: the spool process itself, listeners, delivery slots, accounting."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.churn_day import QUEUES, Hour, Mail, waits_until
from bench.engine_process import ROOT
from engine.log import EventLog
from engine.mail.envelope import Body
from engine.spool import SegmentWriter, SpoolLink, SpoolReader, format
from engine.spool.ops import Accept, Due, Exported, Message, NewRecipient, Settle, Settlement

RECORD = b"r" * 300  # about an encoded record
TEXT = b"A line of a body that is as long as such lines are, seventy-odd octets.\r\n" * 4200
PREFIX = b"Received: from somewhere by somewhere; some time\r\n" * 3
LISTENERS = SLOTS = 2
WINDOW = 300  # operations of one worker that are not answered
NEW_MOST = 30_000  # recipients that wait for their first attempt, beyond which clients are kept waiting
READ_ROWS = 500
PAUSE_S = 0.002
DEADLINE_S = 60.0  # for any one wait
DAY_MS = 86_400_000
REPORT_BYTES = 2_500
encode = msgspec.msgpack.encode


class Faulty(Exception):
    """The spool did not do its part; says what."""


class SpoolProcess:
    """The spool process; its listening socket is ours, so that workers find the next one."""

    def __init__(self, base: Path, segment_bytes: int) -> None:
        self.path = str(base / "socket")
        self.root = base / "spool"
        self.starts = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(64)
        fd = str(self._listener.fileno())
        self._command = [sys.executable, "-m", "bench.churn_workers", str(self.root), fd, str(segment_bytes), str(base / "log")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it may not be up yet."""
        self.starts += 1
        self._process = subprocess.Popen(self._command, pass_fds=[self._listener.fileno()], cwd=ROOT)

    def end(self, how: str) -> None:
        """"term" or "kill"; waits."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
            status = self._process.wait(60)
            if status != (-signal.SIGKILL if how == "kill" else 0):
                raise Faulty(f"the spool process ended with status {status}")
            self._process = None

    def check_alive(self) -> None:
        """Faulty if it has ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise Faulty(f"the spool process ended with status {status}")

    def cpu_s(self) -> float:
        """CPU seconds of the one that runs."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Kill what is left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
        self._listener.close()


def serve(root: str, listener_fd: int, segment_bytes: int, log: str) -> None:
    """Be the spool process until SIGTERM."""
    from engine.spool import compaction
    from engine.spool.service import SpoolService
    from engine.spool.worker import tune

    compaction.SLACK_BYTES = compaction.SLACK_BYTES // format.SEGMENT_BYTES * segment_bytes
    format.SEGMENT_BYTES = segment_bytes
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    events = EventLog(log, "spool/0")
    service = SpoolService(Path(root), socket.socket(fileno=listener_fd), events)
    tune()
    while not stopping:
        service.turn(0.2)
        events.flush()
    service.close()
    events.close()


class World:
    """What all workers share."""

    def __init__(self, process: SpoolProcess, segment_bytes: int, seed: int) -> None:
        self.process = process
        self.segment_bytes = segment_bytes
        self.chance = random.Random(seed)
        self.hour = Hour(0, 0, 0.05, 0.0, "", False)
        self.submitted = self.accepted = 0  # recipients of new mail and DSNs: sent to the spool process, acknowledged
        self.seen = self.left = 0  # recipients that a slot has found, and that have left
        self.messages = self.bounces = self.deferrals = 0
        self.waiting: defaultdict[int, list[tuple[Slot, Job]]] = defaultdict(list)  # by hour: what is to become of those that were deferred
        self.reader: SpoolReader

    async def until(self, true: Callable[[], object], what: str) -> None:
        """Wait; Faulty after DEADLINE_S."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not true():
            self.process.check_alive()
            if time.monotonic() > deadline_s:
                raise Faulty(f"{what}: not within {DEADLINE_S:.0f} s (accepted {self.accepted}, seen {self.seen}, left {self.left})")
            await asyncio.sleep(PAUSE_S)


class Worker:
    """One epoch after the other of one role and index."""

    role = ""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.epochs = 0
        self.up = False

    async def start(self) -> None:
        """A new epoch."""
        self.epochs += 1
        self.link = await SpoolLink.connect(
            self.world.process.path, role=self.role, index=self.index, virtual_mtas=self.virtual_mtas(), fallback=self.index == 0,
            on_announce=self.announced, on_lost=self.lost,
        )  # fmt: skip
        self.writer = SegmentWriter(self.world.process.root / format.BODIES, self.link, segment_bytes=self.world.segment_bytes)
        self.up = True

    def virtual_mtas(self) -> list[str]:
        return []

    def announced(self, numbers: list[int], stamp_ms: int) -> None:
        """Nothing, unless it is told otherwise."""

    def lost(self, error: Exception) -> None:
        raise Faulty(f"{self.role}/{self.index}: {error}")

    async def restart(self) -> None:
        """End without a word, as a killed worker does, and come back."""
        self.up = False
        self.link.close()
        self.writer.close()
        await self.start()

    def accept(self, size_bytes: int, queues: list[str]) -> Accept:
        """A message, its body written."""
        identity = self.link.new_id()
        body = self.write(identity, size_bytes)
        message = Message(body, "sender@example.com", PREFIX, 1, False, True, "", "", "smtp", "host (127.0.0.1)", "")
        recipients = [NewRecipient(queue, encode(Due("someone@d.example", 1))) for queue in queues]
        self.world.submitted += len(recipients)
        return Accept(identity, encode(message), body.epoch, body.segment, body.size_bytes, recipients)

    def write(self, identity: bytes, size_bytes: int) -> Body:
        """The body, small or large."""
        data = memoryview(TEXT)[:size_bytes]
        if size_bytes <= format.LARGE_BODY_BYTES:
            return self.writer.write(identity, [bytes(data)])
        large = self.writer.begin_large(identity)
        large.write(data)
        return large.finish()


class Listener(Worker):
    """Accepts."""

    role = "listener"

    async def take(self, messages: list[Mail]) -> None:
        """All of *messages*, as fast as the spool process lets it."""
        world = self.world
        for size_bytes, queues in messages:
            if not self.up or self.link.pending >= WINDOW or world.accepted - world.seen > NEW_MOST:
                await world.until(lambda: self.up and self.link.pending < WINDOW and world.accepted - world.seen < NEW_MOST, "room for more mail")
            names = [f"d{number}.example/v{number % SLOTS}" for number in queues]
            self.link.submit(self.accept(size_bytes, names), lambda reason, count=len(names): self.answered(reason, count))

    def answered(self, reason: str | None, count: int) -> None:
        """A 250, or a client that has to come again."""
        if reason is None:
            self.world.accepted += count
            self.world.messages += 1
        elif "closed" not in reason:
            raise Faulty(f"a message was refused: {reason}")


class Job(NamedTuple):
    """What became of recipients of one message; sent again as it is when its epoch ended without an answer."""

    rows: list[tuple[bytes, bytes]]  # key, encoded Due
    fate: str  # "deliver", "defer", "bounce"
    again_ms: int = 0

    def moved(self) -> list[tuple[bytes, bytes]]:
        """The rows that a deferral leaves."""
        return [(key[:5] + self.again_ms.to_bytes(8, "big") + key[13:], due) for key, due in self.rows]


class Slot(Worker):
    """Finds what was announced to it, and settles it."""

    role = "delivery"

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, index)
        self.frontiers: dict[int, bytes] = {}
        self.wanted: dict[int, None] = {}
        self.stamp_ms = 0
        self.redo: list[Job] = []  # what was unanswered when the epoch ended

    def virtual_mtas(self) -> list[str]:
        return [f"v{self.index}"]

    def announced(self, numbers: list[int], stamp_ms: int) -> None:
        self.stamp_ms = max(self.stamp_ms, stamp_ms)
        self._want(numbers or self._all())

    def _all(self) -> list[int]:
        return [number for number, _ in self.world.reader.queues(0, QUEUES * 2)]

    def _want(self, numbers: list[int]) -> None:
        ours = f"/v{self.index}"  # the fallback hears of others' queues, too
        self.wanted.update((number, None) for number in numbers if self.world.reader.queue_name(number).endswith(ours))

    async def restart(self) -> None:
        await super().restart()
        self.stamp_ms = max(self.stamp_ms, self.link.stamp_ms)
        self._want(self._all())
        self._do_again()

    async def run(self) -> None:
        """Until cancelled."""
        world = self.world
        while True:
            await asyncio.sleep(PAUSE_S)
            for number in list(self.wanted) if self.up else ():
                del self.wanted[number]
                rows, _ = world.reader.due(number, self.frontiers.get(number), self.stamp_ms, READ_ROWS)
                if len(rows) == READ_ROWS:
                    self.wanted[number] = None
                if rows:
                    self.frontiers[number] = rows[-1][0]
                    world.seen += len(rows)
                    self.first_attempt([(key, encode(due)) for key, due in rows])
                while not self.up or self.link.pending > 4 * WINDOW:
                    await asyncio.sleep(PAUSE_S)
            if self.redo and self.up:
                self._do_again()

    def _do_again(self) -> None:
        redo, self.redo = self.redo, []
        for job in redo:
            self.settle(job)

    def first_attempt(self, rows: list[tuple[bytes, bytes]]) -> None:
        """What becomes of new recipients: those of one message together."""
        hour, chance = self.world.hour, self.world.chance
        start = 0
        for end in range(1, len(rows) + 1):
            if end < len(rows) and rows[end][0][13:25] == rows[start][0][13:25]:
                continue
            drawn = chance.random()
            fate = "defer" if drawn < hour.deferred else "bounce" if drawn < hour.deferred + hour.bounced else "deliver"
            self.settle(Job(rows[start:end], fate, DAY_MS + int(time.time() * 1000) if fate == "defer" else 0))
            start = end

    def settle(self, job: Job) -> None:
        """Send what became of one message's recipients."""
        accept = None
        if job.fate == "bounce" and self.world.chance.random() < 0.9:
            accept = self.accept(REPORT_BYTES, [f"d0.example/v{self.index}"])
        rows = [Settlement(key, RECORD, job.again_ms, due if job.again_ms else b"") for key, due in job.rows]
        self.link.submit(Settle(rows, accept), lambda reason: self.settled(reason, job, accept is not None))

    def settled(self, reason: str | None, job: Job, reported: bool) -> None:
        """It is durable, or the epoch has ended."""
        world = self.world
        if reason is not None:
            if "closed" not in reason:
                raise Faulty(f"a settle was refused: {reason}")
            self.redo.append(job)
            return
        world.accepted += reported
        if job.again_ms:
            world.deferrals += len(job.rows)
            world.waiting[waits_until(world.hour.number, world.chance)] += [(self, Job([row], "deliver")) for row in job.moved()]
            return
        world.left += len(job.rows)
        world.bounces += len(job.rows) if job.fate == "bounce" else 0


class Accounting(Worker):
    """Exports what the others record."""

    role = "accounting"

    async def run(self) -> None:
        """Until cancelled."""
        upto = 0
        while True:
            rows = self.world.reader.outbox(upto, 4000)
            if rows:
                upto = rows[-1][0]
                self.link.submit(Exported(upto, {"acct.csv": upto.to_bytes(24, "big")}), lambda reason: None)
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
