"""One run: an engine, clients, a counting sink, and upgrades; then every accepted recipient is accounted for."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.reload.census import Census, CountedSession
from tests.reload.client import Clients
from tests.reload.run import Report, Run
from tests.reload.world import Choice, draw
from tests.sinks.sink import Sink
from tests.system.engine import eventually
from tests.upgrade.program import PROTOCOL, UpgradableEngine

BROKEN = {  # what is installed -> what is said of it
    "a module that cannot be read": ({"delivery/worker.py": ("import annotations", "import = annotations")}, "SyntaxError"),
    "half an installation": ({"supervisor/successor.py": ("import importlib\n", "import importlib, nowhere\n")}, "nowhere"),
    "another format of the spool": ({"spool/format.py": ("FORMAT_VERSION = 1", "FORMAT_VERSION = 2")}, "format 1"),
    "another format of the state": ({"supervisor/state.py": ("\nFORMAT = 1", "\nFORMAT = 2")}, "reads format 2"),
}
KINDS = {"plain": 6, "broken": 2, "apart": 1, "overlapping": 1, "with a reload": 1}


@dataclass(slots=True)
class UpgradeReport(Report):
    """What came of a run; `wrong` is empty or the test has failed."""

    upgrades: int = 0

    def __str__(self) -> str:
        return (
            f"{self.upgrades} upgrades, {self.refused} refused; {self.accepted} accepted, {self.delivered} delivered, {self.bounced} bounced; "
            f"{self.turned_away} times a client had to come again, {self.hung_up} of them untold; slowest upgrade {self.slowest_s:.1f} s"
        )


class Upgrades(Run):
    """The upgrades of one seed."""

    report: UpgradeReport
    _engine: UpgradableEngine

    def __init__(self, engine: UpgradableEngine, census: Census, rng: random.Random, sink_port: int, first: Choice) -> None:
        super().__init__(engine, census, rng, sink_port, first)
        self.report = UpgradeReport()
        self._text = first.text
        self._protocol = 1

    def step(self) -> None:
        """One more upgrade."""
        kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
        version = f"1.{self.report.upgrades + self.report.refused + 1}"
        if kind == "broken":
            self._broken(version)
            return
        if kind == "apart":
            self._protocol = 3 - self._protocol
        changes = {} if self._protocol == 1 else {PROTOCOL[0]: PROTOCOL[1]}
        if kind == "overlapping":
            self._engine.program.install(version + ".0", changes)
            self._done("upgrade", "--no-wait")
            self.report.upgrades += 1
        elif kind == "with a reload":
            self._engine.configure(self._text + f"total-max-smtp-in {self._rng.randrange(70, 90)}\n")
        before = self._engine.pids()
        self._engine.program.install(version, changes)
        started_s = time.monotonic()
        self._done("upgrade", "--no-wait") if kind == "with a reload" else self._done("upgrade")
        if kind == "with a reload":
            self._engine.signal(signal.SIGHUP)
            eventually(lambda: not self._engine.look()["reloading"], "upgrade and reload are done", timeout_s=120)
        self.report.slowest_s = max(self.report.slowest_s, time.monotonic() - started_s)
        self.report.upgrades += 1
        self._compare(before, version)

    def _broken(self, version: str) -> None:
        before = self._engine.pids()
        what = self._rng.choice(list(BROKEN))
        changes, reason = BROKEN[what]
        self._engine.program.install(version, changes)
        done = self._engine.run("upgrade", timeout_s=120)
        self.report.refused += 1
        if done.returncode != 78 or reason not in done.stderr:
            self.report.wrong.append(f"{what}: exit {done.returncode}: {done.stdout}{done.stderr}")
        if self._engine.pids() != before:
            self.report.wrong.append(f"{what}: before {before}, after {self._engine.pids()}")

    def _done(self, *words: str) -> None:
        done = self._engine.run(*words, timeout_s=300)
        if done.returncode != 0:
            self.report.wrong.append(f"{' '.join(words)}: exit {done.returncode}: {done.stdout}{done.stderr}")

    def _compare(self, before: dict[str, list[int]], version: str) -> None:
        """Every process is new but the supervisor, which has the new version."""
        after = self._engine.pids()
        stayed = {pid for pids in before.values() for pid in pids} & {pid for pids in after.values() for pid in pids}
        if stayed != set(before["supervisor"]):
            self.report.wrong.append(f"before {before}, after {after}")
        if (said := self._engine.look()["version"]) != version:
            self.report.wrong.append(f"status says version {said}, not {version}")


def run(seed: int, upgrades: int, clients: int = 4, pause_s: float = 0.02, seconds: float = 1200) -> UpgradeReport:
    """*upgrades* upgrades, or as many as *seconds* allow."""
    rng, census = random.Random(seed), Census()
    with Sink(CountedSession, census=census) as sink, tempfile.TemporaryDirectory(prefix="engine-test-") as name:
        Path(name).chmod(0o711)
        first = draw(rng, sink.port)
        census.allow(first.per_queue, first.total)
        with UpgradableEngine(Path(name) / "engine", first.text) as engine:
            engine.wait_until_ready()
            one, end_s = Upgrades(engine, census, rng, sink.port, first), time.monotonic() + seconds
            with Clients(engine.port, clients, pause_s) as sending:
                for _ in range(upgrades):
                    one.step()
                    if time.monotonic() > end_s:
                        break
            one.settle(sending, sink)
            if one.report.wrong:
                one.report.wrong.append(engine.said())
        return one.report
