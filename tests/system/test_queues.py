"""`engine show queues`, `queue`, `domains` and `vmtas` of a real engine, as people and as programs read them."""

from __future__ import annotations

import json
import os
import smtplib
import time
from typing import Any

import pytest

from engine.cli import main
from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<virtual-mta one>
    smtp-source-host 127.0.0.1 one.example
</virtual-mta>
<domain *>
    smtp-hosts [127.0.0.1]:{slow}
    max-smtp-out 3
    max-rcpt-per-message 1
    connection-idle-timeout 1s
    track-recipient-events yes
</domain>
<domain later.example>
    smtp-hosts [127.0.0.1]:{later}
    retry-recipients-after 30m
</domain>
"""


def send(engine: Engine, domain: str, recipients: int, vmta: str = "") -> None:
    header = f"X-Virtual-MTA: {vmta}\r\n" if vmta else ""
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        client.sendmail("s@origin.example", [f"u{index}@{domain}" for index in range(recipients)], f"{header}Subject: x\r\n\r\n{'b' * 70}\r\n")


def said(engine: Engine, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command prints."""
    assert main([*words, "-c", str(engine.conf)]) == os.EX_OK
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_queues_as_tables_and_as_json(make_engine: MakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    with Sink("slow-replies", stage="rcpt", delay_s=60) as slow, Sink("rcpt-4xx") as later:
        engine = make_engine(CONF.format(slow=slow.port, later=later.port))
        send(engine, "busy.example", 5)
        send(engine, "busy.example", 2, "one")
        send(engine, "later.example", 1)

        def shown(*words: str) -> dict[str, dict[str, object]]:
            return {each["name"]: each for each in json.loads(said(engine, capsys, "show", "queues", "--json", *words))["queues"]}

        eventually(lambda: shown()["later.example/{default}"].get("last"), "the deferral is remembered")
        eventually(lambda: shown()["later.example/{default}"]["mode"] == "resting", "its connection has ended")
        eventually(lambda: [each["open"] for each in shown("busy.*").values()] == [3, 2], "all that may be connected is")
        found = shown()
        assert list(found) == ["busy.example/{default}", "busy.example/one", "later.example/{default}"]
        assert [each["rcpt"] for each in found.values()] == [5, 2, 1]
        assert [each["mode"] for each in found.values()] == ["sending", "sending", "resting"]
        assert found["later.example/{default}"]["next_ms"] or int(str(found["later.example/{default}"]["first_due_ms"])) > time.time() * 1000
        assert list(shown("--sort", "name", "--max", "1")) == ["busy.example/one"]
        assert list(shown("later.example")) == list(shown("--errors")) == ["later.example/{default}"]
        assert list(shown("--connected")) == ["busy.example/{default}", "busy.example/one"]
        assert list(shown("*/one")) == ["busy.example/one"]
        table = said(engine, capsys, "show", "queues", "--sort", "name", "--kbytes").splitlines()
        assert table[0].split() == ["queue", "rcpts", "kbytes", "conn", "mode", "next", "attempt", "last", "error"]
        assert table[2].split()[:2] + table[2].split()[3:5] == ["busy.example/{default}", "5", "3", "sending"]
        assert float(table[2].split()[2]) == pytest.approx(5 * 90 / 1024, abs=0.2)
        assert "450" in table[3] or "451" in table[3] or "4.2.1" in table[3]
        assert len(table) == 4, "nothing but data on a pipe"
        domains = json.loads(said(engine, capsys, "show", "domains", "--json"))["domains"]
        figures = [(each["name"], each["queues"], each["rcpt"], each["conn"]) for each in domains]
        assert figures == [("busy.example", 2, 7, 5), ("later.example", 1, 1, 0)]
        vmtas = json.loads(said(engine, capsys, "show", "vmtas", "--json"))["vmtas"]
        assert [(each["name"], each["rcpt"], each["pctOfTotal"]) for each in vmtas] == [("{default}", 6, 75.0), ("one", 2, 25.0)]
        one_queue(engine, capsys)


def test_status_counts_what_came_in_and_went_out(make_engine: MakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    with Sink() as sink:
        engine = make_engine(f"total-max-smtp-in 50\n<domain *>\n    smtp-hosts [127.0.0.1]:{sink.port}\n    connection-idle-timeout 1s\n</domain>\n")
        send(engine, "d.example", 3)
        send(engine, "d.example", 2)
        send(engine, "e.example", 1)

        def status() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(said(engine, capsys, "status", "--json"))
            return found

        eventually(lambda: status()["traffic"]["total"]["out"]["rcp"] == 6, "all are delivered, and counted")
        eventually(lambda: status()["conn"]["smtpOut"]["cur"] == 0, "idle connections have ended")
        found = status()
        for period in ("total", "lastHr", "topPerHr", "lastMin", "topPerMin"):
            assert [found["traffic"][period]["in"][what] for what in ("msg", "rcp")] == [3, 6]
            assert [found["traffic"][period]["out"][what] for what in ("msg", "rcp")] == [3, 6]
            assert 0 < found["traffic"][period]["in"]["kb"] <= found["traffic"][period]["out"]["kb"], "Received is added"
        top = found["conn"]["smtpIn"].pop("top")
        assert 1 <= top <= 4, "three clients, one after the other, and whoever waited for the greeting: one may leave while the next comes"
        assert found["conn"]["smtpIn"] == {"cur": 0, "max": 50}
        assert 1 <= found["conn"]["smtpOut"]["top"] <= 6
        assert found["queue"]["smtp"] == {"rcp": 0, "dom": 0, "kb": 0.0}
        engine.kill9("listener/0")
        engine.kill9("delivery/0")
        eventually(lambda: len([child for child in status()["children"] if child["restarts"] and child["state"] == "working"]) == 2, "both are back")
        assert status()["traffic"]["total"] == found["traffic"]["total"], "what ended processes have done stays"
        lines = said(engine, capsys, "status").splitlines()
        assert next(line for line in lines if line.startswith("total")).split()[1:3] == ["6", "3"]
        assert next(line for line in lines if line.startswith("inbound")).split() == ["inbound", "0", str(top), "50"]


def one_queue(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    busy = json.loads(said(engine, capsys, "show", "queue", "busy.example/{default}", "--json"))
    assert busy["recipients"] == 5
    assert busy["standing"]["kind"] == "queue-out"
    assert {each["state"] for each in busy["connections"]} == {"sending"}
    limits = {each["name"]: (each["value"], each["place"]) for each in busy["limits"]}
    line = 1 + engine.conf.read_text().splitlines().index("    max-smtp-out 3")
    assert limits["max-smtp-out"] == ("3", f"{engine.conf}:{line}")
    assert limits["bounce-after"] == ("4d12h", "")
    later = json.loads(said(engine, capsys, "show", "queue", "later.example/{default}", "--json"))
    assert [event["kind"] for event in later["errors"]] == ["t"]
    assert [event["recipient"] for event in later["recipient_events"]] == ["u0@later.example"]
    text = said(engine, capsys, "show", "queue", "later.example/{default}")
    assert text.startswith("queue later.example/{default} has nothing to send before its next retry; next attempt at ")
    assert main(["show", "queue", "never.example/one", "-c", str(engine.conf)]) == os.EX_DATAERR
    assert "has ever had mail" in capsys.readouterr().err
