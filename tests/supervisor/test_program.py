"""Becoming another program, where that cannot be; and a trial that does not answer."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest

from engine.log import EventLog
from engine.supervisor.program import become, environment
from engine.supervisor.signals import SIGNALS
from engine.supervisor.state import State, decode
from engine.supervisor.trial import Trial, Verdict
from engine.supervisor.upgrade import Upgrading
from tests.supervisor.test_state import OF_FORMAT_1


def document(*descriptors: int) -> State:
    """A State of this process that names these descriptors, and no others that are open."""
    names = ("config_fd", "lock_fd", "counters_fd", "heartbeat_fd", "spool_listener_fd", "control_listener_fd", "tls_fd", "door_fd")
    own = {name: descriptors[index % len(descriptors)] for index, name in enumerate(names)}
    return decode(msgspec.msgpack.encode(OF_FORMAT_1 | own | {"lifeline": descriptors[:2], "children": [], "others": [], "pid": os.getpid()}))


def verdict(trial: Trial, deadline_s: float = 30) -> Verdict:
    end_s = time.monotonic() + deadline_s
    while (said := trial.poll(time.monotonic())) is None:
        assert time.monotonic() < end_s, "no verdict"
        time.sleep(0.01)
    return said


def test_where_it_cannot_be_executed_everything_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = os.pipe()
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        become(document(*pipe), {})
    assert set(os.listdir("/proc/self/fd")) == before
    assert not any(os.get_inheritable(fd) for fd in pipe)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)
    for fd in pipe:
        os.close(fd)


def test_an_interpreter_that_is_gone_refuses_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    pipe = os.pipe()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Trial(document(*pipe), 0)
    assert set(os.listdir("/proc/self/fd")) == before
    for fd in pipe:
        os.close(fd)


@pytest.mark.parametrize(
    ("script", "within_s", "said"),
    [
        ("echo no such thing >&2; exit 3", 30, ["the installed program does not answer (exit status 3)", "no such thing"]),
        ("kill -9 $$", 30, ["the installed program does not answer (signal SIGKILL)"]),
        ("yes | head -c 1000000; exit 0", 30, ["the installed program does not answer (exit status 0)", *["y"] * 20]),
        ("exec sleep 1000", 0.2, ["the installed program has not answered in time"]),
    ],
    ids=["it says why", "it is killed", "it says much", "it says nothing"],
)
def test_a_program_that_gives_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, within_s: float, said: list[str]) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    pipe = os.pipe()
    before = set(os.listdir("/proc/self/fd"))
    trial = Trial(document(*pipe), time.monotonic() + within_s)
    assert verdict(trial) == Verdict("", said)
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ProcessLookupError):
        os.kill(trial.pid, 0)
    for fd in pipe:
        os.close(fd)


def test_a_source_tree_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m engine` there looks into the working directory, which -P leaves out."""
    home = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(sys, "path", [home, "/lib"])
    expected = "/elsewhere" if sys.flags.safe_path else f"{home}:/elsewhere"
    assert environment()["PYTHONPATH"] == expected
    monkeypatch.setattr(sys, "path", ["/opt/bin", home])
    assert environment()["PYTHONPATH"] == "/elsewhere"


def test_an_upgrade_that_ends_while_the_next_one_is_tried_does_not_end_that_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.supervisor.upgrade.Trial", lambda *_: object())
    log = EventLog(str(tmp_path / "log"), "supervisor/0")
    upgrading = Upgrading(log, lambda: document(0, 1), 60)
    upgrading.took_over(document(0, 1))
    assert (upgrading.told.attempt, upgrading.told.state) == (1, "replacing")
    upgrading.begin(False)
    upgrading.done()
    assert (upgrading.told.attempt, upgrading.told.state) == (2, "trying")
    log.close()
