"""What an answer touches: a table of stage x reply to recipient, connection and MX (RFC 5321 §4.2.1, DESIGN 'Scheduler and delivery').

Failures to look up, connect or greet are events of the whole queue and are not here: they touch no recipient.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from engine.mail.reply import Reply


class Fate(Enum):
    """What becomes of a recipient."""

    DELIVERED = auto()
    BOUNCE = auto()
    DEFER = auto()  # after retry-recipients-after
    AT_ONCE = auto()  # in the next transaction, as if it had not been tried


class Verdict(NamedTuple):
    """What one reply decides."""

    fate: Fate
    closes: bool = False  # the connection is of no more use


DELIVERED = Verdict(Fate.DELIVERED)
BOUNCE = Verdict(Fate.BOUNCE)
DEFER = Verdict(Fate.DEFER)
DEFER_CLOSE = Verdict(Fate.DEFER, closes=True)
AT_ONCE = Verdict(Fate.AT_ONCE)
AT_ONCE_CLOSE = Verdict(Fate.AT_ONCE, closes=True)

TOO_MANY_RECIPIENTS = frozenset((452, 552))  # RFC 5321 §4.5.3.1.10


def judge(stage: str, reply: Reply, others_accepted: bool, reused: bool = False) -> Verdict:
    """What *reply* to *stage* ("RSET", "MAIL", "RCPT", "DATA", "BODY", "FINAL_DOT") means for one recipient.

    *others_accepted*: the transaction has accepted recipients, so that 452/552 at RCPT says "no more in this one", not "mailbox full".
    *reused*: the connection has carried a transaction before, so that 421 at MAIL says "no more on this one", not "not this message".
    """
    code = reply.code
    if code == 421:
        return AT_ONCE_CLOSE if reused and stage in ("MAIL", "RSET") else DEFER_CLOSE
    if stage == "RCPT" and others_accepted and code in TOO_MANY_RECIPIENTS and not _mailbox_full(reply):
        return AT_ONCE
    if 200 <= code < 300:
        return DELIVERED if stage == "FINAL_DOT" else DEFER_CLOSE
    if 500 <= code < 600:
        return BOUNCE
    if 400 <= code < 500:
        return DEFER
    return DEFER_CLOSE  # 1xx, 3xx where none belongs: the peer has lost its way


def _mailbox_full(reply: Reply) -> bool:
    status = reply.status
    return status[1:] == ".2.2"
