"""Two `<spool>` on disks of their own: while the first is full mail comes into the second, and leaves from the first when that has room."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.faults.conftest import MakeDisk, MakeWorld
from tests.faults.world import BODY, Disk, World

TWO = """
listener-workers 1
delivery-workers 1
<spool @dir@/spool>
    priority 20
    min-free-space 16M
</spool>
<spool @dir@/second>
    min-free-space 16M
</spool>
"""
MEGABYTES = 60
LOW_BYTES = 8 << 20
LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n" * 8000
CLIENTS = 3
RATE = 5e5  # bytes in a second and client, at the most: the second is small too, and must not be filled


class Two(World):
    """A World whose engine has two spools."""

    first: Disk
    second: Disk

    def moves_on(self, many: int = 40) -> None:
        """Return when so many more messages have been acknowledged."""
        wanted = len(self.acknowledged) + many
        self.eventually(lambda: len(self.acknowledged) >= wanted, f"{many} more messages are acknowledged", 40)

    def lines(self, *words: str) -> int:
        """How many lines of the log have all of *words*."""
        return sum(all(word in line for word in words) for line in self.engine.log().splitlines())


@contextmanager
def load(world: World, body: bytes = BODY) -> Iterator[list[int]]:
    """Clients that send all the time; the codes of what was refused."""
    refused: list[int] = []
    ended = threading.Event()

    def client() -> None:
        while not ended.wait(len(body) / RATE):
            if (code := world.send(body)) != 250:
                refused.append(code)

    with ThreadPoolExecutor(CLIENTS) as threads:
        running = [threads.submit(client) for _ in range(CLIENTS)]
        try:
            yield refused
        finally:
            ended.set()
        for each in running:
            each.result(60)


@pytest.fixture
def two(make_world: MakeWorld, make_disk: MakeDisk) -> Two:
    world = make_world(TWO, start=False)
    world.__class__ = Two
    assert isinstance(world, Two)
    world.first, world.second = (make_disk(world.engine.directory / name, MEGABYTES) for name in ("spool", "second"))
    world.spools = ["spool", "second"]
    world.engine.start()
    world.says("ready 127.0.0.1")
    return world


@pytest.mark.parametrize("body", [BODY, LARGE], ids=["small", "large"])
def test_nobody_is_refused_while_one_has_room(two: Two, body: bytes) -> None:
    with load(two, body) as refused:
        two.moves_on(10)
        two.first.fill(LOW_BYTES)
        two.says("listener/0 spool new mail goes into", "second, no more into", "disk low")
        two.moves_on(10)
        two.says("spool/0 spool new mail is refused: disk low")
        two.first.empty()
        two.says("spool/0 spool new mail is accepted again")
        two.says("listener/0 spool new mail goes into", "/spool, no more into")
        two.moves_on(10)
    assert refused == []
    two.account()
    two.says("mover/0 mover", "second is empty")
    assert two.engine.stop() == 0
    assert two.engine.run("spool", "check").returncode == 0


def test_kills_while_the_first_is_full(two: Two) -> None:
    """Whoever dies: what was acknowledged leaves once; mail that lies in the second waits there for the first."""
    with load(two) as refused:
        two.moves_on()
        two.first.fill(LOW_BYTES)
        two.says("listener/0 spool new mail goes into", "second")
        for role in ("spool/1", "mover/0", "spool/0", "delivery/0", "spool/1"):
            two.engine.kill9(role)
            two.moves_on()
        two.first.empty()
        for role in ("mover/0", "spool/1", "spool/0", "mover/0"):
            two.eventually(lambda role=role: role in two.engine.pids(), f"{role} lives", 20)  # type: ignore[misc]
            two.engine.kill9(role)
            two.moves_on()
    assert set(refused) <= {451}, "who waited for a process that was killed may hear so, and no more"
    two.account()


def test_both_full_is_452_and_both_come_back(two: Two) -> None:
    two.first.fill(LOW_BYTES)
    two.eventually(lambda: two.send() == 250 and two.lines("new mail goes into", "second"), "the second takes over", 20)
    two.second.fill(LOW_BYTES)
    two.eventually(lambda: two.send() == 452, "mail is refused", 20)
    two.second.empty()
    two.accepts_again()
    assert two.queued(), "the first has no room for it"
    tells(two)
    two.first.empty()
    two.accepts_again()
    two.account()


def tells(two: Two) -> None:
    """What an operator asks while mail lies in the second, and why."""
    first, second = (two.engine.directory / name for name in two.spools)
    status = two.engine.run("status").stdout
    assert f"spool {first}: 0 messages" in status and "refuses mail: disk low" in status
    waiting = [line for line in status.splitlines() if line.startswith(f"spool {second}: ")]
    count = int(waiting[0].split()[2])
    assert count == len(two.queued()) > 0
    told = json.loads(two.engine.run("show", "queues", "--json").stdout)
    assert [(queue["name"], queue["rcpt"]) for queue in told["queues"]] == [("dest.example/{default}", count)]
    address = min(two.queued())
    said = two.engine.run("why", address).stdout
    assert f"lies in the spool {second} and is moved into {first} when that has room: disk low" in said
    identity = re.findall(r"message (\w{20}) to", said)[0]
    assert f"spool: {second}" in two.engine.run("show", "message", identity).stdout
    assert f"lies in the spool {second}" in two.engine.run("why", identity).stdout
    assert f"queue dest.example/{{default}} ({count} recipients) lies in the spool {second}" in two.engine.run("why", "dest.example").stdout


def test_a_power_cut_with_mail_in_both(two: Two) -> None:
    two.behave("rcpt-4xx")
    assert [two.send() for _ in range(20)] == [250] * 20
    two.first.fill(LOW_BYTES)
    two.eventually(lambda: two.send() == 250 and two.lines("new mail goes into", "second"), "the second takes over", 20)
    assert [two.send() for _ in range(20)] == [250] * 20
    two.engine.kill9_all()
    two.first.empty()
    two.behave("accept-all")
    two.engine.start()
    two.account()
