"""System calls that fail for no reason of ours (EIO), in each kind of file, under a real engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.conftest import MakeWorld
from tests.faults.test_disk import LARGE
from tests.faults.world import World
from tests.system.engine import eventually

AN_HOUR = "clock 3700 -"  # what cannot be read waits an hour: the wall clock goes on to then


@contextmanager
def clients(world: World) -> Iterator[None]:
    """A client that sends again and again while the body runs."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            world.send()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("fault", ["write 5 /bodies/", "sync 5 /bodies/", "open 5 /bodies/0"])
def test_bodies_cannot_be_written(make_world: MakeWorld, fault: str) -> None:
    world = make_world()
    assert world.send() == 250
    world.account()
    before = set(os.listdir(world.engine.directory / "spool" / "bodies"))
    world.faults.set(fault)
    if fault.startswith("open"):  # the segment that is open already goes on
        assert world.send(LARGE) == 451
    else:
        assert [world.send(), world.send(LARGE)] == [451, 451]
    world.says("listener/0 not-stored", "Input/output error")
    if fault.startswith("sync"):
        world.says("spool/0 spool sync failed: segment", "Input/output error")
    world.faults.clear()
    assert [world.send(), world.send(LARGE)] == [250, 250]
    if fault.startswith("sync"):  # never again in a file that did not sync
        assert set(os.listdir(world.engine.directory / "spool" / "bodies")) - before
    world.account()
    assert " ended " not in world.engine.log()


@pytest.mark.parametrize("fault", ["write 5 /index/data.mdb", "sync 5 /index/data.mdb"])
def test_the_index_cannot_be_written(make_world: MakeWorld, fault: str) -> None:
    world = make_world(first_backoff_s=0.05)
    world.behave("rcpt-4xx")
    assert [world.send() for _ in range(5)] == [250] * 5
    with clients(world):
        world.faults.set(fault)
        world.says("spool/0 spool failed: ", "Input/output error")
        world.says("supervisor/0 ended spool/0", "exit=1")
        world.behave("accept-all")
        world.faults.clear()
        world.accepts_again(60)
    world.account(duplicates=50)  # what was delivered while nobody could store it


@pytest.mark.parametrize("body", [b"Subject: small\r\n\r\nsmall\r\n", LARGE], ids=["small", "large"])
def test_a_body_cannot_be_read(make_world: MakeWorld, body: bytes) -> None:
    world = make_world()
    world.behave("mail-4xx")
    assert world.send(body) == 250
    world.engine.wait_for_records(1, "t")
    world.faults.set("read 5 /bodies/")
    world.behave("accept-all")
    world.says("delivery/0 quarantine", "its body cannot be read", "Input/output error", "wait an hour")
    assert world.queued() == world.acknowledged
    assert " fault " not in world.engine.log()
    assert not world.engine.records("b", "d")
    world.faults.set(AN_HOUR)
    world.account()


@pytest.mark.parametrize("fault", ["write 5 /acct", "sync 5 /acct", "short 0 /acct", "open 13 /acct"])
def test_accounting_cannot_be_written(make_world: MakeWorld, fault: str) -> None:
    world = make_world()
    if not fault.startswith("open"):
        assert world.send() == 250
        world.account()
    world.faults.set(fault)
    assert [world.send() for _ in range(5)] == [250] * 5
    eventually(lambda: len({to for message in world.sink.messages for to in message.recipients}) == len(world.acknowledged), "they are delivered")
    if not fault.startswith("short"):  # the rest is written then
        world.says("accounting/0", "cannot write")
    world.faults.clear()
    world.account()


def test_the_target_of_accounting_is_not_writable(make_world: MakeWorld) -> None:
    world = make_world("<acct-file @dir@/accounts/acct.csv>\n    records d,b,t,tq\n</acct-file>\n")
    target = world.engine.directory / "accounts"
    owner = target.stat()
    target.chmod(0o500)
    if os.geteuid() == 0:
        os.chown(target, 0, 0)
    assert world.send() == 250
    world.sink.wait_for_messages(1)
    world.says("accounting/0", "cannot write", "accounts", "Permission denied", "records wait in the spool")
    assert "1 records to write" in world.engine.run("status").stdout
    os.chown(target, owner.st_uid, owner.st_gid)
    target.chmod(0o750)
    eventually(lambda: sum(path.read_text().count("\nd,") for path in target.glob("acct*.csv")) == 1, "the record", 40)
    eventually(lambda: "0 records to write" in world.engine.run("status").stdout, "it is said to be written")
