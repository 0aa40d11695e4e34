"""CPU of a whole tree is counted, orphans of kill -9 included, and nothing outlives its keeper."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.processes import Measured, tree

BURN = "import time, resource\nwhile sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.15: pass\n"
PARENT = (
    f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {BURN + 'time.sleep(600)'!r}])\n"
    "open(sys.argv[1], 'w').close()\ntime.sleep(600)\n"
)


def start(tmp_path: Path, *command: str) -> Measured:
    return Measured([sys.executable, *command], report=tmp_path / "usage", log=tmp_path / "log")


def wait_for(true: object, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cpu_and_status_of_a_command(tmp_path: Path) -> None:
    measured = start(tmp_path, "-c", BURN + "raise SystemExit(7)")
    usage = measured.wait(20)
    assert usage["status"] == 7
    assert usage["cpu_us"] >= 100_000
    assert not measured.alive()


def test_orphans_of_kill_9_are_counted_and_ended(tmp_path: Path) -> None:
    measured = start(tmp_path, "-c", PARENT, str(tmp_path / "ready"))
    wait_for((tmp_path / "ready").exists)
    wait_for(lambda: sum(measured.cpu_by_role().values()) >= 100_000)
    assert len(measured.processes()) == 2
    assert all(process.anonymous_bytes > 1_000_000 for process in measured.processes())
    measured.kill_all()
    assert measured.wait(5)["cpu_us"] >= 100_000
    assert measured.processes() == []


def test_sigterm_reaches_the_command_and_the_deadline_ends_the_rest(tmp_path: Path) -> None:
    measured = start(tmp_path, "-c", PARENT, str(tmp_path / "ready"))
    wait_for((tmp_path / "ready").exists)
    with pytest.raises(subprocess.TimeoutExpired):
        measured.wait(0.05)
    assert measured.close(0.5)["status"] == -15


def test_nothing_outlives_a_test_run_that_is_killed(tmp_path: Path) -> None:
    run = (
        "import sys, time\nfrom pathlib import Path\nfrom bench.processes import Measured\nfolder = Path(sys.argv[1])\n"
        f"measured = Measured([sys.executable, '-c', {PARENT!r}, str(folder / 'up')], report=folder / 'usage', log=folder / 'log')\n"
        "(folder / 'keeper').write_text(str(measured.keeper))\ntime.sleep(600)\n"
    )
    tests = subprocess.Popen([sys.executable, "-c", run, str(tmp_path)], cwd=Path(__file__).parents[2])
    wait_for((tmp_path / "up").exists)
    keeper = int((tmp_path / "keeper").read_text())
    below = tree(keeper)
    assert len(below) >= 3
    tests.kill()
    tests.wait(20)
    titles = [Path(f"/proc/{process.pid}/cmdline") for process in below]
    wait_for(lambda: not any(title.exists() and title.read_bytes() for title in titles))
