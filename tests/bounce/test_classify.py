"""Tables: what a status means, and who wants to hear of it."""

from __future__ import annotations

import pytest

from engine.bounce.classify import classify
from engine.bounce.notify import DELAY, FAILURE, NEVER, SUCCESS, wants_report
from engine.mail.status import describe


@pytest.mark.parametrize(
    "status, diag, category",
    [
        ("2.0.0", "smtp;250 ok", "success"),
        ("5.1.1", "", "bad-mailbox"),
        ("5.1.2", "", "bad-domain"),
        ("5.1.3", "", "bad-mailbox"),
        ("5.1.6", "", "bad-mailbox"),
        ("5.1.8", "", "invalid-sender"),
        ("4.2.1", "", "inactive-mailbox"),
        ("4.2.2", "", "quota-issues"),
        ("5.3.3", "", "content-related"),
        ("5.3.5", "", "bad-configuration"),
        ("4.4.1", "", "no-answer-from-host"),
        ("4.4.2", "", "bad-connection"),
        ("4.4.3", "", "routing-errors"),
        ("5.4.4", "", "routing-errors"),
        ("5.4.7", "", "message-expired"),
        ("5.5.3", "", "policy-related"),
        ("5.5.1", "", "protocol-errors"),
        ("5.6.9", "", "content-related"),
        ("5.7.1", "", "policy-related"),
        ("5.7.7", "", "content-related"),
        ("5.7.9", "", "other"),
        ("5.1.5", "", "other"),
        ("5.0.0", "smtp;550 no such user here (#5.1.1)", "bad-mailbox"),
        ("5.0.0", "smtp;550 blocked 192.5.1.1", "other"),
        ("4.0.0", "smtp;451 try later", "other"),
        ("", "", "other"),
        ("nonsense", "", "other"),
    ],
)
def test_categories(status: str, diag: str, category: str) -> None:
    assert classify(status, diag) == category


@pytest.mark.parametrize(
    "status, shown",
    [
        ("5.1.1", "5.1.1 (bad destination mailbox address)"),
        ("2.0.0", "2.0.0 (success)"),
        ("4.0.0", "4.0.0 (undefined status)"),
        ("5.7.99", "5.7.99 (other or undefined security status)"),
        ("5.99.1", "5.99.1 (undefined status)"),
        ("", ""),
    ],
)
def test_phrases(status: str, shown: str) -> None:
    assert describe(status) == shown


@pytest.mark.parametrize(
    "action, notify, wanted",
    [
        ("failed", 0, True),
        ("delayed", 0, False),
        ("failed", FAILURE, True),
        ("failed", SUCCESS, False),
        ("failed", DELAY, False),
        ("delayed", FAILURE, False),
        ("delayed", DELAY | FAILURE, True),
        ("failed", NEVER, False),
        ("failed", NEVER | FAILURE, False),
        ("delivered", 0, False),
        ("relayed", SUCCESS, True),
        ("relayed", 0, False),
        ("relayed", FAILURE, False),
        ("delivered", SUCCESS, False),
    ],
)
def test_notify(action: str, notify: int, wanted: bool) -> None:
    assert wants_report(action, notify, return_path="a@b") is wanted
    assert not wants_report(action, notify, return_path="")
    assert not wants_report(action, notify, return_path="a@b", notify_sender=False)
