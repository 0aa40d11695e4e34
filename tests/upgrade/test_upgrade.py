"""Upgrades as an operator and his clients meet them: what is said, who is replaced, what is lost.  The first is a short `make upgrade-test`."""

from __future__ import annotations

import os
import signal
import smtplib
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from engine.control import ask
from engine.errors import EngineError
from engine.supervisor.spooldir import control_socket
from tests.sinks.session import Session
from tests.sinks.sink import Sink
from tests.system.engine import Engine, eventually
from tests.upgrade.program import PROTOCOL, UpgradableEngine
from tests.upgrade.run import BROKEN, run

SEED = 20_261_109  # plain, refused, overlapping, across a change of protocol
CONF = """
listener-workers 1
delivery-workers 2
<virtual-mta mta1>
    smtp-source-host 127.0.0.11 mta1.example
</virtual-mta>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1s
</domain>
"""


class Make(Protocol):
    def __call__(self, conf_text: str, *, start: bool = True) -> UpgradableEngine: ...


@pytest.fixture
def make() -> Iterator[Make]:
    with tempfile.TemporaryDirectory(prefix="engine-test-") as name, ExitStack() as running:
        Path(name).chmod(0o711)

        def made(conf_text: str, *, start: bool = True) -> UpgradableEngine:
            engine = UpgradableEngine(Path(name) / "engine", conf_text)
            running.callback(Engine.__exit__, engine)
            if start:
                engine.start()
                engine.wait_until_ready()
            return engine

        yield made


def submit(engine: Engine, *recipients: str) -> None:
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=30) as client:
        for recipient in recipients:
            client.sendmail("s@origin.example", [recipient], f"Subject: {recipient}\r\n\r\nbody\r\n")


def upgraded(engine: UpgradableEngine, *words: str) -> str:
    """What an upgrade that succeeds says."""
    done = engine.run("upgrade", *words, timeout_s=90)
    assert done.returncode == 0, done.stdout + done.stderr + engine.said()
    return done.stdout


def test_upgrades_under_load_lose_double_and_refuse_nothing() -> None:
    report = run(SEED, upgrades=4)
    assert not report.wrong, "\n".join(report.wrong)
    assert report.upgrades >= 3
    assert report.refused >= 1
    assert report.accepted > 50
    assert report.delivered == report.accepted


def test_every_process_but_the_supervisor_is_replaced(make: Make) -> None:
    engine = make(CONF.format(port=9))
    submit(engine, "waits@dest.example")
    before = engine.pids()
    eventually(lambda: engine.look()["traffic"]["total"]["in"]["msg"] == 1, "it is counted")
    table = engine.look()["traffic"]["total"]
    engine.program.install("1.1")
    assert upgraded(engine, "--try") == "engine: 1.1 could take over from 1.0\n"
    assert engine.pids() == before
    assert upgraded(engine) == "engine: 1.1 has taken over from 1.0\n"
    after, status = engine.pids(), engine.look()
    assert after.pop("supervisor") == before.pop("supervisor") == [status["pid"]]
    assert not {pid for pids in before.values() for pid in pids} & {pid for pids in after.values() for pid in pids}
    assert {name.partition("/")[0] for name in after} == {name.partition("/")[0] for name in before}
    assert (status["version"], status["upgrade"]["state"], status["ready"]) == ("1.1", "done", True)
    assert status["traffic"]["total"] == table
    assert engine.run("status").stdout.startswith("engine 1.1: ready")
    assert "supervisor/0 upgraded 1.0 -> 1.1" in engine.log()
    assert "1 recipients waiting" in engine.run("status").stdout


@pytest.mark.parametrize("what", BROKEN)
def test_a_program_that_could_not_take_over_leaves_everything_running(make: Make, what: str) -> None:
    changes, reason = BROKEN[what]
    engine = make(CONF.format(port=9))
    before = engine.pids()
    engine.program.install("1.1", changes)
    done = engine.run("upgrade", timeout_s=60)
    assert done.returncode == 78
    assert reason in done.stderr
    assert done.stderr.endswith("engine: refused; 1.0 runs on as it was\n")
    assert f"upgrade refused: {done.stderr.splitlines()[0]}"[:80] in engine.log()
    assert engine.pids() == before
    assert engine.look()["upgrade"]["state"] == "refused"


