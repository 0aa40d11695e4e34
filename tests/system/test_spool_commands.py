"""`engine spool check` and `compact` as an operator meets them: a real engine's spool, the lock, the words, the exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

from engine.spool import format
from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually
from tests.system.test_outcomes import send

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after {retry}
    retry-recipients-after {retry}
</domain>
"""
MESSAGES = 20


def deferred(make_engine: MakeEngine, sink: Sink, retry: str = "1h") -> Engine:
    """A stopped engine with MESSAGES in its spool, tried once each; the sink takes mail from now on."""
    engine = make_engine(CONF.format(port=sink.port, retry=retry))
    for number in range(MESSAGES):
        send(engine, [f"u{number}@dest.example"], b"Subject: x\r\n\r\n" + b"hello %d\r\n" % number * 50)
    engine.wait_for_records(MESSAGES, "t")
    eventually(lambda: f"{MESSAGES} recipients waiting, 0 records to write" in engine.run("status").stdout, "all is quiet")
    assert engine.stop(30) == 0
    sink.behave("accept-all")
    return engine


def segments(engine: Engine) -> list[Path]:
    return sorted((engine.directory / "spool" / format.BODIES).iterdir())


def test_a_spool_in_use_is_left_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    for work in ("check", "compact"):
        refused = engine.run("spool", work)
        assert refused.returncode == os.EX_CONFIG
        assert f"an engine is already running on the spool {engine.directory}/spool (supervisor pid {engine.pid('supervisor')})" in refused.stderr
        assert "engine stop" in refused.stderr


def test_where_no_spool_is_none_is_made(make_engine: MakeEngine, engine_dir: Path) -> None:
    engine = make_engine()
    engine.stop(30)
    engine.configure(f"<spool {engine_dir}/elsewhere>\n</spool>\n")
    refused = engine.run("spool", "check")
    assert refused.returncode == os.EX_CONFIG and f"there is no spool in {engine_dir}/elsewhere" in refused.stderr
    assert not (engine_dir / "elsewhere").exists()


def test_a_whole_spool(make_engine: MakeEngine) -> None:
    with Sink("rcpt-4xx") as sink:
        engine = deferred(make_engine, sink, retry="3s")
        checked = engine.run("spool", "check")
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, f"{engine.directory}/spool: whole\n", "")
        assert json.loads(engine.run("spool", "check", "--json", "--repair").stdout) == {"problems": 0, "shown": [], "mended": []}
        done = engine.run("spool", "compact", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert 0 < found["index_after_bytes"] <= found["index_before_bytes"] and found["segments_damaged"] == 0
        owners = {path.stat().st_uid for path in (engine.directory / "spool").rglob("*") if path.name != "lock" and "run" not in path.parts}
        assert owners == {engine.directory.stat().st_uid}
        assert engine.run("spool", "check").returncode == 0
        engine.start()
        messages = sink.wait_for_messages(MESSAGES)
        assert {recipient for message in messages for recipient in message.recipients} == {f"u{number}@dest.example" for number in range(MESSAGES)}
        engine.stop(30)
        assert "before" in engine.run("spool", "compact").stdout


def test_a_damaged_body_is_named_and_its_mail_stays(make_engine: MakeEngine) -> None:
    with Sink("rcpt-4xx") as sink:
        engine = deferred(make_engine, sink, retry="3s")
        (segment,) = segments(engine)
        data = bytearray(segment.read_bytes())
        data[format.RECORD_HEAD.size + 20] ^= 1  # in the first body
        segment.write_bytes(data)
        orphan = segment.with_name(format.segment_name(1, 99))
        orphan.touch()
        checked = engine.run("spool", "check", "--json")
        found = json.loads(checked.stdout)
        assert checked.returncode == 1 and found["mended"] == []
        assert {problem["kind"] for problem in found["shown"]} == {"body", "orphan"}
        (identity,) = {problem["message"] for problem in found["shown"]} - {""}
        repaired = engine.run("spool", "check", "--repair")
        assert repaired.returncode == 1
        assert "repair: 1 files that no row names removed" in repaired.stdout
        assert identity in repaired.stdout and "1 problems" in repaired.stdout and not orphan.exists()
        engine.start()
        sink.wait_for_messages(MESSAGES - 1)
        eventually(lambda: f"quarantine id={identity}" in engine.log(), "the engine says that it waits")
        eventually(lambda: "1 recipients waiting" in engine.run("status").stdout, "it stays queued")
        assert not engine.records("b")
