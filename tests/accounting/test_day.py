"""Days in fast motion, through the real processes, by a clock that the test sets; the accounting process is killed again and again.

Files are rotated, handed over and deleted, the log is rotated, and in the end every record is in one file, once.
"""

from __future__ import annotations

import csv
import mmap
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.spool import SpoolReader
from tests.accounting.test_worker import Engine
from tests.system.engine import eventually

HOURS = 60
BEGAN_S = 1_800_000_000.0

FAST = """
import mmap, struct, sys, time
from types import SimpleNamespace
from engine import log
from engine.accounting import export, worker
from engine.config.settings import AcctFileSettings, ServerSettings
from engine.process import Birth
with open({clock!r}, "rb") as file:
    clock = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
def now_s():
    return struct.unpack("d", clock[:8])[0]
log.time = SimpleNamespace(time=now_s, localtime=time.localtime, strftime=time.strftime, monotonic=time.monotonic)
export.TEND_S = worker.ROTATE_S = 0.05
acct = (
    AcctFileSettings(path={acct!r}, records=("tq",), max_size_bytes=20_000, move_to={done!r}, move_interval_s=4 * 3600),
    AcctFileSettings(path={old!r}, records=("tq",), max_size_bytes=1 << 30, delete_after_s=86_400, user_string="day"),
)
config = SimpleNamespace(server=ServerSettings(log_rotate=2), acct_files=acct)
sys.exit(worker.run(Birth.decode(bytes.fromhex({birth!r})), config, now_s))
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.close()


def numbers(files: list[Path]) -> list[int]:
    """Of all records in *files*, in the order of the files' names."""
    found: list[int] = []
    for file in files:
        with file.open(newline="") as lines:
            found += [int(row["queue"].partition("/")[0]) for row in csv.DictReader(lines)]
    return found


def test_days_pass_through_kills(engine: Engine) -> None:
    old, done = engine.root / "old" / "old.csv", engine.root / "done"
    done.mkdir()
    (engine.root / "clock").write_bytes(struct.pack("d", BEGAN_S))
    with (engine.root / "clock").open("r+b") as file:
        clock = mmap.mmap(file.fileno(), 8)
    code = FAST.replace("{clock!r}", repr(str(engine.root / "clock"))).replace("{acct!r}", repr(str(engine.acct)))
    code = code.replace("{done!r}", repr(str(done))).replace("{old!r}", repr(str(old)))
    engine.start("spool", 0)
    reader = SpoolReader(engine.root / "spool")
    draw, count, kills = random.Random(7), 0, 0
    accounting = engine.start("accounting", 1, code)
    for hour in range(HOURS):
        clock[:8] = struct.pack("d", BEGAN_S + hour * 3600)
        engine.settle(range(count, count + 50))
        count += 50
        if draw.random() < 0.3:
            accounting.kill()
            accounting.wait()
            kills += 1
            accounting = engine.start("accounting", 1, code)
        if hour % 4 == 3:  # so that none of them sleeps through a day
            eventually(lambda: not reader.outbox(0, 1), "the records are written")
    reader.close()
    engine.drain(accounting)
    assert kills > 3

    moved, here = sorted(done.iterdir()), sorted(engine.acct.parent.iterdir())
    assert sorted(numbers(moved) + numbers(here)) == list(range(count)), "every record once"
    assert len([file for file in here if numbers([file])]) <= 1 and len({file.name[:15] for file in moved}) >= 2, "handed over, day by day"
    assert len(moved) >= HOURS // 8, "several a day: of four hours or 20 KB each"
    assert len({file.name for file in moved}) == len(moved)

    kept = numbers(sorted(old.parent.iterdir()))
    assert 0 < len(kept) < count and kept == list(range(count - len(kept), count)), "what is a day old is deleted, the rest is whole"

    logs = {path.name: path.read_text() for path in engine.root.iterdir() if path.name.startswith("log")}
    assert sorted(logs) == ["log", "log.1"], "log-rotate 2"
    assert all(line.startswith("20") and line.split()[2] in ("accounting/0", "spool/0") for text in logs.values() for line in text.splitlines())
    assert os.stat(engine.root / "log").st_mode & 0o777 == 0o640
