"""`python -m bench` (`make bench`): engine, peers and floor under the same loads in one run, as one table.

The table goes to standard output (`--json`: the data instead), the data to bench/results/, and after a whole run the table to
docs/performance.md, between its markers.  Exit status 1 if mail was lost, duplicated or not recorded by anybody.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import plan, runs, table
from bench.build import BuildError
from bench.end_to_end import RESULTS, failures, setting
from bench.engine_process import ROOT, EngineDown
from bench.exim import EXIM
from bench.haraka import HARAKA
from bench.load import LoadError
from bench.opensmtpd import OPENSMTPD
from bench.peer import Peer, PeerError
from bench.plan import Row
from bench.postfix import POSTFIX
from bench.processes import ControlGroup
from bench.runs import Figures

PEERS = (POSTFIX, HARAKA, EXIM, OPENSMTPD)
SYSTEMS = ("engine", *(peer.name for peer in PEERS), "floor")
DOCUMENT = ROOT / "docs" / "performance.md"
FAULTS = (LoadError, PeerError, EngineDown, BuildError)


class Show:
    """Where a run stands, on a terminal alone: each finished line, and one bar over all."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True)
        columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._bars = Bars(*columns, console=self._console, transient=True, refresh_per_second=2, disable=not self._console.is_terminal)
        self._task = self._bars.add_task("", total=total)
        self._title = ""

    def __enter__(self) -> Show:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, title: str) -> None:
        """What runs now."""
        self._title = title
        self._bars.update(self._task, description=f"{title}: starting")

    def progress(self, name: str, accepted: int, delivered: int, _total: int) -> None:
        """How far it is."""
        self._bars.update(self._task, description=f"{self._title}: {name}: {accepted:,} accepted, {delivered:,} delivered")

    def done(self, text: str) -> None:
        """It has ended, with this line."""
        self._bars.advance(self._task)
        if self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def record(row: Row, figures: Figures, title: str) -> dict[str, Any]:
    """One line of the table as data; by recipient where the row counts recipients."""
    per = figures.load.recipients if row.by_recipient else 1
    milliseconds = [[times[name] / 1000 for name in ("p50", "p99")] if times else [] for times in (figures.accept_us, figures.latency_us)]
    return {
        "key": row.key,
        "group": row.group,
        "title": title,
        "system": figures.name,
        "accepted_per_s": figures.accepted_per_s * per,
        "delivered_per_s": figures.delivered_per_s / (figures.load.recipients if not row.by_recipient else 1),
        "cpu_us": figures.cpu_us_per_message / per,
        "accept_ms": milliseconds[0],
        "arrival_ms": milliseconds[1],
        "resident_mb": figures.peak_resident_bytes / 1e6,
        "anonymous_mb": figures.peak_anonymous_bytes / 1e6,
        "messages": figures.accepted,
        "connections": figures.connections,
        "source_ips": figures.source_ips,
        "seconds": figures.seconds,
        "cpu_us_by_role": {role: used / per for role, used in figures.cpu_us_by_role.items()},
        "lost": figures.balance.lost,
        "duplicate": figures.balance.duplicate,
        "rate": figures.load.rate,
    }


class Bench:
    """One run: rows in order, each by every system, on one file system."""

    def __init__(self, rows: Sequence[Row], systems: Sequence[str], directory: Path, show: Show) -> None:
        self._rows, self._systems, self._directory, self._show = rows, systems, directory, show
        self.records: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.missing = {peer.name: reason for peer in PEERS if (reason := peer.missing())}

    def run(self) -> None:
        """All of it; what fails is said in `wrong` and does not end the rest."""
        for row in self._rows:
            for system in self._systems if row.group not in plan.FLAT else ("engine",):
                self._show.begin(row.key)
                self._one(row, system)

    def _one(self, row: Row, system: str) -> None:
        if reason := self.missing.get(system):
            self._absent(row, system, reason)
            return
        work, before = self._directory / f"{row.key}-{system}", len(self.wrong)
        work.mkdir()
        work.chmod(0o711)
        try:
            for title, figures in self._figures(row, system, work):
                self.records.append(record(row, figures, title))
                self.wrong += [f"{row.key}: {each}" for each in failures(figures)]
                if row.virtual_mtas and figures.source_ips != row.virtual_mtas:
                    self.wrong.append(f"{row.key}: {figures.source_ips} source IPs were used, not {row.virtual_mtas}")
                self._show.done(brief(self.records[-1]))
        except FAULTS as error:
            self.wrong.append(f"{row.key}, {system}: {error}")
            self._absent(row, system, f"failed: {str(error).splitlines()[0]}")
        if len(self.wrong) == before:
            shutil.rmtree(work, ignore_errors=True)

    def _absent(self, row: Row, system: str, reason: str) -> None:
        self.records.append({"key": row.key, "group": row.group, "title": row.title, "system": system, "missing": reason})
        self._show.done(f"{row.key}, {system}: {reason}")

    def _figures(self, row: Row, system: str, work: Path) -> Iterator[tuple[str, Figures]]:
        load, progress = row.load, self._show.progress
        if row.group == plan.HALF:
            load = replace(load, rate=self._half_rate(system))
        if row.queued:
            for count, figures in runs.engine_with_queued(load, work, progress, row.queued):
                yield row.title.format(count), figures
        elif system == "engine":
            known = row.group == plan.DOMAINS
            yield (
                row.title,
                runs.engine(load, work, progress, virtual_mtas=row.virtual_mtas, delivery_workers=row.delivery_workers, known_domains=known),
            )
        elif system == "floor":
            yield row.title, runs.floor(load, work, progress)
        else:
            yield row.title, runs.through(_peer(system), load, work, progress)

    def _half_rate(self, system: str) -> int:
        base: list[float] = [
            each["delivered_per_s"] for each in self.records if each["key"] == plan.BASE and each["system"] == system and "cpu_us" in each
        ]
        if not base:
            raise LoadError(f"{plan.BASE} has no figure to take half of")
        return max(1, round(base[0] / 2))


