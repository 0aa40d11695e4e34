"""What the service manager hears."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.supervisor.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def test_a_service_from_start_to_stop(manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
    notifier = Notifier(environment)
    assert environment == {"PATH": "/bin"}, "children are not to speak for us"
    notifier.ready("5 processes")
    assert manager.recv(1000) == b"READY=1\nSTATUS=5 processes"
    notifier.beat(100.0)
    notifier.beat(129.9)
    notifier.beat(130.0)
    assert [manager.recv(1000), manager.recv(1000)] == [b"WATCHDOG=1"] * 2
    notifier.status("one")
    notifier.status("one")
    notifier.reloading()
    notifier.stopping(80)
    assert manager.recv(1000) == b"STATUS=one"
    assert manager.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert manager.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=80000000\nSTATUS=draining"


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"engine-test-{os.getpid()}"
        listening.bind("\0" + name)
        listening.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready("x")
        assert listening.recv(100) == b"READY=1\nSTATUS=x"


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "nonsense"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}):
        notifier = Notifier(environment)
        notifier.ready("x")
        notifier.beat(1.0)
        assert notifier.every_s == 0.0


def test_a_manager_with_too_much_to_read_hears_it_later(manager: socket.socket) -> None:
    """As while the machine boots: a lost READY would be waited for until the start has timed out."""
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000000"})
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        try:
            while sent < 100_000:
                other.sendto(b"x", manager.getsockname())
                sent += 1
        except BlockingIOError:
            pass
    assert sent < 100_000
    notifier.ready("5 processes")
    notifier.beat(100.0)
    for _ in range(sent):
        assert manager.recv(10) == b"x"
    notifier.beat(101.0)
    assert [manager.recv(1000), manager.recv(1000)] == [b"READY=1\nSTATUS=5 processes", b"WATCHDOG=1"]
    notifier.beat(102.0)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)
