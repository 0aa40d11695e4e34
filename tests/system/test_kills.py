"""Promises 1 and 2 under `kill -9`: nothing acknowledged is lost, every recipient has its one record, and what is doubled was under way.

Each message has three recipients with three fates: u<3k> is delivered, u<3k+1> refused for good (and its sender told), u<3k+2> deferred for an
hour.  When all is quiet, sinks, records and spool must agree about every single one of them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.load import Load, Sent, Sink, Source
from engine.spool import SpoolReader
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONNECTIONS = 20  # to each destination: the transactions that may be open
REPLY_MS = 20  # the sinks take this long at the final dot: no connection ends more transactions than one in that time
UNSETTLED = 5 * CONNECTIONS  # outcomes that a kill may lose besides: what ends in 100 ms, more than any commit should take
MESSAGES = 600
SOURCE_IP = "127.0.0.11"

CONF = """
<source 127.0.0.0/8>
    always-allow-relaying yes
    default-virtual-mta mta1
    log-connections no
</source>
<virtual-mta mta1>
    smtp-source-host {ip} mta1.example
</virtual-mta>
<domain *>
    max-smtp-out {connections}
    retry-after 1s
    retry-recipients-after 1h
</domain>
<domain d0.example>
    smtp-hosts [127.0.0.1]:{ports[0]}
</domain>
<domain d1.example>
    smtp-hosts [127.0.0.1]:{ports[1]}
</domain>
<domain d2.example>
    smtp-hosts [127.0.0.1]:{ports[2]}
</domain>
<domain source.example>
    type discard
