"""What the harness reads from files, and its own parts that have no process: tables."""

from __future__ import annotations

import random
import time
import zlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos.account import Kill, Outage, Tally
from tests.chaos.client import body
from tests.chaos.evidence import Log, read_log, read_records, spool_outages
from tests.chaos.sink import intact, reply
from tests.chaos.temper import STAGES, TEMPERS

HEADER = "type,rcpt,id\n"


@pytest.mark.parametrize(
    ("text", "torn"),
    [
        ("d,a@x.example,1\n", 0),
        ("", 0),
        ("d,a@x.example,1", 1),
        ("d,a@x.ex\n", 1),
        ("d,a@x.example,1,\n", 1),
        ("x,a@x.example,1\n", 1),
        ("d,a@x.example,1\n\0\0\n", 2),
        ("d,a@x.example,1\n" + HEADER, 1),
        ("\n", 1),
    ],
)
def test_every_line_is_looked_at(tmp_path: Path, text: str, torn: int) -> None:
    path = tmp_path / "acct.csv"
    path.write_text(HEADER + text)
    assert len(read_records([path]).torn) == torn


def test_records_are_counted_by_recipient_and_those_of_reports_by_report(tmp_path: Path) -> None:
    path = tmp_path / "acct.csv"
    path.write_text(HEADER + "d,a@x.example,1\nt,a@x.example,1\nt,a@x.example,1\nd,s1@senders.example,2\nd,s1@senders.example,3\ntq,,\n")
    found = read_records([path])
    assert found.tallies == {"a@x.example": Tally(d=1, t=2), "s1@senders.example#2": Tally(d=1), "s1@senders.example#3": Tally(d=1)}
    assert found.counts == Counter(d=3, t=2, tq=1)


def line(at_s: float, text: str) -> str:
    wall = datetime.fromtimestamp(time.time() - time.monotonic() + at_s, UTC)
    return f"{wall:%Y-%m-%d %H:%M:%S}.{wall.microsecond // 1000:03d}+0000 {text}\n"


def test_the_log_says_when_outcomes_could_be_stored_again() -> None:
    now_s = time.monotonic()
    log = read_log([
        line(now_s, "spool/0 spool delivery/0 joined epoch=3 last=0"),
        line(now_s + 2, "spool/0 spool delivery/0 joined epoch=3 last=9"),
        line(now_s + 3, "supervisor/0 hung delivery/1 pid=7 made no progress for 2 s: killed"),
        line(now_s + 3, "supervisor/0 ended delivery/1 pid=7 signal=SIGKILL lived=2.7s next start in 0.1 s"),
        line(now_s + 4, "supervisor/0 ended listener/0 pid=8 exit=70 lived=2.7s next start in 0.1 s"),
        line(now_s + 5, "delivery/0 fault Traceback"),
        "no line of ours\n",
    ])  # fmt: skip
    assert log.joined["delivery/0"] == pytest.approx([now_s, now_s + 2], abs=0.01)
    assert [role for _, role in log.hung] == ["delivery/1"]
    assert log.ended == Counter({"listener exit 70": 1})
    assert len(log.faults) == 1
    senders = {"delivery/0": frozenset(["127.0.0.11"])}
    (outage,) = spool_outages([Kill("spool/0", now_s + 1, now_s + 1.2), Kill("listener/0", now_s, now_s)], log, senders)
    assert (outage.peer, outage.from_s) == ("127.0.0.11", now_s + 1)
    assert outage.until_s == pytest.approx(now_s + 2, abs=0.01)
    assert spool_outages([Kill("spool/0", 1.0, 1.5)], Log(), senders) == [Outage("127.0.0.11", 1.0, 1.5)]


def test_a_body_is_known_by_its_check() -> None:
    text = body(3_000, random.Random(1))
    whole = f"Received: by us\r\nX-Chaos: {len(text)} {zlib.crc32(text)}\r\nSubject: x\r\n\r\n".encode() + text
    assert intact(whole)
    assert not intact(whole[:-2])
    assert not intact(whole.replace(b"dot", b"d0t") if b"dot" in whole else whole + b"x")
    assert not intact(text)


@pytest.mark.parametrize("name", TEMPERS)
def test_a_temper_does_what_its_shares_say(name: str) -> None:
    chance, temper = random.Random(1), TEMPERS[name]
    for stage in STAGES:
        drawn = Counter(temper.act(stage, chance) for _ in range(5_000))
        for act in temper.acts.get(stage, ()):
            assert drawn[act.name] / 5_000 == pytest.approx(act.share, abs=0.02)
        assert set(drawn) <= {"", *(act.name for act in temper.acts.get(stage, ()))}
    assert set(temper.acts) <= set(STAGES)


def test_replies() -> None:
    assert [reply(code) for code in ("250", "354", "450")] == [b"250 2.0.0 chaos\r\n", b"354 chaos\r\n", b"450 4.3.0 chaos\r\n"]
