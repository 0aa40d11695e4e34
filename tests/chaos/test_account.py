"""The account finds each kind of broken promise, and excuses what may happen: tables, no processes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.account import EVERYBODY, Account, Attempt, Evidence, Excuses, Kill, Outage, Sent, Tally, key_of, render, settle

A, B = "r0-0@d0.example", "r0-1@d1.example"
SENDER = "s0@senders.example"
IP, OTHER_IP = "127.0.0.11", "127.0.0.12"
MESSAGE = Sent(0, SENDER, True, [A], 1.0, "250 taken")


def attempt(recipient: str = A, began_s: float = 10.0, stage: str = "dot", said: str = "250", **more: Any) -> Attempt:
    return Attempt(recipient, more.pop("peer", IP), began_s, began_s + 0.1 if stage == "dot" else 0.0, began_s + 0.2, stage, said, **more)


def report(identity: str = "x1", about: str = A, **more: Any) -> Attempt:
    return attempt(SENDER, 12.0, report=identity, about=[about], **more)


def account(*attempts: Attempt, sent: Sent = MESSAGE, **evidence: Any) -> Account:
    return settle(Evidence(sent=[sent], attempts=attempts, **evidence))


def found(result: Account) -> list[tuple[str, str]]:
    return [(violation.recipient, violation.what) for violation in result.violations]


DELIVERED, BOUNCED = {A: Tally(d=1)}, {A: Tally(b=1)}
REPORT = {f"{SENDER}#x1": Tally(d=1)}
KILL = Kill("delivery/0", 10.5, 10.6, frozenset([IP]))

FINE = {
    "delivered": account(attempt(), records=DELIVERED),
    "after a deferral": account(attempt(began_s=5.0, said="451"), attempt(), records={A: Tally(d=1, t=1)}),
    "bounced and reported": account(attempt(stage="rcpt", said="550"), report(), records=BOUNCED | REPORT),
    "its report waits": account(attempt(stage="rcpt", said="550"), records=BOUNCED, queued={f"{SENDER}#x1": [0]}),
    "no report is due": account(attempt(stage="rcpt", said="550"), records=BOUNCED, sent=Sent(0, SENDER, False, [A], 1.0)),
    "queued": account(attempt(said="451"), records={A: Tally(t=1)}, queued={A: [1]}),
    "a delivery reported as asked": account(attempt(), report(), records=DELIVERED | REPORT, sent=Sent(0, SENDER, True, [A], 1.0, "250 taken", True)),
    "never acknowledged, never stored": account(sent=Sent(0, SENDER, True, [A, B], 0.0)),
    "never acknowledged, yet stored": account(attempt(), attempt(B), records={A: Tally(d=1), B: Tally(d=1)}, sent=Sent(0, SENDER, True, [A, B], 0.0)),
    "twice over a kill": account(attempt(), attempt(began_s=20.0), records=DELIVERED, kills=[KILL]),
    "twice over a kill of all": account(attempt(), attempt(began_s=20.0), records=DELIVERED, kills=[Kill("all", 10.5, 10.6, frozenset([EVERYBODY]))]),
    "twice over a broken connection": account(attempt(doubt=True), attempt(began_s=20.0), records=DELIVERED),
    "once, over a broken connection": account(attempt(doubt=True), records=DELIVERED),
    "bounced at MAIL": account(attempt(f"<{SENDER}>", stage="mail", said="550"), report(), records=BOUNCED | REPORT),
    "taken, then refused, over a kill": account(
        attempt(), attempt(began_s=20.0, stage="rcpt", said="550"), report(), records=BOUNCED | REPORT, kills=[KILL]
    ),
    "read late from a dead process's socket": account(
        attempt(began_s=10.1), attempt(began_s=10.9), attempt(began_s=10.55), records=DELIVERED, kills=[KILL]
    ),
    "dropped at the dot and sent again": account(attempt(said=""), attempt(began_s=20.0), records={A: Tally(d=1, t=1)}),
}


@pytest.mark.parametrize("result", FINE.values(), ids=FINE)
def test_what_may_happen(result: Account) -> None:
    assert found(result) == []
    assert "DOES NOT" not in render(result)


EARLY = Kill("delivery/0", 3.0, 3.1, frozenset([IP]))
LATE = Kill("delivery/0", 11.3, 11.4, frozenset([IP]))
WRONG = {
    "lost": (account(), [(A, "lost")]),
    "lost with a t record": (account(attempt(said="451"), records={A: Tally(t=1)}), [(A, "lost")]),
    "two records": (account(attempt(), records={A: Tally(d=2)}), [(A, "in 2 places")]),
    "delivered and queued": (account(attempt(), records=DELIVERED, queued={A: [0]}), [(A, "in 2 places")]),
    "delivered and bounced": (
        account(attempt(), attempt(stage="rcpt", said="550", began_s=9.0), report(), records={A: Tally(d=1, b=1)} | REPORT),
        [(A, "in 2 places")],
    ),
    "no t record": (account(attempt(said="451"), queued={A: [1]}), [(A, "tried 1 times, but with 0 t records")]),
    "invented delivery": (account(attempt(said="451"), records=DELIVERED), [(A, "recorded as delivered, but the sink never took it")]),
    "invented bounce": (
        account(attempt(said="451"), report(), records=BOUNCED | REPORT),
        [(A, "bounced, but the sink never refused it")],
    ),
    "another's refusal": (
        account(attempt("<s1@senders.example>", stage="mail", said="550"), report(), records=BOUNCED | REPORT),
        [(A, "bounced, but the sink never refused it")],
    ),
    "another body": (account(attempt(intact=False), records=DELIVERED), [(A, "delivered with another body")]),
    "twice": (account(attempt(), attempt(began_s=20.0), records=DELIVERED), [(A, "delivered twice")]),
    "twice, killed before": (account(attempt(), attempt(began_s=20.0), records=DELIVERED, kills=[EARLY]), [(A, "delivered twice")]),
    "twice, killed long after": (account(attempt(), attempt(began_s=20.0), records=DELIVERED, kills=[LATE]), [(A, "delivered twice")]),
    "twice, another slot killed": (
        account(attempt(peer=OTHER_IP), attempt(peer=OTHER_IP, began_s=20.0), records=DELIVERED, kills=[KILL]),
        [(A, "delivered twice")],
    ),
    "twice, the spool killed": (
        account(attempt(), attempt(began_s=20.0), records=DELIVERED, kills=[Kill("spool/0", 10.5, 10.6)]),
        [(A, "delivered twice")],
    ),
    "tried again after its end": (account(attempt(), attempt(began_s=20.0, said="451"), records=DELIVERED), [(A, "delivered twice")]),
    "taken and bounced": (
        account(attempt(), attempt(began_s=20.0, said="554"), report(), records=BOUNCED | REPORT),
        [(A, "delivered, and not recorded so")],
    ),
    "taken and queued": (account(attempt(), queued={A: [0]}), [(A, "delivered, and not recorded so")]),
    "half of a message": (
        account(attempt(), records=DELIVERED, sent=Sent(0, SENDER, True, [A, B], 0.0)),
        [(B, "stored in part: others of its message are there")],
    ),
    "taken without a record": (
        account(attempt(), sent=Sent(0, SENDER, True, [A], 0.0)),
        [(A, "taken by the sink, and no record says so")],
    ),
    "no report": (account(attempt(said="550"), records=BOUNCED), [(A, "bounced without its report")]),
    "a report that nobody wants": (
        account(attempt(said="550"), report(), records=BOUNCED | REPORT, sent=Sent(0, SENDER, False, [A], 1.0)),
        [(A, "reported, though no report is due")],
    ),
    "a report of a delivery": (account(attempt(), report(), records=DELIVERED | REPORT), [(A, "reported, though no report is due")]),
    "two reports": (
        account(attempt(said="550"), report("x1"), report("x2"), records=BOUNCED | REPORT | {f"{SENDER}#x2": Tally(d=1)}),
        [(A, "reported in 2 different reports")],
    ),
    "a report without a record": (
        account(attempt(said="550"), report(), records=BOUNCED),
        [(f"{SENDER}#x1", "a report was taken by the sink, and no record says so")],
    ),
    "a report twice": (
        account(attempt(said="550"), report(), report(), records=BOUNCED | REPORT),
        [(f"{SENDER}#x1", "delivered twice")],
    ),
    "a stranger": (account(attempt(), records=DELIVERED | {B: Tally(t=1)}), [(B, "recorded, but nobody sent it")]),
    "stuck": (account(attempt(said="451"), records={A: Tally(t=1)}, queued={A: [1]}, stuck={A: "due"}), [(A, "stuck (due)")]),
}  # fmt: skip


@pytest.mark.parametrize(("result", "wanted"), WRONG.values(), ids=WRONG)
def test_what_must_not_happen(result: Account, wanted: list[tuple[str, str]]) -> None:
    assert found(result) == wanted
    assert all(violation.recipient in str(violation) and "records:" in violation.story for violation in result.violations)


@pytest.mark.parametrize(
    ("outages", "wanted"),
    [
        ([], 11.0),
        ([(5.0, 9.0)], 11.0),
        ([(12.0, 13.0)], 11.0),
        ([(9.0, 12.0)], 13.0),
        ([(10.5, 12.0)], 12.5),
        ([(10.5, 12.0), (12.25, 20.0)], 20.25),
        ([(10.5, 12.0), (11.0, 14.0)], 14.5),
    ],
)
def test_an_outage_stops_the_clock(outages: list[tuple[float, float]], wanted: float) -> None:
    excuses = Excuses([], [Outage(IP, *each) for each in outages] + [Outage(OTHER_IP, 0.0, 100.0)], grace_s=1.0)
    assert excuses.stored_by(IP, 10.0) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("outages", "wanted"),
    [([], 2.0), ([(10.5, 12.0)], 0.5), ([(9.0, 11.0)], 1.0), ([(9.0, 11.0), (10.5, 11.5)], 0.5), ([(13.0, 14.0)], 2.0), ([(9.0, 20.0)], 0.0)],
)
def test_how_long_an_outcome_could_have_been_stored(outages: list[tuple[float, float]], wanted: float) -> None:
    excuses = Excuses([], [Outage(IP, *each) for each in outages])
    known = Attempt(A, IP, 9.5, 9.9, 10.0, "dot", "250")
    assert excuses.unstored_s(known, Kill("delivery/0", 12.0, 12.1)) == pytest.approx(wanted)
    assert excuses.unstored_s(known, Kill("delivery/0", 9.8, 12.1)) == 0.0


def test_reports_have_keys_of_their_own() -> None:
    assert key_of(SENDER, "x1") == f"{SENDER}#x1"
    assert key_of(A, "x1") == A