def _peer(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


def brief(line: dict[str, Any]) -> str:
    """A finished line of the table, for the terminal."""
    return (
        f"{line['title']}: {line['system']}: accepted {line['accepted_per_s']:,.0f}/s, delivered {line['delivered_per_s']:,.0f}/s, "
        f"CPU {line['cpu_us']:,.1f} us, {line['messages']:,} messages"
    )


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Engine, peers and floor in one table; bench/README.md says how to read it.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rows: the shape in three minutes")
    parser.add_argument("--rows", default="", metavar="LIST", help="comma-separated groups or key patterns: " + ", ".join(r.key for r in plan.plan()))
    parser.add_argument("--systems", default=",".join(SYSTEMS), metavar="LIST", help="comma-separated (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the data instead of the table")
    parser.add_argument("--render", type=Path, metavar="FILE", help="run nothing: the table of a saved run")
    parser.add_argument("--document", action="store_true", help="write the table into docs/performance.md also when the run was not the whole one")
    parser.add_argument("--spool-dir", type=Path, default=ROOT / "var" / "bench", help="where spools and queues lie: a real file system")
    return parser.parse_args(words)


def _selected(arguments: argparse.Namespace) -> tuple[list[Row], list[str]]:
    systems = [name for name in arguments.systems.split(",") if name]
    if unknown := [name for name in systems if name not in SYSTEMS]:
        raise SystemExit(f"--systems: {', '.join(unknown)}: not among {', '.join(SYSTEMS)}")
    try:
        rows = plan.choose(plan.plan(quick=arguments.quick), [word for word in arguments.rows.split(",") if word])
    except ValueError as error:
        raise SystemExit(f"--rows: {error}") from None
    return rows, [name for name in SYSTEMS if name in systems]  # the floor comes last


@contextmanager
def _directory(parent: Path) -> Iterator[Path]:
    """A place to run in, gone when it was left empty or in a hurry: runs that went wrong leave their files there."""
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="table-", dir=parent))
    directory.chmod(0o711)  # children of root become other users and have to get here
    try:
        yield directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    if not any(directory.iterdir()):
        directory.rmdir()


def measure(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """The run as data."""
    rows, systems = _selected(arguments)
    before = os.getloadavg()[0]
    total = sum(len(row.queued) if row.queued else 1 if row.group in plan.FLAT else len(systems) for row in rows)
    with _directory(arguments.spool_dir) as directory, Show(total) as show:
        bench = Bench(rows, systems, directory, show)
        began = time.monotonic()
        bench.run()
        seconds = time.monotonic() - began
        if bench.wrong:
            show.done(f"what went wrong is kept in {directory}")
    versions: dict[str, Callable[[], str]] = {
        "engine": _engine_version,
        **{peer.name: peer.version for peer in PEERS if peer.name not in bench.missing},
    }
    return {
        "command": command,
        "setting": {**setting(arguments.spool_dir), "load_average_before": before, "seconds": round(seconds)},
        "versions": {name: version() for name, version in versions.items() if name in systems},
        "missing": bench.missing,
        "clock": "control groups" if _control_groups() else "/proc, in ticks; without what Exim's deliveries take",
        "rows": bench.records,
        "wrong": bench.wrong,
    }


def _control_groups() -> bool:
    if group := ControlGroup.make(f"bench-{os.getpid()}-probe"):
        group.close()
    return group is not None


def _engine_version() -> str:
    import engine

    return engine.__version__


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    given = list(sys.argv[1:] if words is None else words)
    arguments = _arguments(given)
    if arguments.render:
        result = json.loads(arguments.render.read_text())
    else:
        result = measure(arguments, " ".join(["make bench", *([f'FLAGS="{" ".join(given)}"'] if given else [])]))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"table-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json").write_text(json.dumps(result, indent=1))
    block = table.render(result)
    whole = not (arguments.render or arguments.quick or arguments.rows) and arguments.systems == ",".join(SYSTEMS)
    if whole or arguments.document:
        DOCUMENT.write_text(table.insert(DOCUMENT.read_text(), block))
    print(json.dumps(result, indent=1) if arguments.json else block, end="\n" if arguments.json else "")
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
