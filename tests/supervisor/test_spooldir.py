"""Who owns a spool directory: the lock, the record of processes, and what a start may end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import StartError
from engine.supervisor import spooldir


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def survivor(spool: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that inherited the lock, as a child of a killed supervisor would; it is called engine."""
    lock = spooldir.claim(str(spool))
    (spool / "run").mkdir()
    os.set_inheritable(lock, True)
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code, "engine"], close_fds=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    os.close(lock)
    yield process
    process.kill()
    process.communicate(timeout=10)


def test_claims_an_empty_directory_and_again_after_release(spool: Path) -> None:
    os.close(spooldir.claim(str(spool)))
    os.close(spooldir.claim(str(spool)))


def test_recorded_survivor_is_ended(spool: Path, survivor: subprocess.Popen[bytes]) -> None:
    spooldir.record(str(spool), [("listener/0", survivor.pid)])
    os.close(spooldir.claim(str(spool), wait_s=0.05))
    assert survivor.wait(timeout=10) == -9


def test_living_supervisor_is_never_ended(spool: Path, survivor: subprocess.Popen[bytes]) -> None:
    spooldir.record(str(spool), [(spooldir.SUPERVISOR, survivor.pid)])
    with pytest.raises(StartError, match=f"already running .*pid {survivor.pid}"):
        spooldir.claim(str(spool), wait_s=0.05)
    assert survivor.poll() is None


def test_unrecorded_holder_is_not_ended_but_waited_for_and_refused(spool: Path, survivor: subprocess.Popen[bytes]) -> None:
    with pytest.raises(StartError, match="fuser"):
        spooldir.claim(str(spool), wait_s=0.05)
    assert survivor.poll() is None


def test_successor_of_a_recorded_pid_is_not_ended(spool: Path, survivor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other_start:
        other_start.setattr(spooldir, "start_time", lambda pid: 1)
        spooldir.record(str(spool), [("listener/0", survivor.pid)])
    assert spooldir.recorded(str(spool)) == []


def test_process_without_the_lock_is_not_ours(spool: Path, survivor: subprocess.Popen[bytes]) -> None:
    spooldir.record(str(spool), [("listener/0", os.getppid()), ("delivery/0", survivor.pid)])
    assert spooldir.recorded(str(spool)) == [("delivery/0", survivor.pid)]


@pytest.mark.parametrize("torn", ["", "[{", '[{"role": "x"}]', "null", "[1]"])
def test_torn_record_names_nobody(spool: Path, torn: str) -> None:
    (spool / "run").mkdir()
    (spool / "run" / "pids").write_text(torn)
    assert spooldir.recorded(str(spool)) == []


def test_start_time_tells_processes_apart() -> None:
    assert spooldir.start_time(os.getpid()) > 0
    assert spooldir.start_time(2**22 + 1) == 0


@pytest.mark.parametrize("names", [["mail.db"], ["lock", "other"]])
def test_foreign_directory_is_refused(spool: Path, names: list[str]) -> None:
    for name in names:
        (spool / name).touch()
    with pytest.raises(StartError, match="not a spool of this engine"):
        spooldir.claim(str(spool))
    assert sorted(path.name for path in spool.iterdir()) == sorted(names)


@pytest.mark.parametrize("names", [["lock"], ["lost+found"]])
def test_fresh_disk_or_start_that_got_no_further_is_ours(spool: Path, names: list[str]) -> None:
    for name in names:
        (spool / name).touch()
    os.close(spooldir.claim(str(spool)))


@pytest.mark.parametrize("mark", [b"", bytes(len(spooldir.MARK))])
def test_a_lock_that_a_power_cut_left_unmarked_is_ours(spool: Path, mark: bytes) -> None:
    (spool / "lock").write_bytes(mark)
    os.close(spooldir.claim(str(spool)))
    assert (spool / "lock").read_bytes() == spooldir.MARK


def test_the_mark_is_on_the_disk_before_anything_else_lies_there(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    os.close(spooldir.claim(str(spool)))
    assert synced == ["lock", spool.name]
