"""One sentence for an operator at night: what holds a queue or a recipient, by which limit, since when, and what happens next.

Pure: values in, text out.  A row of `CLAUSES` for each kind of Standing; `{detail}` and `{limit}` are the standing's.
"""

from __future__ import annotations

import time

from engine.control.views import Standing

CLAUSES = {
    # recipients
    "sending": "is being delivered right now: {detail}",
    "storing": "has been dealt with, and its outcome is being stored",
    "bouncing": "is about to bounce: {detail}",
    "expired": "is older than {limit} and bounces within seconds, or has done so already",
    "clock": "is older than {limit}, but the wall clock has just jumped, and nobody is bounced for age until it has stood for fifteen minutes",
    "retry": "waits for its own retry after {limit}, since it was answered: {detail}",
    "aside": "was put aside for an hour: {detail}; `engine spool check`, with the engine stopped, tells more",
    "next": "is the next of its queue to be sent; {detail}",
    # the process that sends
    "draining": "waits, since this process drains and begins nothing new: the engine is being stopped or reloaded, and its successor sends it",
    "spool-away": "waits for the spool process, which is down or restarting: {detail}",
    "unsettled": "waits for the disk: {detail}",
    "disk-full": "waits for space on the disk, since outcomes cannot be stored ({detail}): free some space, and it goes on by itself",
    "outbox": "waits for the accounting process: {detail}",
    "elsewhere": "lies in the spool {detail}",
    "slot-down": "waits for its delivery process: {detail}",
    # the destination
    "no-vmta": "bounces with 5.3.5: there is no virtual MTA {detail} in the configuration any more",
    "no-source": "waits for an address to send from: {detail}; add the address to the host or correct smtp-source-host; {limit} between attempts",
    "doomed": "bounces: {detail}",
    "doomed-later": "bounces when it is old enough for {limit}: {detail}",
    "discard": "is discarded as soon as it is read, by {limit}",
    "dns": "waits {limit} after a look-up that failed: {detail}",
    "retry-after": "waits {limit} after the whole queue failed: {detail}",
    "unreachable": "waits {limit}, since another attempt has just found its host dead: {detail}",
    # limits
    "total-out": "waits for a connection under {limit}",
    "vmta-out": "waits for a connection under {limit}",
    "pool-out": "waits for a connection under {limit}",
    "connecting-slot": "waits since {limit} of this process are the most, so that dead hosts do not take all",
    "queue-out": "waits for one of its queue's connections under {limit}: {detail}",
    "goodbye": "waits for the end of {detail} connections that have carried {limit}, and then for a new one",
    "connecting": "waits for a connection that is being opened: {detail}",
    # its turn
    "turn": "waits for its turn; {detail}",
    "unread": "is about to be read from the disk",
    "window": "waits on disk: {detail}, and that is the most",
    "resting": "has nothing to send before its next retry",
    "idle": "has nothing to send",
}


def sentence(subject: str, standing: Standing, now_ms: int, behind: str = "") -> str:
    """*subject* ("message X to <a@b>", "queue d/v"), what holds it, since when, its place, its next attempt and the last reply, as one sentence.

    *behind*: its place in its queue, where that is known from the disk.
    """
    clause = CLAUSES[standing.kind].format(detail=standing.detail, limit=standing.limit)
    parts = [f"{subject} {clause.rstrip('; ')}"]
    if standing.since_ms:
        parts.append(f"since {clock_time(standing.since_ms, now_ms)}")
    if standing.line:
        parts.append(f"place {standing.ahead + 1} of {standing.line} queues in that line")
    elif behind:
        parts.append(behind)
    elif standing.ahead > 0:
        parts.append(f"{standing.ahead} recipients of its queue are before it")
    if standing.until_ms:
        parts.append(f"next attempt {when(standing.until_ms, now_ms)}")
    last = standing.last
    if last is not None and last.text not in clause:
        what = {"dns": "last failure", "tq": "last failure"}.get(last.kind, "last reply")
        whom = f" from {last.mx}" if last.mx else ""
        parts.append(f"{what} of the queue ({clock_time(last.at_ms, now_ms)}{whom}): {last.text.removeprefix('smtp;')}")
    return "; ".join(parts) + "."


def when(at_ms: int, now_ms: int) -> str:
    """`at 12:00:00 (in 5m 10s)`, `now`."""
    if at_ms <= now_ms:
        return "now"
    return f"at {clock_time(at_ms, now_ms)} (in {span((at_ms - now_ms) / 1000)})"


def clock_time(at_ms: int, now_ms: int) -> str:
    """Local time, with its date where that is not today's."""
    at, now = time.localtime(at_ms / 1000), time.localtime(now_ms / 1000)
    return time.strftime("%H:%M:%S" if at[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", at)


def span(seconds: float) -> str:
    """`3d 4h`, `5m 10s`: the two largest units."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
