"""One run: an engine, clients, a counting sink, and reloads; then every accepted recipient is accounted for."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.reload.census import Census, CountedSession
from tests.reload.client import Clients
from tests.reload.world import Choice, draw, spoil
from tests.sinks.sink import Sink
from tests.system.engine import Engine, eventually

BROKEN_SHARE = 0.2
HANGUP_SHARE = 0.3  # of good files: SIGHUP, and nobody waits for its end
OVERLAPPING = 3  # reloads under way at once, at most


@dataclass(slots=True)
class Report:
    """What came of a run; `wrong` is empty or the test has failed."""

    reloads: int = 0
    refused: int = 0
    accepted: int = 0
    delivered: int = 0
    bounced: int = 0
    turned_away: int = 0
    hung_up: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.reloads} reloads applied, {self.refused} refused; {self.accepted} accepted, {self.delivered} delivered, {self.bounced} bounced; "
            f"{self.turned_away} times a client had to come again, {self.hung_up} of them untold; slowest reload {self.slowest_s:.1f} s"
        )


class Run:
    """The reloads of one seed."""

    def __init__(self, engine: Engine, census: Census, rng: random.Random, sink_port: int, first: Choice) -> None:
        self.report = Report()
        self._engine, self._census, self._rng, self._sink_port = engine, census, rng, sink_port
        self._recent = [first]  # in force, or perhaps still so with some process
        self._hangups = 0

    def step(self) -> None:
        """One more reload."""
        choice, rng = draw(self._rng, self._sink_port), self._rng
        if rng.random() < BROKEN_SHARE:
            self._broken(spoil(rng, choice))
            return
        self._recent.append(choice)
        self._census.allow(max(each.per_queue for each in self._recent), max(each.total for each in self._recent))
        self._engine.configure(choice.text)
        self.report.reloads += 1
        if rng.random() < HANGUP_SHARE and self._hangups < OVERLAPPING:
            self._hangups += 1
            self._engine.signal(signal.SIGHUP)
            time.sleep(rng.random() / 2)  # what meets what is the seed's, not this sleep's: any length is right
            return
        started_s = time.monotonic()
        done = self._engine.run("reload", timeout_s=120)
        self.report.slowest_s = max(self.report.slowest_s, time.monotonic() - started_s)
        if done.returncode != 0:
            self.report.wrong.append(f"a good configuration was refused with {done.returncode}: {done.stdout}{done.stderr}")
        self._hangups, self._recent = 0, [choice]
        self._census.allow(choice.per_queue, choice.total)

    def _broken(self, text: str) -> None:
        self._engine.configure(text)
        done = self._engine.run("reload", timeout_s=120)
        self.report.refused += 1
        if done.returncode != 78 or not done.stderr.strip():
            self.report.wrong.append(f"a bad configuration: exit {done.returncode}: {done.stdout}{done.stderr}\n{text}")
        self._engine.configure(self._recent[-1].text)

    def settle(self, clients: Clients, sink: Sink) -> None:
        """The load has ended: when nothing waits any more, compare what was accepted, what the sink got, and what the records say."""
        engine, report = self._engine, self.report
        wanted = Counter(clients.accepted)
        report.accepted, report.turned_away, report.hung_up = len(clients.accepted), clients.turned_away, clients.hung_up
        report.wrong += clients.wrong + self._census.exceeded
        try:
            eventually(lambda: ", 0 recipients waiting, 0 records to write" in engine.run("status").stdout, "all is dealt with", timeout_s=90)
        except AssertionError as error:
            report.wrong.append(f"{error}\n{engine.run('status').stdout}")
        engine.stop(60)
        delivered = Counter(record["rcpt"] for record in engine.iter_records("d", pattern="acct*.csv"))
        bounced = Counter(record["rcpt"] for record in engine.iter_records("b", pattern="acct*.csv"))
        # DSNs, which the engine itself sends to s@origin.example, were accepted from nobody
        delivered, bounced = (Counter({rcpt: count for rcpt, count in found.items() if rcpt in wanted}) for found in (delivered, bounced))
        arrived = Counter(recipient for message in sink.messages for recipient in message.recipients)
        report.delivered, report.bounced = sum(delivered.values()), sum(bounced.values())
        for what, found in (("has no record", wanted - delivered - bounced), ("has more than one record", delivered + bounced - wanted)):
            report.wrong += [f"{rcpt} {what}" for rcpt in sorted(found)[:5]]
        arrived = Counter({rcpt: count for rcpt, count in arrived.items() if rcpt in wanted})
        for rcpt in sorted((arrived - delivered) + (delivered - arrived))[:5]:
            report.wrong.append(f"{rcpt} came {arrived[rcpt]} times to the sink, and has {delivered[rcpt]} d records")
        for line in engine.log().splitlines():
            if any(word in line for word in (" fault ", " crashed ", " quarantine ", " killed ", " hung ", " hurried ")):
                report.wrong.append(line)


def run(seed: int, reloads: int, clients: int = 4, pause_s: float = 0.02, seconds: float = 1200) -> Report:
    """*reloads* reloads, or as many as *seconds* allow."""
    rng, census = random.Random(seed), Census()
    with Sink(CountedSession, census=census) as sink, tempfile.TemporaryDirectory(prefix="engine-test-") as name:
        Path(name).chmod(0o711)
        first = draw(rng, sink.port)
        census.allow(first.per_queue, first.total)
        with Engine(Path(name) / "engine", first.text) as engine:
            one, end_s = Run(engine, census, rng, sink.port, first), time.monotonic() + seconds
            with Clients(engine.port, clients, pause_s) as sending:
                for _ in range(reloads):
                    one.step()
                    if time.monotonic() > end_s:
                        break
            one.settle(sending, sink)
            if one.report.wrong:
                one.report.wrong.append(engine.said())
        return one.report