</domain>
"""
REPLIES: tuple[dict[str, str], ...] = ({}, {"rcpt": "550 5.1.1 nobody of that name"}, {"rcpt": "451 4.2.1 not now"})

DOUBLED_BY = {"all": True, "supervisor": True, "delivery": True, "spool": False, "listener": False, "accounting": False}


@pytest.fixture
def sinks(engine_dir: Path) -> Iterator[list[Sink]]:
    """One for each fate: takes, refuses, defers."""
    with ExitStack() as running:
        yield [
            running.enter_context(Sink(engine_dir, replies=replies, delays_ms={"body": REPLY_MS}, name=f"sink{number}"))
            for number, replies in enumerate(REPLIES)
        ]


def one_owner(engine: Engine) -> None:
    """AssertionError if two processes have the same role: two delivery slots with the same title would share an IP."""
    doubled = {role: pids for role, pids in engine.pids().items() if "/" in role and len(pids) > 1}
    assert not doubled, f"two owners: {doubled}"


def ready(engine: Engine) -> None:
    """Return when every process of its first start works."""
    eventually(lambda: " supervisor/0 ready " in engine.log(), "ready")


def kill(engine: Engine, what: str) -> None:
    """SIGKILL, and a new start where nobody else starts it: at once, survivors or not."""
    if what == "all":
        engine.kill9_all()
        engine.start(wait=False)
    elif what == "supervisor":
        engine.kill9_supervisor()
        engine.start(wait=False)
    else:
        eventually(lambda: any(role.partition("/")[0] == what for role in engine.pids()), f"a {what} process")
        engine.kill9(what)


def inject(engine: Engine, directory: Path, plan: Sequence[Callable[[], object]]) -> Sent:
    """Send MESSAGES until so many are acknowledged, doing what *plan* says at even distances."""
    source = Source(
        Load(messages=MESSAGES, size_bytes=4_096, sessions=20, recipients=3, domains=3, retry=True, deadline_s=40), engine.port, directory
    )
    todo = [(MESSAGES * (number + 1) // (len(plan) + 1), act) for number, act in enumerate(plan)]
    try:
        while source.running():
            if todo and source.accepted() >= todo[0][0]:
                todo.pop(0)[1]()
            one_owner(engine)
            time.sleep(0.005)  # paces the watching; nothing depends on it
        for _, act in todo:  # the load was faster than what was done meanwhile
            act()
        return source.finish(5)
    finally:
        source.stop()


def number_of(address: str) -> int:
    """`u17@d2.example` is 17; anything else -1."""
    found = re.fullmatch(r"u(\d+)@d\d\.example", address)
    return int(found[1]) if found else -1


def queued(engine: Engine) -> Counter[int]:
    """Recipients in the spool, by number; -1 are others."""
    reader = SpoolReader(engine.directory / "spool")
    try:
        found: Counter[int] = Counter()
        for queue, _ in reader.queues(0, 100):
            after = None
            while rows := reader.due(queue, after, 1 << 62, 1_000)[0]:
                found.update(number_of(due.address) for _, due in rows)
                after = rows[-1][0]
        return found
    finally:
        reader.close()


def recorded(engine: Engine) -> dict[str, Counter[int]]:
    """Records by type and recipient; those of DSNs are type `dsn`.  Every line must be whole and say what it is about."""
    found: dict[str, Counter[int]] = {"d": Counter(), "b": Counter(), "t": Counter(), "dsn": Counter()}
    for record in engine.iter_records("d", "b", "t"):
        number = number_of(record["rcpt"])
        assert number >= 0 or record["rcpt"] == "bench@source.example", record
        found[record["type"] if number >= 0 else "dsn"][number] += 1
    return found


def every_line_is_whole(engine: Engine) -> None:
    """No accounting file has a torn line, a line of another width or bytes that nobody wrote."""
    for path in engine.directory.glob("acct*.csv"):
        data = path.read_bytes()
        assert data.endswith(b"\n"), path
        assert b"\0" not in data, path
        header, *lines = data.decode().splitlines()
        assert header.startswith("type,"), path
        kinds = {line.partition(",")[0] for line in lines}
        assert kinds <= {"d", "b", "t", "tq", "type"}, kinds


def settle_down(engine: Engine, sent: Sent) -> None:
    """Return when every acknowledged recipient has its record and nothing but the deferred ones is left."""

    def quiet() -> bool:
        found = recorded(engine)
        done = len(found["d"]) >= sent.accepted and len(found["b"]) >= sent.accepted and len(found["t"]) >= sent.accepted
        if not done or found["dsn"].total() < found["b"].total():
            return False
        left = queued(engine)
        return set(left) == set(found["t"]) and len(left) == len(found["b"]) == len(found["d"])

    eventually(quiet, "every recipient's record", timeout_s=20)


def account(engine: Engine, sent: Sent, sinks: Sequence[Sink]) -> int:
    """Assert that sinks, records and spool agree about every recipient; returns how many were delivered more than once."""
    found, left = recorded(engine), queued(engine)
    every_line_is_whole(engine)
    assert sent.accept_times_us is not None
    acknowledged = {number for number, at_us in enumerate(sent.accept_times_us) if at_us}
    summary = sinks[0].summary()
    arrived = {number for number, times in enumerate(sinks[0].counts()) if times}

    # each accepted message has all its recipients, each in one place, with one record of its end
    accepted = {number // 3 for number in found["d"]}
    assert acknowledged <= accepted
    assert found["d"] == dict.fromkeys((3 * message for message in accepted), 1)
    assert found["b"] == dict.fromkeys((3 * message + 1 for message in accepted), 1)
    assert left == dict.fromkeys((3 * message + 2 for message in accepted), 1)
    assert set(found["t"]) == set(left)
    assert found["dsn"].total() == found["b"].total()
    assert arrived == set(found["d"])

    assert {peer["ip"] for peer in summary["peers"]} == {SOURCE_IP}
    assert summary["peak_connections"] <= CONNECTIONS, "two owners sent from one address"
    duplicates: int = summary["duplicate_recipients"]
    return duplicates


@pytest.mark.parametrize("what", DOUBLED_BY)
def test_kill(make_engine: MakeEngine, engine_dir: Path, sinks: list[Sink], what: str) -> None:
    engine = make_engine(CONF.format(ip=SOURCE_IP, connections=CONNECTIONS, ports=[sink.port for sink in sinks]))
    kills = 3 if what == "all" else 2
    sent = inject(engine, engine_dir, [lambda: kill(engine, what)] * kills)
    assert sent.accepted == MESSAGES
    settle_down(engine, sent)
    duplicates = account(engine, sent, sinks)
    assert duplicates <= (kills * (CONNECTIONS + UNSETTLED) if DOUBLED_BY[what] else 0)


def test_a_restart_forgets_nothing_and_repeats_nothing(make_engine: MakeEngine, engine_dir: Path, sinks: list[Sink]) -> None:
    engine = make_engine(CONF.format(ip=SOURCE_IP, connections=CONNECTIONS, ports=[sink.port for sink in sinks]))
    sent = inject(engine, engine_dir, [])
    settle_down(engine, sent)
    for end in (engine.kill9_all, lambda: engine.stop(30)):
        before = recorded(engine), queued(engine)
        end()
        (engine.directory / "log").unlink()
        engine.start()
        ready(engine)
        assert (recorded(engine), queued(engine)) == before
        assert account(engine, sent, sinks) == 0


def test_started_twice(make_engine: MakeEngine, engine_dir: Path, sinks: list[Sink]) -> None:
    engine = make_engine(CONF.format(ip=SOURCE_IP, connections=CONNECTIONS, ports=[sink.port for sink in sinks]))
    refusals: list[tuple[int, str]] = []

    def again() -> None:
        second = engine.run("start")
        refusals.append((second.returncode, second.stderr))

    ready(engine)
    before = engine.pids()
    sent = inject(engine, engine_dir, [again, again])
    assert [code for code, _ in refusals] == [os.EX_CONFIG] * 2
    assert all(f"already running on the spool {engine.directory}/spool (supervisor pid {engine.pid('supervisor')})" in said for _, said in refusals)
    assert engine.pids() == before
    settle_down(engine, sent)
    assert account(engine, sent, sinks) == 0


class Impatient(Engine):
    """An engine whose watchdog waits three heartbeats, not a minute."""

    def command(self, *words: str) -> list[str]:
        """See EngineProcess."""
        command = super().command(*words)
        if words[0] != "start":
            return command
        return [command[0], "-m", "tests.system.impatient", str(self.conf), json.dumps({"hung_s": 3.0, "first_backoff_s": 0.05})]


@pytest.mark.parametrize("roles", [{"spool"}, {"delivery", "listener", "accounting"}], ids=["spool", "others"])
def test_who_stands_still_is_replaced_and_nobody_else(engine_dir: Path, sinks: list[Sink], roles: set[str]) -> None:
    with Impatient(engine_dir / "engine", CONF.format(ip=SOURCE_IP, connections=CONNECTIONS, ports=[sink.port for sink in sinks])) as engine:
        ready(engine)
        before = engine.pids()
        sent = inject(engine, engine_dir, [lambda: [engine.signal(signal.SIGSTOP, role) for role in roles]])
        settle_down(engine, sent)
        assert account(engine, sent, sinks) <= (CONNECTIONS + UNSETTLED if "delivery" in roles else 0)
        after = engine.pids()
        changed = {name.partition("/")[0] for name in before if before[name] != after.get(name)}
        assert changed == roles
        assert set(re.findall(r" supervisor/0 hung (\w+)/", engine.log())) == roles


def slow_engine(make_engine: MakeEngine, sink: Sink, **settings: str) -> Engine:
    extra = "".join(f"{name.replace('_', '-')} {value}\n" for name, value in settings.items())
    ports = [sink.port] * 3
    return make_engine(extra + CONF.format(ip=SOURCE_IP, connections=CONNECTIONS, ports=ports))


def fill(engine: Engine, directory: Path, sink: Sink, messages: int) -> Sent:
    """*messages* acknowledged, and the first of them under way to *sink*."""
    source = Source(Load(messages=messages, size_bytes=1_000, sessions=5), engine.port, directory)
    sent = source.finish(20)
    assert sent.accepted == messages
    eventually(lambda: sink.summary()["connections"] > 0, "a connection to the sink")
    return sent


def test_sigterm_lets_transactions_end_and_begins_none(make_engine: MakeEngine, engine_dir: Path) -> None:
    with Sink(engine_dir, delays_ms={"body": 300}) as sink:
        engine = slow_engine(make_engine, sink)
        fill(engine, engine_dir, sink, 100)
        engine.signal(signal.SIGTERM)
        assert engine.wait_until_ended(20) == 0
        delivered = sink.received()[2]
        assert delivered < 100  # it did not wait for the rest
        assert recorded(engine)["d"].total() == delivered
        engine.start()
        eventually(lambda: recorded(engine)["d"].total() == 100, "the rest")
        assert sink.summary()["duplicate_recipients"] == 0


def test_a_drain_has_its_deadline(make_engine: MakeEngine, engine_dir: Path) -> None:
    with Sink(engine_dir, delays_ms={"body": 60_000}) as sink:
        engine = slow_engine(make_engine, sink, shutdown_timeout="1s")
        fill(engine, engine_dir, sink, 50)
        began = time.monotonic()
        engine.signal(signal.SIGTERM)
        assert engine.wait_until_ended(20) == 0
        assert time.monotonic() - began < 10
        assert recorded(engine)["d"].total() == 0
        assert queued(engine).total() == 50


def test_a_second_sigterm_stops(make_engine: MakeEngine, engine_dir: Path) -> None:
    with Sink(engine_dir, delays_ms={"body": 60_000}) as sink:
        engine = slow_engine(make_engine, sink)
        fill(engine, engine_dir, sink, 50)
        engine.signal(signal.SIGTERM)
        eventually(lambda: " supervisor/0 ended listener/0 " in engine.log(), "delivery's turn to drain")
        assert engine.alive()
        began = time.monotonic()
        engine.signal(signal.SIGTERM)
        assert engine.wait_until_ended(20) == 0
        assert time.monotonic() - began < 5
        assert queued(engine).total() == 50
