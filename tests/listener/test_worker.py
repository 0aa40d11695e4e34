"""The listener process among the others: it dies and is replaced, it drains, and what it acknowledged is there."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.listener import worker
from tests.listener.live import Client
from tests.system.engine import Engine, eventually

MESSAGE = b"Subject: x\r\n\r\nbody\r\n.\r\n"
CONF = """
listener-workers 1
delivery-workers 1
<domain *>
    type discard
</domain>
"""


@pytest.fixture
def running() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="engine-test-") as name:
        if os.geteuid() == 0:
            Path(name).chmod(0o711)
        with Engine(Path(name) / "engine", CONF) as engine:
            yield engine


def accepted(peer: Client) -> str:
    """The id of a message that is handed in now."""
    assert peer.greet().startswith("354")
    peer.send(MESSAGE)
    answer = peer.reply()
    assert answer.startswith("250 2.6.0")
    return answer.rpartition(" ")[2]


@pytest.mark.system
def test_killed_amid_a_message_then_drained(running: Engine) -> None:
    def client() -> Client:
        return Client("127.0.0.1", running.port, "")

    with client() as before, client() as amid:
        ids = [accepted(before)]
        amid.greet()
        amid.send(b"A: b\r\n\r\n" + b"z" * 400_000)
        first = running.kill9("listener/0")
        with pytest.raises(ConnectionError):
            assert amid.reply() == ""
            raise ConnectionResetError
    eventually(lambda: running.pids().get("listener/0", [first]) != [first], "a successor")
    with client() as after, client() as idle, client() as last:
        ids.append(accepted(after))
        idle.reply()
        last.greet()
        ending = threading.Thread(target=running.stop)
        ending.start()
        assert idle.reply().startswith("421 4.3.2")
        last.send(MESSAGE)
        answer = last.reply()
        assert answer.startswith("250 2.6.0")
        ids.append(answer.rpartition(" ")[2])
        assert last.reply().startswith("421 4.3.2")
        ending.join(60)
    assert running.status == 0
    running.start()
    eventually(lambda: all(f"delivered id={id}" in (running.directory / "log").read_text() for id in ids), "every message delivered")
    log = (running.directory / "log").read_text()
    assert all(f" accepted id={id} " in log for id in ids[1:])  # the first one's line may have died in its process
    assert " fault " not in log


def test_connections_are_bounded_by_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((1024, 480), (64, 1), (worker.resource.RLIM_INFINITY, 1 << 20)):
        monkeypatch.setattr(worker.resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert worker.max_connections() == most
