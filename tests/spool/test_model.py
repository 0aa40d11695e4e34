"""Random histories of accepts, settles, deferrals, resends and crashes, against a model that applies each operation once and in order."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.mail.envelope import DUE_KEY
from engine.spool import format
from engine.spool.ops import Operation, Settle, Settlement
from tests.spool.stepping import Spool, Worker, accept

Recipient = tuple[bytes, int]


class SpoolModel(RuleBasedStateMachine):
    """One worker; the model knows, for each recipient, whether it waits, and how many records there must be of it."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="spool-")
        self.spool = Spool(Path(self.directory.name))
        self.worker = Worker(self.spool)
        self.sizes: dict[bytes, tuple[int, int]] = {}  # message -> segment, size
        self.waiting: set[Recipient] = set()
        self.records: Counter[bytes] = Counter()
        self.old_keys: list[bytes] = []  # of rows that are gone or moved
        self.sequence = 0

    @initialize(segment_bytes=st.sampled_from([200, 4000]))
    def begin(self, segment_bytes: int) -> None:
        self.worker.writer_ = self.worker.writer(segment_bytes=segment_bytes)

    def submit(self, operation: Operation, crash: str) -> None:
        """Send one; the service may die before it works, or after it worked but before we hear of it."""
        self.worker.send(operation)
        if crash != "before":
            self.spool.step()
        if crash:
            self.spool.crash()
            self.spool.start()
            self.worker.resume()
            self.spool.step()
        self.worker.hear()
        assert self.worker.upto == len(self.worker.sent) and not self.worker.refused

    crashes = st.sampled_from(["", "", "", "before", "after"])

    @rule(queues=st.lists(st.sampled_from(["a/v", "b/v", "c/w"]), min_size=1, max_size=4), size=st.integers(0, 300), crash=crashes)
    def accepts(self, queues: list[str], size: int, crash: str) -> None:
        identity = self.worker.new_id()
        body = self.worker.writer_.write(identity, [b"x" * size])
        self.submit(accept(identity, body, *queues), crash)
        self.sizes[identity] = (body.segment, size)
        self.waiting |= {(identity, index) for index in range(len(queues))}

    @rule(data=st.data(), crash=crashes, again=st.booleans(), notice=st.booleans())
    def settles(self, data: st.DataObject, crash: str, again: bool, notice: bool) -> None:
        keys = [key for key, _ in self.spool.rows()] + self.old_keys[-3:]
        if not keys:
            return
        chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4, unique=True))
        self.sequence += 1
        rows = [Settlement(key, key[13:], (1 << 50) + self.sequence, b"\x90") if again else Settlement(key, key[13:]) for key in chosen]
        identity = self.worker.new_id()
        body = self.worker.writer_.write(identity, [b"notice"]) if notice else None
        self.submit(Settle(rows, accept(identity, body, "n/v") if body else None, [b"always"]), crash)
        present = [key for key in chosen if key not in self.old_keys]
        self.records.update(key[13:] for key in present)
        self.records[b"always"] += 1
        self.old_keys += present
        if not again:
            self.waiting -= {(key[13:25], int.from_bytes(key[25:], "big")) for key in present}
        if present and body is not None:
            self.waiting.add((identity, 0))
            self.sizes[identity] = (body.segment, body.size_bytes)

    @rule()
    def worker_dies(self) -> None:
        self.worker.close()
        self.spool.step()
        self.spool.service._resume_until_s = 0.0  # nobody is waited for: one that had only resumed might do so again
        self.spool.step()
        self.worker = Worker(self.spool)
        self.worker.writer_ = self.worker.writer(segment_bytes=200)

    @invariant()
    def tables_agree(self) -> None:
        rows = [DUE_KEY.unpack(key) for key, _ in self.spool.rows()]
        assert {(row[3], row[4]) for row in rows} == self.waiting and len(rows) == len(self.waiting)
        opened = Counter(identity for identity, _ in self.waiting)
        messages = self.spool.table("message")
        assert {identity: format.MESSAGE_HEAD.unpack_from(value)[0] for identity, value in messages.items()} == opened
        live: dict[tuple[int, int], list[int]] = {}
        for identity in opened:
            segment, size = self.sizes[identity]
            row = live.setdefault((int.from_bytes(identity[2:6], "big"), segment), [0, 0])
            row[0] += 1
            row[1] += size
        stored = {format.SEGMENT_KEY.unpack(key): format.SEGMENT_ROW.unpack(value) for key, value in self.spool.table("segment").items()}
        assert {key: list(row[:2]) for key, row in stored.items() if row[0]} == live
        assert all(not row[2] for row in stored.values() if not row[0])  # sealed and empty ones are gone
        assert Counter(self.spool.table("outbox").values()) == self.records
        files = {format.parse_segment_name(name) for name in self.spool.files()}
        assert stored.keys() <= files
        assert {file for file in files if file and file[0] != self.worker.epoch} <= stored.keys()

    def teardown(self) -> None:
        self.spool.close()
        self.directory.cleanup()


TestSpoolModel = SpoolModel.TestCase
TestSpoolModel.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
