"""Descriptors and memory that run out in one process, and come back: a real engine whose processes get other limits while they run."""

from __future__ import annotations

import errno
import smtplib
import time

import pytest

from tests.faults.conftest import MakeWorld
from tests.faults.test_disk import LARGE
from tests.faults.world import World
from tests.system.engine import eventually


def cpu_s(world: World, role: str) -> float:
    """What that process has used."""
    return sum(process.cpu_us for process in world.engine.processes() if process.role == role) / 1e6


def test_a_listener_without_descriptors(make_world: MakeWorld) -> None:
    world = make_world()
    assert world.send() == 250
    soft = world.engine.no_more_descriptors("listener/0")
    with smtplib.SMTP(timeout=20) as client:
        client.timeout = 1
        with pytest.raises(OSError):  # the kernel takes the connection, nobody greets
            client.connect("127.0.0.1", world.engine.port)
    world.says("listener/0 refused no connection could be accepted: Too many open files")
    before, began_s = cpu_s(world, "listener/0"), time.monotonic()
    eventually(lambda: world.engine.log().count("no connection could be accepted") >= 5, "it is tried again and again")
    assert cpu_s(world, "listener/0") - before < 0.5 * (time.monotonic() - began_s) + 0.1, "it spins"
    world.engine.limit("listener/0", "nofile", soft)
    world.accepts_again()
    world.account()


def test_a_listener_without_a_descriptor_for_a_body(make_world: MakeWorld) -> None:
    world = make_world()
    assert world.send() == 250
    with smtplib.SMTP("127.0.0.1", world.engine.port, timeout=20) as client:
        client.ehlo()
        soft = world.engine.no_more_descriptors("listener/0")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("sender@origin.example", ["large@dest.example"], LARGE)
        assert refused.value.smtp_code == 451
        world.says("listener/0 not-stored", "Too many open files")
        client.sendmail("sender@origin.example", ["small@dest.example"], b"Subject: x\r\n\r\nsmall\r\n")  # the open segment goes on
        world.acknowledged.add("small@dest.example")
        world.engine.limit("listener/0", "nofile", soft)
        client.sendmail("sender@origin.example", ["large2@dest.example"], LARGE)
        world.acknowledged.add("large2@dest.example")
    world.account()


def test_a_sender_without_descriptors(make_world: MakeWorld) -> None:
    world = make_world()
    world.says("supervisor/0 ready")
    soft = world.engine.no_more_descriptors("delivery/0")
    assert [world.send() for _ in range(5)] == [250] * 5
    world.says("delivery/0 queue-failed", "no socket can be bound", "Too many open files")
    assert not world.engine.records("b", "d", "t")
    world.engine.limit("delivery/0", "nofile", soft)
    world.account()


def test_a_spool_process_without_descriptors(make_world: MakeWorld) -> None:
    world = make_world()
    assert world.send() == 250
    world.account()
    soft = world.engine.no_more_descriptors("spool/0")
    assert "no answer" in world.engine.run("status").stdout
    world.says("spool/0 spool cannot accept a connection: ", "Too many open files")
    assert world.send(LARGE) == 451  # a file that cannot be opened cannot be synced
    world.says("spool/0 spool sync failed: segment", "Too many open files")
    before, said, began_s = cpu_s(world, "spool/0"), world.engine.log().count("cannot accept a connection"), time.monotonic()
    eventually(lambda: world.engine.log().count("cannot accept a connection") > said, "it tries again")
    eventually(lambda: world.engine.log().count("cannot accept a connection") > said + 2, "it tries again and again")
    took_s = time.monotonic() - began_s
    assert cpu_s(world, "spool/0") - before < 0.5 * took_s, "it spins"
    world.engine.limit("spool/0", "nofile", soft)
    eventually(lambda: "0 messages" in world.engine.run("status").stdout, "it answers")
    assert world.send(LARGE) == 250
    world.account()
    assert " ended spool/0 " not in world.engine.log()


def test_no_descriptor_in_the_whole_system(make_world: MakeWorld) -> None:
    world = make_world()
    assert world.send() == 250
    world.account()
    world.faults.set(f"socket {errno.ENFILE} -")
    with smtplib.SMTP(timeout=20) as client:
        client.timeout = 1
        with pytest.raises(OSError):
            client.connect("127.0.0.1", world.engine.port)
    world.says("listener/0 refused no connection could be accepted: Too many open files in system")
    before = dict(world.engine.pids())
    world.faults.clear()
    world.accepts_again()
    world.account()
    assert world.engine.pids() == before


@pytest.mark.parametrize("role", ["listener/0", "delivery/0"])
def test_no_memory_for_a_message(make_world: MakeWorld, role: str) -> None:
    world = make_world()
    assert [world.send(), world.send(LARGE)] == [250, 250]
    world.account()
    soft = world.engine.limit(role, "data", "4096")  # it gets no page more
    codes = [world.send(LARGE) for _ in range(10)]
    assert set(codes) <= {250, 0, 421, 450, 451, 452}, codes
    world.says(f"{role} fault", "MemoryError")
    world.engine.limit(role, "data", soft)
    world.accepts_again()
    assert world.send(LARGE) == 250
    world.account(duplicates=10 if role == "delivery/0" else 0)
    assert " ended " not in world.engine.log()


def test_no_memory_for_a_commit(make_world: MakeWorld) -> None:
    world = make_world(first_backoff_s=0.05)
    assert world.send() == 250
    world.account()
    world.engine.limit("spool/0", "data", "4096")  # until it ends: its successor has what the supervisor has
    recipients = [f"{'x' * 50}{number}@dest.example" for number in range(4_000)]
    with smtplib.SMTP("127.0.0.1", world.engine.port, timeout=60) as client:
        assert client.sendmail("sender@origin.example", recipients, b"Subject: x\r\n\r\nto many\r\n") == {}
    world.acknowledged.update(recipients)  # the listener sent it again to the successor, and waited for that one's word
    world.says("spool/0 spool failed: MemoryError")
    world.says("supervisor/0 ended spool/0", "exit=1")
    world.account()
