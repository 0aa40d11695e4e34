"""What is recorded: a spool's life with every kind of operation, stepped in one process.

`python -m tests.crash_states.workload ROOT SEED first|second`; the second life begins on what the first one left, and is short.

Everything is small (segments of 5 KB, slices of 7 records), so that segments are sealed, emptied and compacted all the time.  Bodies are written
while others are being synced, as workers do.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import msgspec

from engine.spool import committer, compaction, files, format, offline, service
from engine.spool.ops import Accept, Due, Exported, NewRecipient, Operation, Settle, Settlement
from engine.spool.space import Space
from engine.supervisor import ground, spooldir
from tests.crash_states.recorder import mark
from tests.spool.stepping import Spool, Worker, accept, encode

SEGMENT_BYTES = 5_000
QUEUES = [f"d{number}.example/v{number % 3}" for number in range(12)]
ROUNDS = 14  # of each life


def note(kind: str, *values: object) -> None:
    """A mark: what history.py reads."""
    mark(msgspec.msgpack.encode([kind, *values]))


class NotedWorker(Worker):
    """A worker whose operations are in the record."""

    def send(self, *operations: Operation) -> None:
        for number, operation in enumerate(operations, len(self.sent) + 1):
            note("sent", self.epoch, number, encode(operation))
        super().send(*operations)


class Life:
    """Spool and workers; everything is chosen by *chance*."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self.chance = chance
        self.lock = -1
        self.records = self.again_ms = 0
        self.exported = 0
        self.quiet = False  # no mail while others sync
        self.listeners: list[NotedWorker] = []

    def start(self) -> None:
        """As the supervisor and its children start."""
        spool = self.root / "spool"
        ground.directory(str(spool), 0o700, -1, -1, "spool")
        self.lock = spooldir.claim(str(spool))
        format.claim(spool, self.lock)
        self.spool = Spool(self.root, space=Space(spool, 1, 4096), map_size_bytes=1 << 30)
        self.listeners = [self.new_worker(number) for number in range(2)]
        self.slot = NotedWorker(self.spool, "delivery", fallback=True)
        self.slot.writer_ = self.slot.writer(segment_bytes=SEGMENT_BYTES)
        self.accounting = NotedWorker(self.spool, "accounting")

    def new_worker(self, number: int) -> NotedWorker:
        worker = NotedWorker(self.spool, "listener", index=number)
        worker.writer_ = worker.writer(segment_bytes=SEGMENT_BYTES)
        return worker

    def workers(self) -> list[NotedWorker]:
        return [*self.listeners, self.slot, self.accounting]

    def step(self) -> None:
        self.spool.step(3)
        for worker in self.workers():
            worker.hear()
        assert all(worker.upto == len(worker.sent) for worker in (self.slot, self.accounting))  # mail may have come meanwhile

    # --- what workers do -----------------------------------------------------------------------------------------------------------

    def record(self) -> bytes:
        self.records += 1
        return b"record %d" % self.records

    def text(self, size: int) -> bytes:
        return self.chance.randbytes(size)

    def mail(self, worker: NotedWorker) -> None:
        """One message, of a kind that is chosen."""
        identity = worker.new_id()
        recipients = self.chance.sample(QUEUES, self.chance.choice((1, 1, 2, 5)))
        kind = self.chance.random()
        if kind < 0.85:
            body = worker.writer_.write(identity, [self.text(self.chance.randrange(40)), self.text(self.chance.choice((10, 300, 700, 2_000)))])
            worker.send(accept(identity, body, *recipients, records=(self.record(),) if kind < 0.1 else ()))
            return
        large = worker.writer_.begin_large(identity)
        for _ in range(3):
            large.write(self.text(2_500))
        if kind < 0.9:
            large.abort()
        elif kind < 0.93:  # refused: its file goes
            worker.send(msgspec.structs.replace(accept(identity, large.finish(), "a/b"), recipients=[NewRecipient("x" * 600, encode(Due("a", 1)))]))
        else:
            worker.send(accept(identity, large.finish(), *recipients))

    def settle(self) -> None:
        """Outcomes of some of what waits."""
        keys = [key for key, _ in self.spool.rows()]
        share = 0.8 if len(keys) > 60 else 0.35
        chosen = [key for key in keys if self.chance.random() < share]
        while chosen:
            some, chosen = chosen[:5], chosen[5:]
            rows = [self.outcome(key) for key in some]
            notice: Accept | None = None
            if self.chance.random() < 0.15:
                identity = self.slot.new_id()
                notice = accept(identity, self.slot.writer_.write(identity, [self.text(300)]), "n.example/v0")
            self.slot.send(Settle(rows, notice, [self.record()] if self.chance.random() < 0.1 else []))

    def outcome(self, key: bytes) -> Settlement:
        if self.chance.random() < 0.2:
            self.again_ms += 1
            return Settlement(key, self.record(), (1 << 50) + self.again_ms, encode(Due("again@x.example", 1, attempts=1)))
        return Settlement(key, self.record())

    def export(self) -> None:
        """Accounting has written what it read."""
        rows = self.spool.reader().outbox(0, self.chance.randrange(1, 60))
        if rows:
            note("exporting", [record for _, record in rows])
            self.accounting.send(Exported(rows[-1][0], {"file": b"%d" % rows[-1][0]}))

    def between(self) -> None:
        """Mail that comes while the spool process syncs."""
        if self.quiet or not self.listeners or self.chance.random() < 0.7:
            return
        self.quiet = True
        self.mail(self.chance.choice(self.listeners))
        self.quiet = False

    # --- lives -------------------------------------------------------------------------------------------------------------------------

    def play(self, rounds: int) -> None:
        for number in range(rounds):
            for worker in self.listeners:
                for _ in range(self.chance.randrange(5)):
                    self.mail(worker)
            if number % 2:
                self.settle()
            if number % 3 == 2:
                self.export()
            self.step()
            self.step()  # what came while it worked
            if number % 6 == 5:
                self.replace_worker()

    def replace_worker(self) -> None:
        """One dies with a body that nobody will name; its epoch is closed."""
        old = self.listeners.pop(0)
        old.writer_.write(old.new_id(), [self.text(200)])
        old.close()
        self.listeners.append(self.new_worker(old.index))

    def restart(self, *, resume: bool) -> None:
        """The spool process is killed and starts again; its workers resume, or are gone too."""
        for worker in self.listeners:
            self.mail(worker)
        if resume:
            self.quiet = True  # new operations follow those that are sent again
            self.spool.crash()
            self.spool.start(space=Space(self.root / "spool", 1, 4096))
            for worker in self.workers():
                worker.resume()
            self.quiet = False
            self.step()
            return
        self.end()
        self.start()
        self.spool.service._resume_until_s = 0.0
        self.step()

    def end(self) -> None:
        """Killed, all of it."""
        self.spool.crash()
        for worker in self.workers():
            worker.socket.close()
        self.listeners = []
        os.close(self.lock)


