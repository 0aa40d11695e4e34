"""The account of a chaos run, by recipient: pure, from evidence to counts and violations.  Every time is of the one monotonic clock, in seconds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

GRACE_S = 1.0  # from a peer's 250 to the end of the group that stores it, on two cores that are busy starting processes all the time
IN_DOUBT, NO_EXCUSE = 1e6, 1e9
CLASSES = (  # what is told apart in the account, up to so many seconds
    *((0.0, "in flight"), (0.1, "its 250 up to 0.1 s before"), (0.5, "its 250 up to 0.5 s before"), (GRACE_S + 0.001, "its 250 longer before")),
    *((IN_DOUBT, "none, the sink broke the connection with its 250"), (NO_EXCUSE, "none")),
)
EVERYBODY = ""  # a kill that ended whoever sent from any address
SENDERS = "senders.example"
STORIES = 50  # violations that are told in full


class Sent(msgspec.Struct, array_like=True, frozen=True):
    """One message as its client knows it."""

    number: int
    sender: str  # "" is the null sender
    wants_report: bool  # whether a bounce of it is due to be reported
    recipients: list[str]  # those that were accepted at RCPT; of a message without acknowledgement, those that were offered
    acknowledged_s: float  # when the 250 to its final dot came; 0: never
    reply: str = ""
    wants_success: bool = False  # NOTIFY=SUCCESS: the sink knows no DSN, so that we say "relayed"


class Attempt(msgspec.Struct, array_like=True, frozen=True):
    """One recipient in one transaction as the sink knows it."""

    recipient: str  # of a refused MAIL, whose recipients the sink may never hear: `sender_key`
    peer: str  # the address that sent it
    began_s: float  # when MAIL was read
    dot_s: float  # when the final dot was read; 0: it never came
    answered_s: float  # when that which ended it was said, or the connection closed
    stage: str  # what was answered: mail, rcpt, data, dot; "" if the connection ended unasked
    said: str  # the code of a whole reply; "" for silence or garbage
    doubt: bool = False  # the connection was broken with the reply, which may never have been read
    intact: bool = True  # the body is the one that was sent
    report: str = ""  # a report's message id
    about: list[str] = []  # the recipients that it reports

    @property
    def taken(self) -> bool:
        """The sink said that it has it."""
        return self.stage == "dot" and self.said.startswith("2")

    @property
    def refused(self) -> bool:
        """The sink said that it never will."""
        return self.said.startswith("5")


class Kill(NamedTuple):
    """What ended a process, at some moment between *from_s* and *until_s*."""

    what: str  # "delivery/0", "spool/0", "all" ...
    from_s: float
    until_s: float
    senders: frozenset[str] = frozenset()  # source addresses of what died; {EVERYBODY} for all

    def ends(self, peer: str) -> bool:
        """Whether who sent from *peer* died."""
        return peer in self.senders or EVERYBODY in self.senders


class Outage(NamedTuple):
    """While it lasted, no outcome of what *peer* sent could be stored."""

    peer: str
    from_s: float
    until_s: float


@dataclass(slots=True)
class Tally:
    """The accounting records about one recipient."""

    d: int = 0
    b: int = 0
    t: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known at the end of a run.  Recipients of reports stand under `report_key`."""

    sent: Sequence[Sent]
    attempts: Sequence[Attempt]
    kills: Sequence[Kill] = ()
    outages: Sequence[Outage] = ()
    records: Mapping[str, Tally] = field(default_factory=dict)
    queued: Mapping[str, Sequence[int]] = field(default_factory=dict)  # recipient -> attempts so far, of each row
    stuck: Mapping[str, str] = field(default_factory=dict)  # recipient -> why it should not wait any more


class Violation(NamedTuple):
    """A promise broken: of whom, which, and what happened to it."""

    recipient: str
    what: str
    story: str

    def __str__(self) -> str:
        return f"{self.what}: {self.recipient}\n{self.story}"


