"""Several `<spool>` in a running engine: added and removed by a reload, never with mail in it; all locks are taken; the order may change."""

from __future__ import annotations

import json
import smtplib

import pytest

from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

ONE = """
listener-workers 1
delivery-workers 1
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1h
</domain>
<spool @dir@/spool>
    min-free-space {kept}
</spool>
"""
OTHER = "<spool @dir@/other>\n    priority {priority}\n</spool>\n"
FULL = "1000T"


def conf(port: int, kept: str = "1M", other: int = 0) -> str:
    return ONE.format(port=port, kept=kept) + (OTHER.format(priority=other) if other else "")


def reload(engine: Engine, text: str) -> str:
    """What a reload that succeeds says; every process works then."""
    engine.configure(text)
    done = engine.run("reload", timeout_s=90)
    assert done.returncode == 0, done.stdout + done.stderr + engine.said()
    eventually(lambda: ready(engine), "every process works", 30)
    return done.stdout


def ready(engine: Engine) -> bool:
    status = json.loads(engine.run("status", "--json").stdout or "{}")
    return bool(status.get("ready") and not status["reloading"])


def send(engine: Engine, *numbers: int) -> None:
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        for number in numbers:
            client.sendmail("a@b.example", [f"u{number}@x.example"], "Subject: x\r\n\r\nbody\r\n")


def delivered(sink: Sink) -> list[str]:
    return sorted(recipient for message in sink.messages for recipient in message.recipients)


def test_one_is_added_takes_over_and_leaves_when_it_is_empty(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(conf(sink.port))
        eventually(lambda: ready(engine), "every process works", 30)
        before = engine.pids()
        send(engine, 1)
        reload(engine, conf(sink.port, FULL, other=1))
        assert {"spool/1", "mover/0"} <= engine.pids().keys() and engine.pids()["delivery/0"] == before["delivery/0"]
        send(engine, 2, 3)
        assert f"spool {engine.directory}/other: 2 messages" in engine.run("status").stdout
        engine.configure(conf(sink.port, FULL))
        refused = engine.run("reload", timeout_s=90)
        assert refused.returncode != 0 and f"spool {engine.directory}/other: 2 messages and 0 records wait in it" in refused.stdout + refused.stderr
        send(engine, 4)  # it is open again
        reload(engine, conf(sink.port, other=1))
        eventually(lambda: delivered(sink) == [f"u{number}@x.example" for number in (1, 2, 3, 4)], "all of it is moved and sent", 30)
        eventually(lambda: f"spool {engine.directory}/other: 0 messages" in engine.run("status").stdout, "it is empty")
        reload(engine, conf(sink.port))
        eventually(lambda: not {"spool/1", "mover/0"} & engine.pids().keys(), "its processes are gone")
        send(engine, 5)
        eventually(lambda: len(sink.messages) == 5, "mail flows")
        assert engine.stop() == 0
        again = make_engine(conf(sink.port).replace("@dir@/spool", f"{engine.directory}/other"), name="again")  # it may be an engine's own now
        send(again, 6)
        eventually(lambda: len(sink.messages) == 6, "its own new mail, and nothing else")


def test_many_reloads_under_load_lose_and_refuse_nothing(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(conf(sink.port))
        eventually(lambda: ready(engine), "every process works", 30)
        number = 0
        for text in (conf(sink.port, other=9), conf(sink.port, FULL, other=1), conf(sink.port, other=1), conf(sink.port)) * 2:
            engine.configure(text)
            eventually(lambda: engine.run("reload", timeout_s=90).returncode == 0, "the reload succeeds, once the spool that goes is empty", 60)
            for _ in range(5):
                number += 1
                send(engine, number)
        wanted = sorted(f"u{each}@x.example" for each in range(1, number + 1))
        eventually(lambda: delivered(sink) == wanted, "each is delivered once", 60)
        assert engine.stop() == 0
        assert sorted(record["rcpt"] for record in engine.records("d")) == wanted


def test_another_engines_spool_cannot_be_the_second(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        living = make_engine(conf(sink.port), name="living")
        text = conf(sink.port, other=1).replace("@dir@/other", f"{living.directory}/spool")
        with pytest.raises(Exception, match=f"already running on the spool {living.directory}/spool"):
            make_engine(text, name="second")
        engine = make_engine(conf(sink.port), name="second")
        engine.configure(text)
        refused = engine.run("reload", timeout_s=90)
        assert refused.returncode != 0 and "already running on the spool" in refused.stdout + refused.stderr
        send(engine, 1)
        send(living, 2)
        eventually(lambda: len(sink.messages) == 2, "both go on")


def test_the_order_changes_while_it_runs_and_with_the_next_start_all_is_delivered_from_the_best(make_engine: MakeEngine) -> None:
    with Sink("rcpt-4xx") as sink:
        text = conf(sink.port, other=1).replace("retry-after 1h", "retry-recipients-after 2s")
        engine = make_engine(text)
        eventually(lambda: ready(engine), "every process works", 30)
        send(engine, 1)
        eventually(lambda: engine.records("t"), "it waits for a retry")
        reload(engine, text.replace("priority 1", "priority 9"))
        assert engine.run("status").stdout.count("\nspool ") == 2, "the engine is found where it runs"
        send(engine, 2)
        eventually(lambda: len(engine.records("t")) >= 2, "what came into the other one is moved and tried")
        assert engine.stop() == 0
        engine.start()
        eventually(lambda: ready(engine), "every process works", 30)
        assert f"spool {engine.directory}/other: " in engine.run("status").stdout.splitlines()[1]
        sink.behave("accept-all")
        eventually(lambda: delivered(sink) == ["u1@x.example", "u2@x.example"], "what waited for its time is moved when that comes", 40)
        assert engine.stop() == 0
        assert engine.run("spool", "check").stdout.count("whole") == 2
        assert engine.run("spool", "compact").returncode == 0
        assert [each["problems"] for each in json.loads(engine.run("spool", "check", "--json").stdout)["spools"]] == [0, 0]
