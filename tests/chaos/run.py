"""One run: load and havoc, then quiet, then the account."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.account import Account, Attempt, Evidence, Sent, Violation, render, settle
from tests.chaos.evidence import Log, Records, drained, read_log, read_records, read_rows, spool_outages, watchdog_kills
from tests.chaos.havoc import Havoc
from tests.chaos.helper import Helper
from tests.chaos.world import NAMES, ChaosEngine

DRAIN_S = 120.0
CLIENTS_END_S = 45.0
SHOWN = 20  # violations that are printed in full
PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    seed: int
    kills: int = 200
    minutes: float = 10.0  # of havoc at the most
    sessions: int = 16
    rate: float = 80.0  # messages begun in a second, while the engine takes them
    keep: bool = False


@dataclass(slots=True)
class Result:
    """The run's account, and everything around it that is printed."""

    options: Options
    account: Account
    lines: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    directory: str = ""

    def __str__(self) -> str:
        kinds = Counter(violation.what for violation in self.violations)
        lines = [*self.lines, render(self.account), *(f"VIOLATION, {what}: {count}" for what, count in kinds.most_common(SHOWN))]
        lines += [str(violation) for violation in self.violations[:SHOWN]]
        if len(self.violations) > SHOWN:
            lines.append(f"... and {len(self.violations) - SHOWN} more")
        lines.append(f"{len(self.violations)} violations" + (f"; everything is left in {self.directory}" if self.violations else ""))
        return "\n".join(lines)


def run(options: Options, say: Callable[[str], None] = lambda line: None) -> Result:
    """The whole of it; *say* gets a line of progress now and then."""
    with _directory() as directory:
        result = _run(options, directory, say)
        if result.violations or options.keep:
            result.directory = f"{directory}-kept"
            directory.rename(result.directory)
        return result


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory that the engine's unprivileged children can reach; removed, unless it was moved away."""
    path = Path(tempfile.mkdtemp(prefix="engine-chaos-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _run(options: Options, directory: Path, say: Callable[[str], None]) -> Result:
    with Helper("tests.chaos.sink", str(options.seed), *NAMES) as sink:
        ports = dict(zip(NAMES, sink.hear(list[int]), strict=True))
        with ChaosEngine(directory / "engine", ports) as engine:
            havoc = Havoc(engine, options.seed)
            began_s = time.monotonic()
            with Helper("tests.chaos.client", str(options.seed), str(engine.port), str(options.sessions), str(options.rate)) as clients:
                clients.hear(list[int])
                _rage(options, havoc, clients, say)
                seconds = time.monotonic() - began_s
                havoc.wait_until_up(everybody=True)
                sent = _end_of_load(clients)
            sink.tell("calm")
            say("calm: draining")
            spool = engine.directory / "spool"
            in_time = _wait(lambda: drained(spool), DRAIN_S)
            say("drained" if in_time else f"not drained within {DRAIN_S:.0f} s")
            queued, stuck = read_rows(spool)
            attempts = sink.ask("report", list[Attempt])
            status = engine.stop(60)
            checked = engine.run("spool", "check", timeout_s=120)
            records = read_records(engine.directory.glob("acct*.csv"))
            with (engine.directory / "log").open(errors="replace") as lines:
                log = read_log(lines)
    senders = havoc.senders
    kills = [*havoc.kills, *watchdog_kills(log, senders)]
    evidence = Evidence(
        sent=sent, attempts=attempts, kills=kills, outages=[*havoc.outages, *spool_outages(kills, log, senders)],
        records=records.tallies, queued=queued, stuck=stuck,
    )  # fmt: skip
    result = Result(options, settle(evidence))
    result.lines = _words(options, havoc, seconds, records, log, sent)
    result.violations = [*result.account.violations, *_others(havoc, records, log, status, checked.returncode, checked.stdout + checked.stderr)]
    return result


def _rage(options: Options, havoc: Havoc, clients: Helper, say: Callable[[str], None]) -> None:
    """The havoc, with its progress told."""
    began_s = told_s = time.monotonic()
    for kills in havoc.until(options.kills, began_s + options.minutes * 60):
        if time.monotonic() > told_s + PROGRESS_S:
            told_s = time.monotonic()
            begun, acknowledged, _ = clients.ask("count", tuple[int, int, int])
            say(f"{told_s - began_s:.0f} s: {kills} kills, {acknowledged} of {begun} messages acknowledged")


def _end_of_load(clients: Helper) -> list[Sent]:
    """What was sent, once no session has anything under way."""
    clients.tell("stop")
    if not _wait(lambda: clients.ask("count", tuple[int, int, int])[2] == 0, CLIENTS_END_S):
        raise TimeoutError("the clients' sessions do not end")
    sent: list[Sent] = clients.ask("report", list[Sent])
    return sent


def _wait(true: Callable[[], bool], timeout_s: float) -> bool:
    """Whether *true* said so within *timeout_s*."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.25)
    return True


def _words(options: Options, havoc: Havoc, seconds: float, records: Records, log: Log, sent: list[Sent]) -> list[str]:
    """What was done, in words."""
    by_role = Counter(kill.what.partition("/")[0] for kill in havoc.kills)
    return [
        f"seed {options.seed}: {len(havoc.kills)} kills in {seconds:.0f} s ({_list(by_role)}), meant as: {_list(havoc.done)}",
        f"load: {len(sent)} messages begun, {sum(1 for message in sent if message.acknowledged_s)} acknowledged",
        f"records: {_list(records.counts)} in {records.files} files, {len(records.torn)} torn lines",
        f"log: {_list(log.counts) or 'nothing notable'}; ended otherwise than by SIGKILL: {_list(log.ended) or 'nobody'}",
    ]


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _others(havoc: Havoc, records: Records, log: Log, status: int, check_status: int, check_said: str) -> list[Violation]:
    """What is wrong, and is no recipient's."""
    found = [Violation("the start", "refused", said) for said in havoc.refused]
    found += [Violation("accounting", "torn line", line) for line in records.torn]
    found += [Violation("a process", "fault", line) for line in log.faults]
    if status:
        found.append(Violation("the engine", f"stopped with status {status}", ""))
    if check_status:
        found.append(Violation("the spool", f"`engine spool check` says {check_status}", check_said[-3000:]))
    return found


def seed_of_the_day() -> int:
    """A seed that nobody has had yet."""
    return int.from_bytes(os.urandom(3), "big")
