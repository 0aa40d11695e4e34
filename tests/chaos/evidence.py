"""What an engine's directory says after a run: records, rows in the spool, and the log."""

from __future__ import annotations

import csv
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from engine.clock import wall_ms
from engine.mail.envelope import Due
from engine.mail.message_id import text as id_text
from engine.spool import SpoolReader
from tests.chaos.account import Kill, Outage, Tally, key_of
from tests.chaos.world import LATER_S

NEVER = "never.example/"  # queues whose recipients are put off for ever
SOON_MS = LATER_S * 1000 // 2
PAGE = 1000
LINK_AGAIN_S = 10.0  # a delivery process that has not joined the spool process after so long had other reasons
HUNG_EARLIER_S, HUNG_LATER_S = 0.05, 0.5  # around the log's line about a process that the watchdog kills
NOTABLE = ("quarantine", "settle-refused", "dsn-failed", "spool-lost", "not-stored", "hung", "takeover", "fault", "crashed", "cannot-start")
FAULTS = ("fault", "crashed", "cannot-start")


# --- accounting files ----------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Records:
    """The accounting files, read line by line."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # by type
    torn: list[str] = field(default_factory=list)  # file, line, and what is wrong with it
    files: int = 0


def read_records(paths: Iterable[Path]) -> Records:
    """What *paths* say, with every line looked at: whole, of its header's width, of a known type."""
    found = Records()
    for path in sorted(paths):
        found.files += 1
        data = path.read_bytes()
        if not data.endswith(b"\n") or b"\0" in data:
            found.torn.append(f"{path.name}: ends inside a line, or holds bytes that nobody wrote")
        header: list[str] = []
        for number, row in enumerate(csv.reader(data.decode("utf-8", "replace").replace("\0", "?").splitlines()), 1):
            if number == 1:
                header = row
            elif row and len(row) == len(header) and row[0] in ("d", "b", "t", "tq"):
                _count(found, dict(zip(header, row, strict=True)))
            else:
                found.torn.append(f"{path.name}:{number}: {row}")
    return found


def _count(found: Records, record: Mapping[str, str]) -> None:
    kind = record["type"]
    found.counts[kind] += 1
    if kind != "tq":
        tally = found.tallies.setdefault(key_of(record["rcpt"], record["id"]), Tally())
        setattr(tally, kind, getattr(tally, kind) + 1)


# --- rows ----------------------------------------------------------------------------------------------------------------------------------


def drained(spool: Path) -> bool:
    """Whether all that is left waits for a long time, and no record waits to be written."""
    with closing(SpoolReader(spool)) as reader:
        if reader.outbox(0, 1):
            return False
        queues = reader.queues(0, PAGE)
        return all(reader.queue_name(number).startswith(NEVER) and due_ms > wall_ms() + SOON_MS for number, due_ms in queues)


def read_rows(spool: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """(attempts so far of every row by recipient, why a recipient should not be there any more)."""
    queued: dict[str, list[int]] = {}
    stuck: dict[str, str] = {}
    with closing(SpoolReader(spool)) as reader:
        for number, _ in reader.queues(0, PAGE):
            name = reader.queue_name(number)
            for key, due in _rows(reader, number):
                recipient = key_of(due.address, id_text(key[13:25]))
                queued.setdefault(recipient, []).append(due.attempts)
                left_s = (int.from_bytes(key[5:13], "big") - wall_ms()) / 1000
                if not name.startswith(NEVER) or left_s < SOON_MS / 1000:
                    stuck[recipient] = f"in {name}, due in {left_s:.0f} s, after {due.attempts} attempts, last reply {due.last_reply!r}"
    return queued, stuck


def _rows(reader: SpoolReader, queue: int) -> Iterator[tuple[bytes, Due]]:
    after = None
    while rows := reader.due(queue, after, 1 << 62, PAGE)[0]:
        yield from rows
        after = rows[-1][0]


# --- the log -------------------------------------------------------------------------------------------------------------------------------

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d{4}) (\S+) (\S+) (.*)")
_ENDED = re.compile(r"(\S+) pid=(\d+) (?:signal=(\S+)|exit=(\d+)) ")
_JOINED = re.compile(r"(delivery/\d+) joined ")


@dataclass(slots=True)
class Log:
    """What matters of the event log, in monotonic seconds."""

    counts: Counter[str] = field(default_factory=Counter)
    joined: dict[str, list[float]] = field(default_factory=dict)  # when each delivery process was welcomed by the spool process
    hung: list[tuple[float, str]] = field(default_factory=list)  # who was killed by the watchdog
    ended: Counter[str] = field(default_factory=Counter)  # role and how, where it was not SIGKILL
    faults: list[str] = field(default_factory=list)


def read_log(lines: Iterable[str]) -> Log:
    """The *lines* of an event log of this machine, which has not been suspended since."""
    offset_s = time.time() - time.monotonic()
    found = Log()
    for line in lines:
        parts = _LINE.match(line)
        if parts is None:
            continue
        when, who, kind, text = parts.groups()
        if kind in NOTABLE:
            found.counts[kind] += 1
        if kind in FAULTS:
            found.faults.append(line.rstrip())
        if kind not in ("spool", "hung", "ended"):
            continue
        at_s = datetime.strptime(when, "%Y-%m-%d %H:%M:%S.%f%z").timestamp() - offset_s
        if kind == "hung" and who == "supervisor/0":
            found.hung.append((at_s, text.partition(" ")[0]))
        elif kind == "ended" and (end := _ENDED.match(text)) and end[3] != "SIGKILL":
            found.ended[f"{end[1].partition('/')[0]} {end[3] or f'exit {end[4]}'}"] += 1
        elif kind == "spool" and (match := _JOINED.match(text)):
            found.joined.setdefault(match[1], []).append(at_s)
    return found


def watchdog_kills(log: Log, senders: Mapping[str, frozenset[str]]) -> list[Kill]:
    """The watchdog's, whoever made them necessary."""
    return [Kill(role, at_s - HUNG_EARLIER_S, at_s + HUNG_LATER_S, senders.get(role, frozenset())) for at_s, role in log.hung]


def spool_outages(kills: Iterable[Kill], log: Log, senders: Mapping[str, frozenset[str]]) -> list[Outage]:
    """From each end of the spool process until the delivery processes have joined its successor: nothing that they hear can be stored."""
    found = []
    for kill in kills:
        if not kill.what.startswith("spool/"):
            continue
        for role, peers in senders.items():
            until_s = min((at_s for at_s in log.joined.get(role, ()) if at_s > kill.from_s), default=kill.until_s)
            until_s = min(max(until_s, kill.until_s), kill.until_s + LINK_AGAIN_S)
            found += [Outage(peer, kill.from_s, until_s) for peer in peers]
    return found