def test_a_configuration_on_disk_that_the_new_program_would_not_start_with_is_a_reason(make: Make) -> None:
    """Were the supervisor killed after the upgrade, the service manager would start the new program with it."""
    engine = make(CONF.format(port=9))
    before = engine.pids()
    with engine.conf.open("a") as file:
        file.write("max-smtp-outt 3\n")
    assert engine.run("upgrade").returncode == 78  # the command itself reads it first
    path = control_socket(str(engine.directory / "spool"))
    assert ask(path, "upgrade").state == "trying"
    eventually(lambda: ask(path, "status").upgrade.state == "refused", "it is refused")
    assert "max-smtp-outt" in " ".join(ask(path, "status").upgrade.problems)
    assert engine.pids() == before


def test_who_is_in_a_transaction_is_served_by_the_old_listener(make: Make) -> None:
    with Sink() as sink:
        engine = make(CONF.format(port=sink.port))
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=30) as busy:
            busy.ehlo()
            busy.mail("s@origin.example")
            busy.rcpt("busy@dest.example")
            engine.program.install("1.1")
            upgraded(engine, "--no-wait")
            eventually(lambda: "listener/1" in engine.pids() and "listener/0 draining" in engine.log(), "the old listener drains")
            submit(engine, "another@dest.example")
            assert busy.data("Subject: x\r\n\r\nbody\r\n")[0] == 250
        engine.wait_for_records(2, "d")
        eventually(lambda: engine.look()["upgrade"]["state"] == "done", "all are replaced")
        assert sorted(message.recipients[0] for message in sink.messages) == ["another@dest.example", "busy@dest.example"]


def test_across_a_change_of_protocol_the_old_ones_end_first(make: Make) -> None:
    with Sink() as sink:
        engine = make(CONF.format(port=sink.port))
        submit(engine, *(f"u{number}@dest.example" for number in range(20)))
        engine.program.install("1.1", dict([PROTOCOL]))
        upgraded(engine)
        submit(engine, "v@dest.example")
        engine.wait_for_records(21, "d")
        assert len(sink.messages) == 21
    log = engine.log()
    ends = [log.index(f"ended {name} ") for name in ("listener/0", "delivery/0", "accounting/0", "spool/0")]
    assert ends == sorted(ends)
    assert "rejected" not in log


def test_another_upgrade_waits_for_one_across_a_change_of_protocol(make: Make) -> None:
    """A third program would take the old processes that are left for such as understand it."""
    with Sink() as sink:
        engine = make(CONF.format(port=sink.port))
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=30) as busy:
            busy.ehlo()
            busy.mail("s@origin.example")
            busy.rcpt("busy@dest.example")
            engine.program.install("1.1", dict([PROTOCOL]))
            upgraded(engine, "--no-wait")
            eventually(lambda: "listener/0 draining" in engine.log(), "the old listener drains")
            with pytest.raises(EngineError, match="ask again when it is done"):
                ask(control_socket(str(engine.directory / "spool")), "upgrade")
            assert busy.data("Subject: x\r\n\r\nbody\r\n")[0] == 250
        eventually(lambda: engine.look()["upgrade"]["state"] == "done", "all are replaced")
        engine.wait_for_records(1, "d")
        upgraded(engine)


@pytest.mark.parametrize("moment", ["executes", "took over with", "works spool/0", "listener/0 draining"])
def test_a_supervisor_killed_in_the_midst_of_an_upgrade_loses_nothing(make: Make, moment: str) -> None:
    recipients = [f"u{number}@dest.example" for number in range(30)]
    with Sink() as sink:
        engine = make(CONF.format(port=sink.port))
        submit(engine, *recipients)
        engine.program.install("1.1")
        seen = engine.log().count(moment)
        asked = engine.begin("upgrade")
        eventually(lambda: engine.log().count(moment) > seen, moment)
        engine.kill9_supervisor()
        engine.start()
        engine.wait_until_ready()
        assert asked.wait(60) in (69, 75)  # nobody was there, or the engine was started anew
        assert engine.look()["version"] == "1.1"
        eventually(lambda: len({record["rcpt"] for record in engine.records("d")}) == len(recipients), "everything is delivered")
        records = Counter(record["rcpt"] for record in engine.records("d"))
        assert records == Counter(recipients)


