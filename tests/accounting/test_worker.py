"""The accounting process between a real spool process and real files, all in processes of their own."""

from __future__ import annotations

import asyncio
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.accounting.worker import make_targets
from engine.config.settings import AcctFileSettings
from engine.errors import StartError
from engine.log import EventLog
from engine.mail.record import QueueRecord, encode
from engine.process import HEARTBEAT_ROW_BYTES, Birth, heartbeat_cells
from engine.spool import SpoolLink
from engine.spool.ops import Settle


def test_targets_as_configured(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"), "accounting/0")
    first, second = make_targets(
        [AcctFileSettings(path="/a/acct.csv", fields={"d": ("rcpt", "nonsense\n")}), AcctFileSettings(path="/a/acct.csv")], log
    )
    assert (first.name, second.name) == ("/a/acct.csv", "/a/acct.csv'")
    assert first.layout.header.startswith(b"type,rcpt,")
    log.close()
    assert r"record-fields d: nothing is known of nonsense\n; it stays blank" in (tmp_path / "log").read_text()


def test_a_world_readable_file(tmp_path: Path) -> None:
    (target,) = make_targets([AcctFileSettings(path=str(tmp_path / "acct.csv"), world_readable=True)], EventLog("", ""))
    target.journal.begin("2026-11-24")
    assert os.stat(target.journal.position.file).st_mode & 0o777 == 0o644


CHILD = """
import sys
from types import SimpleNamespace
from engine.process import Birth
from engine.config.settings import AcctFileSettings, ServerSettings
from engine.{role}.worker import run
spool = SimpleNamespace(path={path!r}, deliver_only=False, min_free_space_bytes=0)
acct = AcctFileSettings(path={acct!r}, records=("d", "b", "t", "tq"))
config = SimpleNamespace(server=ServerSettings(), spools=(spool,), spool=spool, acct_files=(acct,))
sys.exit(run(Birth.decode(bytes.fromhex({birth!r})), config))
"""


class Engine:
    """A spool process and accounting processes, without a supervisor."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.acct = root / "acct" / "acct.csv"
        self.socket = str(root / "socket")
        self.log = root / "log"
        self.lifeline, self._end = os.pipe()
        self.heartbeat = os.memfd_create("heartbeat")
        os.ftruncate(self.heartbeat, 2 * HEARTBEAT_ROW_BYTES)
        self.beats = heartbeat_cells(self.heartbeat, 2)
        self.children: list[subprocess.Popen[bytes]] = []
        (root / "spool").mkdir()

    def start(self, role: str, row: int, code: str = CHILD) -> subprocess.Popen[bytes]:
        """The process, once it is at work; *code* is what it runs."""
        birth = Birth(
            role=role, index=0, module="", title="", supervisor_pid=0, row=row, rows=2, config_fd=-1, lifeline_fd=self.lifeline,
            heartbeat_fd=self.heartbeat, spool_path=str(self.root / "spool"), spool_socket=self.socket, log_path=str(self.log),
        )  # fmt: skip
        blanks = {"{role}": role, "{path!r}": repr(str(self.root / "spool")), "{acct!r}": repr(str(self.acct))}
        blanks["{birth!r}"] = repr(birth.encode().hex())
        for blank, value in blanks.items():
            code = code.replace(blank, value)
        before = self.beats[row]
        child = subprocess.Popen([sys.executable, "-c", code], pass_fds=(self.lifeline, self.heartbeat))
        self.children.append(child)
        deadline_s = time.monotonic() + 20
        while self.beats[row] == before:
            assert child.poll() is None, self.log.read_text() if self.log.exists() else "no log"
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        return child

    def settle(self, numbers: range) -> None:
        """Have these records in the outbox, durably."""

        async def submit() -> None:
            link = await SpoolLink.connect(self.socket, role="delivery", index=0, on_lost=lambda error: None)
            answers: list[str | None] = []
            for number in numbers:
                link.submit(Settle([], records=[encode(QueueRecord(1, f"{number}/v", "v", "4.4.1", "", "", "smtp", "", ""))]), answers.append)
            await link.drain()
            link.close()
            assert answers == [None] * len(numbers)

        asyncio.run(asyncio.wait_for(submit(), 20))

    def drain(self, accounting: subprocess.Popen[bytes]) -> None:
        """SIGTERM, obeyed."""
        accounting.send_signal(signal.SIGTERM)
        assert accounting.wait(20) == 0

    def numbers(self) -> list[int]:
        """What all files hold, in order."""
        found: list[int] = []
        for file in sorted(self.acct.parent.glob("acct-*.csv")):
            with file.open(newline="") as lines:
                found += [int(row["queue"].partition("/")[0]) for row in csv.DictReader(lines)]
        return found

    def close(self) -> None:
        """End what is left."""
        for child in self.children:
            child.kill()
            child.wait()
        for fd in (self.lifeline, self._end):
            os.close(fd)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.close()


def test_records_reach_their_file_and_leave_the_spool(engine: Engine) -> None:
    engine.start("spool", 0)
    engine.settle(range(100))
    accounting = engine.start("accounting", 1)
    engine.settle(range(100, 300))
    engine.drain(accounting)
    assert engine.numbers() == list(range(300))
    engine.drain(engine.start("accounting", 1))
    assert engine.numbers() == list(range(300)) and len(list(engine.acct.parent.iterdir())) == 1
    assert "drained at row" in engine.log.read_text()


def test_killed_anywhere_it_repeats_and_loses_nothing(engine: Engine) -> None:
    engine.start("spool", 0)
    for first in range(0, 600, 200):
        accounting = engine.start("accounting", 1)
        engine.settle(range(first, first + 200))
        accounting.kill()
        accounting.wait()
    engine.drain(engine.start("accounting", 1))
    assert engine.numbers() == list(range(600))


def test_a_spool_process_that_comes_back_is_waited_for(engine: Engine) -> None:
    spool = engine.start("spool", 0)
    accounting = engine.start("accounting", 1)
    engine.settle(range(50))
    spool.kill()
    spool.wait()
    engine.start("spool", 0)
    engine.settle(range(50, 100))
    engine.drain(accounting)
    assert engine.numbers() == list(range(100))


def test_a_path_that_the_spool_cannot_store_is_refused_at_the_start(tmp_path: Path) -> None:
    """Its position would be refused for ever, and records would wait until no mail is taken any more."""
    path = "/" + "a" * 250 + "/" + "b" * 249
    make_targets([AcctFileSettings(path=path)], EventLog("", ""))
    with pytest.raises(StartError, match="too long"):
        make_targets([AcctFileSettings(path=path), AcctFileSettings(path=path)], EventLog("", ""))
