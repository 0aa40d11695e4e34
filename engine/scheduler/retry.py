"""When to try again, and when to give up (RFC 5321 §4.5.4.1).  Times are wall-clock milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from engine.mail.envelope import Due

JITTER = 0.1  # of the delay; it only lengthens, so a configured minimum holds
UPON_NEW_MAIL_MS = 1000  # retry-upon-new-mail: a stream of new mail makes one attempt in so long


def delay_ms(steps_s: Sequence[float], failures: int) -> int:
    """The wait after the *failures*-th failure in a row (1, 2, ...): the list walked one step per failure, its last value repeated."""
    return int(steps_s[min(failures, len(steps_s)) - 1] * 1000)


def jittered_ms(delay: int, message: bytes, queue: int) -> int:
    """*delay* lengthened by up to 10 %, alike for all recipients of one message in one queue, so that they stay in one transaction."""
    return delay + int(delay * JITTER * crc32(message, queue) / 0xFFFFFFFF)


def expiry_ms(queued_ms: int, bounce_after_s: float) -> int:
    """The moment from which a recipient is bounced instead of tried again."""
    return queued_ms + int(bounce_after_s * 1000)


def again_ms(now_ms: int, wait_s: float, message: bytes, queue: int, queued_ms: int, bounce_after_s: float) -> int:
    """When a deferred recipient is due again.  Never later than its expiry: the expiry scan relies on it."""
    return min(now_ms + jittered_ms(int(wait_s * 1000), message, queue), expiry_ms(queued_ms, bounce_after_s))


def expired_diag(due: Due) -> str:
    """The diagnostic of a recipient that is too old: what its host said last."""
    return f"smtp;{due.last_reply}" if due.last_reply else "x-engine;bounce-after has passed without an attempt"