def test_a_program_that_cannot_adopt_ends_and_a_start_goes_on(make: Make) -> None:
    with Sink("refuse-connection") as nobody, Sink() as sink:
        engine = make(CONF.format(port=nobody.port))
        submit(engine, "u1@dest.example", "u2@dest.example")
        fails = {"supervisor/successor.py": ("supervisor.take_over(before)", "supervisor.take_over(None)")}
        engine.program.install("1.1", fails)
        done = engine.run("upgrade", timeout_s=60)
        assert done.returncode == 69, done.stdout + done.stderr
        assert engine.wait_until_ended(30) != 0
        assert "1.1 cannot take over, and ends" in engine.log()
        engine.configure(CONF.format(port=sink.port))
        engine.program.install("1.2")
        engine.start()
        engine.wait_for_records(2, "d")
        assert len(sink.messages) == 2


def test_a_stop_while_the_installed_program_is_asked(make: Make) -> None:
    engine = make(CONF.format(port=9))
    first = "    document = _content(int(argv[2]))"
    slow = {"supervisor/successor.py": (first, f"    import time\n    time.sleep(30)\n{first}")}
    engine.program.install("1.1", slow)
    asked = engine.begin("upgrade")
    eventually(lambda: engine.look()["upgrade"]["state"] == "trying", "it is asked")
    assert engine.run("upgrade").returncode == 75  # once at a time
    assert engine.stop() == 0
    assert asked.wait(30) != 0


def test_an_upgrade_leaves_no_descriptor_behind(make: Make) -> None:
    engine = make(CONF.format(port=9))

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{engine.pid('supervisor')}/fd"))

    upgraded(engine)
    before = descriptors()
    upgraded(engine)
    assert descriptors() == before


def test_spools_beside_the_first_keep_their_locks_and_numbers(make: Make) -> None:
    with Sink() as sink:
        engine = make(CONF.format(port=sink.port) + "<spool @dir@/spool>\n</spool>\n<spool @dir@/more>\n</spool>\n")
        before = engine.pids()
        submit(engine, *(f"u{number}@dest.example" for number in range(20)))
        engine.program.install("1.1")
        upgraded(engine)
        after = engine.pids()
        assert {"spool/0", "spool/1", "mover/0"} <= before.keys() & after.keys()
        assert all(before[name] != after[name] for name in ("spool/0", "spool/1", "mover/0"))
        submit(engine, *(f"v{number}@dest.example" for number in range(20)))
        engine.wait_for_records(40, "d")
        assert len(sink.messages) == 40


def test_a_stop_while_no_spool_process_is_there_hears_what_was_delivered(make: Make) -> None:
    """The old one ends, and the next is not born: a delivery that ends now would be made once more by the next start."""
    let = threading.Event()

    class Waits(Session):
        def finish(self, raw: bytes, chunked: bool = False) -> None:
            at_dot.set()
            let.wait(60)
            super().finish(raw, chunked)

    at_dot = threading.Event()
    with Sink(Waits) as sink:
        engine = make("shutdown-timeout 10s\n" + CONF.format(port=sink.port))
        submit(engine, "u1@dest.example")
        assert at_dot.wait(20)
        engine.program.install("1.1")
        spool = engine.pid("spool/0")
        os.kill(spool, signal.SIGSTOP)  # it takes its time
        engine.begin("upgrade", "--no-wait")
        eventually(lambda: "took over with" in engine.log(), "the old spool process is told to end")
        engine.signal(signal.SIGTERM)
        eventually(lambda: "supervisor/0 stopping" in engine.log(), "it stops")
        os.kill(spool, signal.SIGCONT)
        eventually(lambda: "ended spool/0" in engine.log(), "the old spool process is gone")
        let.set()
        assert engine.wait_until_ended(60) == 0
        engine.start()
        engine.wait_for_records(1, "d")
        assert len(sink.messages) == 1, engine.log()
