"""Disks that are full, in each kind of file: a real engine, and small file systems that the test fills and empties."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest

from tests.faults.conftest import MakeDisk, MakeWorld
from tests.faults.world import World
from tests.system.engine import eventually

SIZE_MB = {"spool/bodies": 140, "spool/index": 140, "spool": 220}  # mail is refused below 100 MB (min-free-space); the ballast has 64
LOW_BYTES = 50 << 20
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n" * 10_000  # 640 KB: a file of its own


def lines(directory: Path, kind: str) -> int:
    """How many accounting lines of *kind* there are below *directory*."""
    return sum(path.read_bytes().count(f"\n{kind},".encode()) for path in directory.glob("acct*.csv"))


def refuses(world: World) -> None:
    """Mail is refused for want of room, and `engine status` says so."""
    eventually(lambda: world.send() == 452, "mail is refused")
    assert world.send(LARGE) == 452
    world.says("spool/0 spool new mail is refused: disk low")
    assert "refuses mail: disk low" in world.engine.run("status").stdout


@pytest.mark.parametrize("where", SIZE_MB)
def test_full_below_the_reserve_then_to_the_last_byte(make_disk: MakeDisk, make_world: MakeWorld, where: str) -> None:
    world = make_world(start=False)
    if where != "spool":
        world.engine.make_spool()
    disk = make_disk(world.engine.directory / where, SIZE_MB[where])
    if where == "spool":
        (disk.path / "lost+found").mkdir()
    world.engine.start()
    assert [world.send(), world.send(LARGE)] == [250, 250]
    world.account()
    world.behave("rcpt-4xx")
    assert [world.send() for _ in range(20)] == [250] * 20  # these change the index every second
    disk.fill(LOW_BYTES)
    refuses(world)
    disk.fill()
    assert world.send() == 452
    tried = len(world.engine.records("t"))
    full = "spool/0 spool commit failed: no space left; new mail is refused and outcomes wait in memory until there is"
    eventually(lambda: full in world.engine.log() or len(world.engine.records("t")) > tried + 20, "outcomes are stored, or wait for room")
    assert set(world.engine.pids()) >= {"spool/0", "delivery/0", "listener/0", "accounting/0"}
    world.behave("accept-all")
    disk.empty()
    world.accepts_again()
    world.says("spool/0 spool new mail is accepted again")
    world.account()
    assert " ended spool/0 " not in world.engine.log()


def test_full_where_accounting_lies(make_disk: MakeDisk, make_world: MakeWorld) -> None:
    world = make_world("<acct-file @dir@/accounts/acct.csv>\n    records d,b,t,tq\n</acct-file>\n", start=False)
    disk = make_disk(world.engine.directory / "accounts", 1)
    world.engine.start()
    assert world.send() == 250
    eventually(lambda: lines(disk.path, "d") == 1, "a record")
    disk.fill()
    sent = [world.send() for _ in range(200)]  # more lines than the rest of a page holds
    assert sent == [250] * 200
    world.sink.wait_for_messages(201)
    line = world.says("accounting/0", "cannot write", "No space left on device")
    assert "acct" in line
    assert re.search(r"[1-9]\d* records to write", world.engine.run("status").stdout)
    disk.empty()
    eventually(lambda: lines(disk.path, "d") == 201, "every record")
    recipients = [line.split(",") for path in disk.path.glob("acct*.csv") for line in path.read_text().splitlines() if line.startswith("d,")]
    assert len({tuple(fields) for fields in recipients}) == 201
    assert world.queued() == set()


def test_full_where_the_log_lies(make_disk: MakeDisk, make_world: MakeWorld) -> None:
    world = make_world("log-file @dir@/logs/log\n", start=False)
    disk = make_disk(world.engine.directory / "logs", 1)
    world.engine.log_path = disk.path / "log"
    world.engine.start()
    world.says("supervisor/0 ready")
    disk.fill()
    assert [world.send() for _ in range(60)] == [250] * 60  # some 25 KB of lines
    world.account()
    eventually(lambda: world.engine.log_path.stat().st_size % mmap.PAGESIZE == 0, "a flush fills the last page, and loses the rest")
    disk.empty()
    assert world.send() == 250
    assert int(re.search(r"log lost (\d+) lines that could not be written", world.says("log lost", "lines"))[1]) > 0  # type: ignore[index]
    world.account()
    assert world.send() == 250
    eventually(lambda: "listener/0 accepted" in world.engine.log().rpartition("log lost")[2], "what comes later is in the log")


def test_a_log_that_cannot_be_opened(make_world: MakeWorld) -> None:
    world = make_world(first_backoff_s=0.05)
    assert world.send() == 250
    world.says("listener/0 accepted")
    world.faults.set(f"open 28 {world.engine.log_path}")
    world.engine.kill9("listener")  # its successor opens the log anew
    world.accepts_again()
    eventually(lambda: b"listener/0 accepted" in (world.engine.directory / "output").read_bytes(), "it goes to standard error")
    said = (world.engine.directory / "output").read_text()
    assert "cannot write the log" in said and "No space left on device" in said
    world.faults.clear()
    eventually(lambda: world.send() == 250 and world.engine.log().count("listener/0 accepted") > 1, "it goes to the log again")
    world.account()


def test_no_room_for_a_body_in_the_middle(make_world: MakeWorld) -> None:
    world = make_world()
    for fault, code in (("write 28 /bodies/", 452), ("short 0 /bodies/", 451)):
        world.faults.set(fault)
        assert [world.send(), world.send(LARGE)] == [code, code]
        world.says("listener/0 not-stored", "body cannot be written")
        world.faults.clear()
        world.accepts_again()
        assert world.send(LARGE) == 250
    world.account()


def test_no_room_for_a_commit_in_the_middle(make_world: MakeWorld) -> None:
    world = make_world()
    world.behave("rcpt-4xx")
    assert [world.send() for _ in range(5)] == [250] * 5
    world.engine.wait_for_records(5, "t")
    world.faults.set("write 28 /index/data.mdb")
    world.says("spool/0 spool commit failed: no space left; new mail is refused and outcomes wait in memory until there is")
    eventually(lambda: world.send() == 452, "mail is refused")
    assert world.queued() == world.acknowledged
    world.behave("accept-all")
    world.faults.clear()
    world.accepts_again()
    world.account()
    assert " ended spool/0 " not in world.engine.log()
