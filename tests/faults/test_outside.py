"""What lies outside and goes wrong: clock, DNS, readers of the index, pages of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.engine_process import EngineDown
from bench.peer import free_port
from engine.spool import format
from tests.dns_server import DnsServer, Zone
from tests.faults.conftest import MakeWorld
from tests.faults.world import World
from tests.system.engine import eventually

TWO_HOURS_S = 7_200
YOUNG = "<domain dest.example>\n    bounce-after 1h\n</domain>\n"
READER = """
import lmdb, sys, time
env = lmdb.open(sys.argv[1], lib_version=0, map_size=1 << 36, max_dbs=8, readonly=True, max_readers=2048)
txn = env.begin()
print("reads", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("step_s", [TWO_HOURS_S, -TWO_HOURS_S, 10 * 365 * 86_400])
def test_the_clock_steps_and_steps_back(make_world: MakeWorld, step_s: int) -> None:
    world = make_world(YOUNG)
    world.behave("rcpt-4xx")
    assert world.send() == 250
    world.engine.wait_for_records(1, "t")
    world.faults.set(f"clock {step_s} -")
    step = world.says("delivery/0 clock the wall clock stepped by", "nobody is bounced for age")
    assert f"stepped by {step_s}s" in step or f"stepped by {step_s - 1}s" in step or f"stepped by {step_s + 1}s" in step
    assert world.send() == 250
    if step_s > 0:  # everybody is over age, and due
        eventually(lambda: len(world.engine.records("t")) >= 3, "they are tried on")
    world.faults.clear()
    eventually(lambda: world.engine.log().count("the wall clock stepped by") >= 2, "it stepped back")
    assert not world.engine.records("b")
    world.behave("accept-all")
    if step_s > 0:  # the one that was accepted and those retried in that future are due then: the clock comes to it once more
        assert world.queued()
        world.faults.set(f"clock {step_s + 60} -")
    world.account()
    assert not world.engine.records("b")


def mx_world(make_world: MakeWorld, server: str) -> World:
    """Mail for dns.example goes where DNS says, at the sink's port."""
    world = make_world(start=False)
    world.engine.configure(
        f"name-server {server}\n<domain *>\n    default-smtp-port {world.sink.port}\n    allow-private-mx yes\n    retry-after 1s\n"
        "    retry-after-dns-error 1s\n    bounce-after 4d\n</domain>\n"
    )
    world.engine.start()
    return world


GOOD: Zone = {"dns.example": {"MX": ["10 mx.example"]}, "mx.example": {"A": ["127.0.0.1"]}}


@pytest.mark.long
def test_dns_is_dead_and_comes_back(make_world: MakeWorld) -> None:
    port = free_port()
    world = mx_world(make_world, f"127.0.0.1:{port}")
    assert world.send(domain="dns.example") == 250
    world.says("delivery/0 queue-failed queue=dns.example", "status=4.4.3", "Connection refused")
    with DnsServer(GOOD, port=port):
        world.account(timeout_s=100)  # a failure is remembered for ten seconds


LIES = ["silence", "wrong-id", "wrong-question", "garbage"]  # these make a look-up fail, which takes ten seconds, and is remembered for ten


@pytest.mark.parametrize("behaviour", ["delay 1.5", "lie-first", *(pytest.param(lie, marks=pytest.mark.long) for lie in LIES)])
def test_dns_is_slow_or_lies_and_comes_to_reason(make_world: MakeWorld, behaviour: str) -> None:
    with DnsServer({**GOOD, "dns.example": {**GOOD["dns.example"], "!": [behaviour]}, "good.example": GOOD["dns.example"]}) as dns:
        world = mx_world(make_world, f"{dns.address}:{dns.port}")
        assert [world.send(domain="dns.example"), world.send(domain="good.example")] == [250, 250]
        world.sink.wait_for_messages(1, 5)  # the other domain does not wait for the slow one
        if behaviour in LIES:
            world.says("delivery/0 queue-failed queue=dns.example", "status=4.4.3", timeout_s=60)
            dns.zone = {**dns.zone, **GOOD}
            dns.forget()
        world.account(timeout_s=100)
        assert not world.engine.records("b")


def test_a_reader_that_died_holds_no_pages(make_world: MakeWorld) -> None:
    world = make_world()
    assert world.send() == 250
    world.account()
    command = [sys.executable, "-c", READER, str(world.engine.directory / "spool" / "index")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "reads\n"
        reader.kill()
    world.engine.kill9("listener")  # whoever goes makes the spool process look
    world.says("spool/0 spool freed", "reader slots of dead processes")
    world.accepts_again()
    world.account()


def test_a_page_of_the_index_is_damaged(make_world: MakeWorld) -> None:
    world = make_world(first_backoff_s=0.05)
    world.behave("rcpt-4xx")
    assert [world.send() for _ in range(5)] == [250] * 5
    world.engine.wait_for_records(5, "t")
    world.engine.stop(30)
    path = world.engine.directory / "spool" / format.INDEX / "data.mdb"
    good = path.read_bytes()
    path.write_bytes(spoilt(good))
    checked = world.engine.run("spool", "check")
    assert checked.returncode == 1 and "index" in checked.stdout
    repaired = world.engine.run("spool", "check", "--repair")
    assert repaired.returncode == 1 and "nothing was touched" in repaired.stdout and "bodies/" in repaired.stdout
    with pytest.raises(EngineDown, match="it has ended"):
        world.engine.start()
    world.says("spool/0 spool cannot start", "its index is damaged: ", "MDB_", "engine spool check")
    path.write_bytes(good)
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    world.behave("accept-all")
    world.engine.start()
    world.account()


def spoilt(data: bytes) -> bytes:
    """An index with zeros in every page but the two that say where the others are."""
    return data[:8192] + bytes(len(data) - 8192)
