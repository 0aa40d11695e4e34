"""Stage x reply: what an answer touches."""

from __future__ import annotations

import pytest

from engine.mail.reply import Reply, reply
from engine.scheduler.feedback import Fate, judge

STAGES = ("MAIL", "RCPT", "DATA", "FINAL_DOT")

OK = reply(250, "2.0.0 ok")
GO_AHEAD = reply(354, "go ahead")
SHUTTING_DOWN = reply(421, "4.3.2 shutting down")
GREYLISTED = reply(451, "4.7.1 try later")
TOO_MANY = reply(452, "4.5.3 too many recipients")
FULL = reply(452, "4.2.2 mailbox full")
NO_STORAGE = reply(552, "5.3.4 message too big")
TOO_MANY_OLD = reply(552, "too many recipients")
UNKNOWN = reply(550, "5.1.1 user unknown")
BAD_SYNTAX = reply(501, "5.5.4 what")
NO_SERVICE = reply(554, "5.7.1 go away")


@pytest.mark.parametrize(
    "stage, answer, others, fate, closes",
    [
        ("FINAL_DOT", OK, True, Fate.DELIVERED, False),
        ("FINAL_DOT", OK, False, Fate.DELIVERED, False),
        ("FINAL_DOT", reply(251, "will forward"), False, Fate.DELIVERED, False),
        ("FINAL_DOT", GREYLISTED, True, Fate.DEFER, False),
        ("FINAL_DOT", NO_SERVICE, True, Fate.BOUNCE, False),
        ("FINAL_DOT", NO_STORAGE, True, Fate.BOUNCE, False),
        ("FINAL_DOT", TOO_MANY, True, Fate.DEFER, False),
        ("FINAL_DOT", GO_AHEAD, True, Fate.DEFER, True),
        ("RCPT", UNKNOWN, True, Fate.BOUNCE, False),
        ("RCPT", UNKNOWN, False, Fate.BOUNCE, False),
        ("RCPT", GREYLISTED, True, Fate.DEFER, False),
        ("RCPT", TOO_MANY, True, Fate.AT_ONCE, False),
        ("RCPT", TOO_MANY, False, Fate.DEFER, False),
        ("RCPT", TOO_MANY_OLD, True, Fate.AT_ONCE, False),
        ("RCPT", TOO_MANY_OLD, False, Fate.BOUNCE, False),
        ("RCPT", FULL, True, Fate.DEFER, False),
        ("RCPT", BAD_SYNTAX, True, Fate.BOUNCE, False),
        ("MAIL", GREYLISTED, False, Fate.DEFER, False),
        ("MAIL", TOO_MANY, False, Fate.DEFER, False),
        ("MAIL", NO_SERVICE, False, Fate.BOUNCE, False),
        ("DATA", GREYLISTED, True, Fate.DEFER, False),
        ("DATA", NO_SERVICE, True, Fate.BOUNCE, False),
        ("DATA", OK, True, Fate.DEFER, True),  # 250 where 354 belongs
    ],
)
def test_what_a_reply_touches(stage: str, answer: Reply, others: bool, fate: Fate, closes: bool) -> None:
    assert judge(stage, answer, others) == (fate, closes)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("others", [False, True])
def test_421_ends_the_connection_and_delays_whoever_it_answers(stage: str, others: bool) -> None:
    assert judge(stage, SHUTTING_DOWN, others) == (Fate.DEFER, True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("others", [False, True])
def test_every_code_has_a_verdict_and_only_2xx_to_the_final_dot_delivers(stage: str, others: bool) -> None:
    for code in range(100, 600):
        verdict = judge(stage, Reply(code, ("text",)), others)
        assert (verdict.fate is Fate.DELIVERED) == (stage == "FINAL_DOT" and 200 <= code < 300)
        assert verdict.fate is not Fate.BOUNCE or 500 <= code < 600
        assert verdict.fate is not Fate.AT_ONCE or (stage == "RCPT" and others and code in (452, 552))
        assert 200 <= code < 300 or code >= 400 or verdict == (Fate.DEFER, True)
