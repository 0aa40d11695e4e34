"""Readers of the index that die or come to no end, as the spool process sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.spool import format
from tests.spool.stepping import Spool, Worker, accept

READER = """
import lmdb, sys
env = lmdb.open(sys.argv[1], lib_version=0, map_size=1 << 36, max_dbs=8, readonly=True, max_readers=2048)
txn = env.begin()
print("reads", flush=True)
sys.stdin.read()
"""


def test_a_reader_that_comes_to_no_end_is_named_and_a_dead_one_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.service.READER_CHECK_S", -1.0)
    monkeypatch.setattr("engine.spool.service.STALE_READER_S", 0.0)
    spool = Spool(tmp_path)
    worker = Worker(spool)
    worker.writer_ = worker.writer()

    def put() -> None:
        identity = worker.new_id()
        assert worker.do(accept(identity, worker.writer_.write(identity, [b"x"]), "a/v")) == [None]

    command = [sys.executable, "-c", READER, str(spool.root / format.INDEX)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "reads\n"
        spool.step()
        assert "reads the index" not in spool.log_text()  # it sees the newest there is
        put()
        spool.reader().queues(0, 10)
        spool.step(2)
        text = spool.log_text()
        assert f"pid {other.pid} reads the index for " in text and text.count("reads the index") == text.count(f"pid {other.pid} reads")
        other.kill()
    spool.step()
    assert "freed 1 reader slots of dead processes" in spool.log_text()
    said = spool.log_text().count("reads the index")
    put()
    spool.step()
    assert spool.log_text().count("reads the index") == said
    spool.close()


def test_what_a_killed_spool_process_was_reading_is_freed_at_once_by_its_successor(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    command = [sys.executable, "-c", READER, str(spool.root / format.INDEX)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker,  # keeps the table of readers alive
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed,
    ):
        for process in (worker, killed):
            assert process.stdout is not None and process.stdout.readline() == "reads\n"
        spool.crash()
        killed.kill()
        killed.wait(10)
        spool.start()
        spool.step(1)
        assert "freed 1 reader slots of dead processes" in spool.log_text()  # else the index grows by all that is written for a minute
        worker.kill()
    spool.close()
