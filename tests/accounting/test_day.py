"""Days in fast motion, through the real processes: a day lasts five seconds, and the accounting process is killed again and again.

Files are rotated, handed over and deleted, the log is rotated, and in the end every record is in one file, once.
"""

from __future__ import annotations

import csv
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounting.test_worker import Engine

DAY_S = 5.0  # of real time
DAYS = 2.4

FAST = """
import sys, time
from types import SimpleNamespace
from engine import log
from engine.accounting import export, worker
from engine.config.settings import AcctFileSettings, ServerSettings
from engine.process import Birth
def now_s():
    return 1_800_000_000 + (time.monotonic() - {began_s}) * 86_400 / {day_s}
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
    began_s = time.monotonic()
    code = FAST.replace("{began_s}", repr(began_s)).replace("{day_s}", repr(DAY_S))
    code = code.replace("{acct!r}", repr(str(engine.acct))).replace("{done!r}", repr(str(done))).replace("{old!r}", repr(str(old)))
    engine.start("spool", 0)
    draw, count, kills = random.Random(7), 0, 0
    accounting = engine.start("accounting", 1, code)
    while time.monotonic() < began_s + DAYS * DAY_S:
        engine.settle(range(count, count + 50))
        count += 50
        if draw.random() < 0.3:
            accounting.kill()
            accounting.wait()
            kills += 1
            accounting = engine.start("accounting", 1, code)
    engine.drain(accounting)
    assert kills > 3

    moved, here = sorted(done.iterdir()), sorted(engine.acct.parent.iterdir())
    assert sorted(numbers(moved) + numbers(here)) == list(range(count)), "every record once"
    assert len([file for file in here if numbers([file])]) <= 1 and len({file.name[:15] for file in moved}) >= 2, "handed over, day by day"
    assert len(moved) > DAYS * 4, "several a day: of four hours or 20 KB each"
    assert len({file.name for file in moved}) == len(moved)

    kept = numbers(sorted(old.parent.iterdir()))
    assert 0 < len(kept) < count and kept == list(range(count - len(kept), count)), "what is a day old is deleted, the rest is whole"

    logs = {path.name: path.read_text() for path in engine.root.iterdir() if path.name.startswith("log")}
    assert sorted(logs) == ["log", "log.1"], "log-rotate 2"
    assert all(line.startswith("20") and line.split()[2] in ("accounting/0", "spool/0") for text in logs.values() for line in text.splitlines())
    assert os.stat(engine.root / "log").st_mode & 0o777 == 0o640