@dataclass(slots=True)
class Account:
    """The result: named counts, in the order in which they are printed, and what is wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    latest_excuse_s: float = 0.0  # the longest time from a 250 to the kill that excuses its repetition, without outages


def report_key(sender: str, identity: str) -> str:
    """Under what a report is accounted: its own id makes it one of a kind."""
    return f"{sender}#{identity}"


def key_of(address: str, identity: str) -> str:
    """Under what a record or row of *address* in message *identity* is accounted."""
    return report_key(address, identity) if address.endswith("@" + SENDERS) else address


def sender_key(sender: str) -> str:
    """Under what a refused MAIL is noted: all null senders together."""
    return f"<{sender}>"


class Excuses:
    """Which deliveries may be repeated: those in flight, or not stored yet, when the process that made them was killed."""

    def __init__(self, kills: Iterable[Kill], outages: Iterable[Outage], grace_s: float = GRACE_S) -> None:
        self._kills = sorted((kill for kill in kills if kill.senders), key=lambda kill: kill.from_s)
        self._outages: dict[str, list[Outage]] = defaultdict(list)
        for outage in sorted(outages, key=lambda outage: outage.from_s):
            self._outages[outage.peer].append(outage)
        self._grace_s = grace_s

    def stored_by(self, peer: str, answered_s: float) -> float:
        """The moment by which an outcome that became known at *answered_s* is stored: the grace, not counting outages."""
        at_s, left_s = answered_s, self._grace_s
        for outage in self._outages[peer]:
            if outage.until_s <= at_s:
                continue
            if outage.from_s >= at_s + left_s:
                break
            left_s -= max(0.0, outage.from_s - at_s)
            at_s = outage.until_s
        return at_s + left_s

    def unstored_s(self, attempt: Attempt, kill: Kill) -> float:
        """How long before *kill* the outcome of *attempt* was known, and could have been stored: seconds without outages; 0: it was in flight."""
        reached_s, seconds = attempt.answered_s, 0.0
        for outage in self._outages[attempt.peer]:
            if outage.from_s >= kill.from_s:
                break
            if outage.until_s > reached_s:
                seconds += max(0.0, outage.from_s - reached_s)
                reached_s = outage.until_s
        return seconds + max(0.0, kill.from_s - reached_s)

    def kill_of(self, attempt: Attempt) -> Kill | None:
        """The kill that may have swallowed the outcome of *attempt*."""
        by_s = self.stored_by(attempt.peer, attempt.answered_s)
        for kill in self._kills:
            if kill.from_s > by_s:
                return None
            if kill.until_s >= attempt.began_s and kill.ends(attempt.peer):
                return kill
        return None


def settle(evidence: Evidence) -> Account:
    """The account."""
    return _Settling(evidence).run()


class _Settling:
    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._account = Account()
        self._excuses = Excuses(evidence.kills, evidence.outages)
        self._attempts: dict[str, list[Attempt]] = defaultdict(list)
        self._reported: dict[str, list[str]] = defaultdict(list)  # recipient -> keys of reports about it that were taken
        for attempt in sorted(evidence.attempts, key=lambda attempt: attempt.answered_s):
            key = report_key(attempt.recipient, attempt.report) if attempt.report else key_of(attempt.recipient, "")
            self._attempts[key].append(attempt)
            if attempt.report and attempt.taken:
                for about in attempt.about:
                    if key not in self._reported[about]:
                        self._reported[about].append(key)

    def run(self) -> Account:
        known: set[str] = set()
        for message in self._evidence.sent:
            known.update(message.recipients)
            self._message(message)
        self._reports()
        self._strangers(known)
        for recipient, why in self._evidence.stuck.items():
            self._wrong(recipient, f"stuck ({why})")
        return self._account

    def _wrong(self, key: str, what: str) -> None:
        told = len(self._account.violations) < STORIES
        self._account.violations.append(Violation(key, what, self._story(key) if told else ""))

    def _story(self, key: str) -> str:
        """All that is known of one recipient, a line each."""
        lines = [(attempt.answered_s, _attempt_line(attempt)) for attempt in self._attempts.get(key, ())]
        for message in self._evidence.sent:
            if key in message.recipients:
                said = f"  {message.acknowledged_s:.3f} acknowledged: {message.reply}" if message.acknowledged_s else "  never acknowledged"
                lines.append((message.acknowledged_s, f"{said} (message {message.number} from <{message.sender}>)"))
        if self._attempts.get(key):
            first, last = self._attempts[key][0].began_s, self._attempts[key][-1].answered_s
            lines += [
                (kill.from_s, f"  {kill.from_s:.3f} - {kill.until_s:.3f} kill of {kill.what}")
                for kill in self._evidence.kills
                if first - 2 <= kill.until_s and kill.from_s <= last + 2
            ]
        tally = self._evidence.records.get(key, Tally())
        rows = list(self._evidence.queued.get(key, ()))
        lines.append((float("inf"), f"  records: {tally.d} d, {tally.b} b, {tally.t} t; rows in the spool, with their attempts: {rows}"))
        return "\n".join(line for _, line in sorted(lines, key=lambda each: each[0]))

    # --- messages ------------------------------------------------------------------------------------------------------------------------

    def _places(self, key: str) -> int:
        """In how many places the recipient is: one for each end and each row."""
        tally = self._evidence.records.get(key, Tally())
        return tally.d + tally.b + len(self._evidence.queued.get(key, ()))

    def _message(self, message: Sent) -> None:
        counts = self._account.counts
        places = {recipient: self._places(recipient) for recipient in message.recipients}
        stored = [recipient for recipient, count in places.items() if count]
        if message.acknowledged_s:
            counts["messages acknowledged"] += 1
            counts["acknowledged"] += len(message.recipients)
        else:
            counts["messages not acknowledged"] += 1
            counts["not acknowledged"] += len(message.recipients)
            counts["not acknowledged, yet stored"] += len(stored)
        for recipient in message.recipients:
            if recipient in stored:
                self._recipient(recipient, message.sender, acknowledged=bool(message.acknowledged_s))
                self._report_of(recipient, message)
            elif message.acknowledged_s:
                counts["lost"] += 1
                self._wrong(recipient, "lost")
            elif stored:
                self._wrong(recipient, "stored in part: others of its message are there")
            elif any(attempt.taken for attempt in self._attempts.get(recipient, ())):
                self._wrong(recipient, "taken by the sink, and no record says so")

    def _recipient(self, key: str, sender: str, acknowledged: bool, report: bool = False) -> None:
        """One that is somewhere: in one place, with the records that belong to it, and no delivery repeated without excuse."""
        counts = self._account.counts
        tally, rows = self._evidence.records.get(key, Tally()), self._evidence.queued.get(key, ())
        end = "delivered" if tally.d else "bounced" if tally.b else "queued"
        kind = "reports, " if report else "" if acknowledged else "not acknowledged, "
        counts[f"{kind}{end}"] += 1
        if tally.d + tally.b + len(rows) != 1:
            self._wrong(key, f"in {self._places(key)} places")
        if rows and tally.t != rows[0]:
            self._wrong(key, f"tried {rows[0]} times, but with {tally.t} t records")
        attempts = self._attempts.get(key, ())
        taken = [attempt for attempt in attempts if attempt.taken]
        if tally.d and not taken:
            self._wrong(key, "recorded as delivered, but the sink never took it")
        if tally.b and not any(attempt.refused for attempt in (*attempts, *self._attempts.get(sender_key(sender), ()))):
            self._wrong(key, "bounced, but the sink never refused it")
        if any(not attempt.intact for attempt in taken):
            self._wrong(key, "delivered with another body")
        self._repetition(key, attempts, final=bool(tally.d))

    def _repetition(self, key: str, attempts: Sequence[Attempt], final: bool) -> None:
        """Every 250 but one that was the end needs its excuse; *final*: there is such a one."""
        counts = self._account.counts
        taken = [attempt for attempt in attempts if attempt.taken]
        if len(taken) <= final and not (taken and self._tried_after(attempts, taken[0])):
            return
        counts["repeated" if final else "taken, though it did not end there"] += 1
        excused = sorted(((self._weight(attempt), attempt) for attempt in taken), key=lambda each: each[0])
        if final and not self._tried_after(attempts, excused[-1][1]):
            excused.pop()  # the one that was the end: whichever needs an excuse most
        for weight, _ in excused:
            counts[f"repeated over a kill: {next(name for limit_s, name in CLASSES if weight <= limit_s)}"] += 1
        self._account.latest_excuse_s = max([self._account.latest_excuse_s, *(weight for weight, _ in excused if weight < IN_DOUBT)])
        if excused and excused[-1][0] > IN_DOUBT:
            counts["repeated without excuse"] += 1
            self._wrong(key, "delivered twice" if final else "delivered, and not recorded so")

    def _weight(self, attempt: Attempt) -> float:
        """How bad it is that *attempt* was not the end: seconds that its outcome could have been stored before a kill; IN_DOUBT; or more."""
        kill = self._excuses.kill_of(attempt)
        if kill is not None:
            return self._excuses.unstored_s(attempt, kill)
        return IN_DOUBT if attempt.doubt else NO_EXCUSE

    @staticmethod
    def _tried_after(attempts: Sequence[Attempt], end: Attempt) -> bool:
        """Whether a transaction began after *end* should have been known; what a dead process left in a socket had begun before."""
        return any(attempt.began_s > end.answered_s for attempt in attempts)

    # --- reports -------------------------------------------------------------------------------------------------------------------------

    def _report_of(self, recipient: str, message: Sent) -> None:
        """A bounce, and a delivery where that was asked for, is reported once where a report is due, and nothing else is."""
        counts = self._account.counts
        tally = self._evidence.records.get(recipient, Tally())
        due = (tally.b > 0 and message.wants_report) or (tally.d > 0 and message.wants_success)
        reports = self._reported.get(recipient, ())
        if not due:
            if reports:
                self._wrong(recipient, "reported, though no report is due")
            return
        counts["reports due"] += 1
        waiting = any(key.startswith(f"{message.sender}#") for key in self._evidence.queued)
        if not reports and not waiting:
            counts["reports lost"] += 1
            self._wrong(recipient, "bounced without its report" if tally.b else "delivered without the report that was asked for")
        if len(reports) > 1:
            self._wrong(recipient, f"reported in {len(reports)} different reports")

    def _reports(self) -> None:
        keys = {key for source in (self._evidence.records, self._evidence.queued) for key in source if "#" in key}
        for key in sorted(keys):
            self._recipient(key, "", acknowledged=True, report=True)
        for key, attempts in self._attempts.items():
            if "#" in key and not key.endswith("#") and key not in keys and any(attempt.taken for attempt in attempts):
                self._wrong(key, "a report was taken by the sink, and no record says so")

    def _strangers(self, known: set[str]) -> None:
        """Nothing is invented."""
        for what, source in (("recorded", self._evidence.records), ("queued", self._evidence.queued), ("tried", self._attempts)):
            for key in source:
                if "#" not in key and not key.startswith("<") and key not in known:
                    self._wrong(key, f"{what}, but nobody sent it")


def _attempt_line(attempt: Attempt) -> str:
    dot = f" dot {attempt.dot_s:.3f}" if attempt.dot_s else ""
    flags = " (connection broken with it)" * attempt.doubt + " (ANOTHER BODY)" * (not attempt.intact)
    answer = f"{attempt.said or 'no reply'} to {attempt.stage or 'nothing'}{flags}"
    return f"  {attempt.answered_s:.3f} from {attempt.peer}: began {attempt.began_s:.3f}{dot}, {answer}"


EQUATION = ("acknowledged", "delivered", "bounced", "queued", "lost")


def render(account: Account) -> str:
    """The account in words."""
    counts: Mapping[str, Any] = account.counts
    acknowledged, delivered, bounced, queued, lost = (counts[name] for name in EQUATION)
    lines = [
        f"recipients acknowledged {acknowledged} = delivered {delivered} + bounced {bounced} + queued {queued} + lost {lost}"
        + ("" if acknowledged == delivered + bounced + queued + lost else "  (DOES NOT ADD UP)"),
    ]
    shown = set(EQUATION)
    lines += [f"{name}: {count}" for name, count in sorted(account.counts.items()) if name not in shown]
    if account.latest_excuse_s:
        lines.append(f"longest from a 250 to the kill that swallowed it, outages of the spool process left out: {account.latest_excuse_s:.3f} s")
    return "\n".join(lines)