def prepare(life: Life) -> None:
    """Small bounds, marks of what is answered, and mail while bodies are synced."""
    compaction.LOOK_EVERY_S = -1.0
    compaction.SLACK_BYTES = 0
    compaction.SLICE_RECORDS = 7
    format.SEGMENT_BYTES = SEGMENT_BYTES
    committer.TRIM_ROWS = 5
    sync_file = files.SegmentFiles._sync_file

    def sync_and_write(self: files.SegmentFiles, descriptor: int) -> None:
        sync_file(self, descriptor)
        life.between()

    files.SegmentFiles._sync_file = sync_and_write  # type: ignore[method-assign]
    _note_answers()


def _note_answers() -> None:
    real_answer, real_welcome = service.SpoolService._answer, service.SpoolService._welcome

    def answer(self: service.SpoolService, upto: dict[Any, int], refusals: Any, changes: Any) -> None:
        for session, number in upto.items():
            note("answered", session.epoch, number, [refused for refused, _ in refusals.get(session, [])])
        real_answer(self, upto, refusals, changes)

    def welcome(self: service.SpoolService, session: Any, epoch: int) -> None:
        note("welcome", epoch)
        real_welcome(self, session, epoch)

    service.SpoolService._answer = answer  # type: ignore[method-assign]
    service.SpoolService._welcome = welcome  # type: ignore[method-assign]


def first_life(life: Life) -> None:
    """Two starts and a restart, then an offline compaction and a last short time."""
    life.start()
    life.play(ROUNDS)
    life.restart(resume=True)
    life.play(ROUNDS)
    life.restart(resume=False)
    life.play(ROUNDS // 2)
    life.end()
    lock = spooldir.claim(str(life.root / "spool"))
    offline.compact(life.root / "spool")
    os.close(lock)
    life.start()
    life.play(3)
    life.spool.close()
    os.close(life.lock)


def second_life(life: Life) -> None:
    """Nobody resumes; some work, and a stop."""
    note("second")
    life.records = life.again_ms = 1_000_000  # other names than before
    life.start()
    life.spool.service._resume_until_s = 0.0
    life.step()
    life.play(4)
    life.spool.close()
    os.close(life.lock)


def main() -> None:
    root, seed, which = Path(sys.argv[1]), *sys.argv[2:]
    life = Life(root, random.Random(f"{seed}/{which}"))
    prepare(life)
    {"first": first_life, "second": second_life}[which](life)


if __name__ == "__main__":
    main()
