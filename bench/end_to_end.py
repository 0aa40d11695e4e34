"""`python -m bench.end_to_end`: a load through a real engine, and through what it is compared with, in one run on one file system.

One line for each on standard output, all figures as JSON in bench/results/.  Exit status 1 if mail was lost, duplicated without a kill, or
not recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import runs
from bench.build import BuildError
from bench.engine_process import ROOT, EngineDown
from bench.load import Load, LoadError
from bench.peer import PeerError
from bench.postfix import POSTFIX
from bench.runs import Figures, Progress

RESULTS = Path(__file__).parent / "results"
ROLES = ("all", "supervisor", "spool", "listener", "delivery", "accounting")
COMPARE_WITH = ("floor", "smtp-source", "postfix")


def _kills(words: Sequence[str]) -> list[str]:
    """`5` is five times all; otherwise roles in order."""
    plan: list[str] = []
    for word in words:
        if word.isdigit():
            plan += ["all"] * int(word)
        elif word.partition("/")[0] in ROLES:
            plan.append(word)
        else:
            raise SystemExit(f"--kills: '{word}' is neither a number nor one of {', '.join(ROLES)}")
    return plan


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.end_to_end", description="A load through a real engine; bench/README.md says how to read it."
    )
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=10_240, help="bytes of each body")
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2, help="of the source")
    parser.add_argument("--recipients", type=int, default=1, help="per message")
    parser.add_argument("--domains", type=int, default=1, help="the recipients are spread over")
    parser.add_argument("--pipeline", action="store_true", help="the source pipelines MAIL, RCPT and DATA")
    parser.add_argument("--per-connection", type=int, default=1, help="messages the source sends over one connection")
    parser.add_argument("--smtp-source", action="store_true", help="inject with Postfix's smtp-source instead of bench/source.c")
    parser.add_argument(
        "--kills", nargs="*", default=[], metavar="K", help="kill -9 while it runs: a number of times all, or roles: " + ", ".join(ROLES)
    )
    parser.add_argument("--slots", type=int, default=0, metavar="N", help="send from N virtual MTAs on 127.0.0.11 and up, one delivery worker each")
    parser.add_argument("--listeners", type=int, default=0, help="listener-workers (0: the engine's own choice)")
    parser.add_argument("--compare", default="", metavar="LIST", help="comma-separated: " + ", ".join(COMPARE_WITH))
    parser.add_argument("--postfix-messages", type=int, default=4_000, help="messages of the Postfix run, which is slower (at most --messages)")
    parser.add_argument("--no-engine", action="store_true", help="run only what --compare names")
    parser.add_argument("--spool-dir", type=Path, default=ROOT / "var" / "bench", help="where spools and queues lie: a real file system")
    parser.add_argument("--deadline", type=int, default=600, help="seconds for one injection")
    parser.add_argument("--keep", action="store_true", help="leave the directory of the run behind")
    return parser.parse_args(words)


def file_system(path: Path) -> str:
    """The type of the file system that holds *path*."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, name
    return kind


@contextmanager
def progress_bar(show: bool) -> Iterator[Progress]:
    """A bar of accepted and delivered mail for each run, where there is a terminal to show it on."""
    if not show:
        yield lambda _name, _accepted, _delivered, _total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    with Bars(TextColumn("{task.description:>28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, accepted: int, delivered: int, total: int) -> None:
            for kind, count in (("accepted", accepted), ("delivered", delivered)):
                label = f"{name} {kind}"
                if label not in tasks:
                    tasks[label] = bars.add_task(label, total=total)
                bars.update(tasks[label], completed=count)

        yield advance


def _milliseconds(figures: dict[str, int]) -> str:
    return f"p50 {figures['p50'] / 1000:.1f} p99 {figures['p99'] / 1000:.1f} ms" if figures else "-"


def line(figures: Figures) -> str:
    """One run on one line."""
    split = ", ".join(f"{role} {used:.0f}" for role, used in figures.cpu_us_by_role.items() if used >= 0.5)
    parts = [
        f"{figures.name}: {figures.accepted:,} x {figures.load.size_bytes / 1024:.0f} KB",
        f"accepted {figures.accepted_per_s:,.0f}/s, delivered {figures.delivered_per_s:,.0f}/s",
        f"CPU {figures.cpu_us_per_message:.0f} us/message ({split})",
        f"accept {_milliseconds(figures.accept_us)}",
        f"accept to delivered {_milliseconds(figures.latency_us)}",
    ]
    if figures.peak_anonymous_bytes:
        parts.append(f"peak anonymous {figures.peak_anonymous_bytes / 1e6:.0f} MB")
    parts.append(f"lost {figures.balance.lost}, duplicate {figures.balance.duplicate}")
    if figures.d_records is not None:
        parts.append(f"d records {figures.d_records:,}")
    if figures.kills:
        parts.append(f"kill -9: {' '.join(figures.kills)}; {figures.balance.unacknowledged} delivered without a 250 seen")
    if figures.errors:
        parts.append("errors " + ", ".join(f"{name}: {count}" for name, count in figures.errors.items()))
    return "; ".join(parts)


def ratios(results: dict[str, Figures]) -> list[str]:
    """How the engine stands to the others of the same run."""
    found: list[str] = []
    subject = results.get("engine")
    if subject is None:
        return found
    for name in ("floor", "smtp-source"):
        if base := results.get(name):
            found.append(f"engine CPU / {base.name} CPU: {subject.cpu_us_per_message / base.cpu_us_per_message:.2f} (target: at most 1.9)")
    if base := results.get("postfix"):
        found.append(
            f"engine / postfix: delivered {subject.delivered_per_s / base.delivered_per_s:.1f} times as many a second (target: at least 12), "
            f"CPU per message 1/{base.cpu_us_per_message / max(subject.cpu_us_per_message, 1e-9):.1f}"
        )
    return found


def failures(figures: Figures) -> list[str]:
    """What must not be, said in words."""
    wrong = []
    if figures.balance.lost:
        wrong.append(f"{figures.name}: {figures.balance.lost} acknowledged recipients never arrived")
    if figures.balance.duplicate and not figures.kills:
        wrong.append(f"{figures.name}: {figures.balance.duplicate} recipients arrived more than once")
    if figures.failed:
        wrong.append(f"{figures.name}: {figures.failed} messages were not accepted: {figures.errors}")
    if figures.accepted < figures.load.messages and not figures.load.seconds and not figures.failed:
        wrong.append(f"{figures.name}: only {figures.accepted} of {figures.load.messages} messages were accepted")
    expected = figures.accepted * figures.load.recipients
    if figures.d_records is not None and not figures.kills and figures.d_records != expected:
        wrong.append(f"{figures.name}: {figures.d_records} d records, {expected} expected")
    if figures.d_records is not None and figures.kills and figures.d_records < expected:
        wrong.append(f"{figures.name}: {figures.d_records} d records, at least {expected} expected")
    return wrong


def _run(name: str, arguments: argparse.Namespace, directory: Path, progress: Progress) -> Figures:
    load = Load(
        messages=arguments.messages,
        size_bytes=arguments.size,
        sessions=arguments.sessions,
        threads=arguments.threads,
        recipients=arguments.recipients,
        domains=arguments.domains,
        pipeline=arguments.pipeline,
        per_connection=arguments.per_connection,
        smtp_source=arguments.smtp_source or name == "smtp-source",
        deadline_s=arguments.deadline,
    )
    work = directory / name
    work.mkdir()
    if name == "engine":
        return runs.engine(
            load,
            work,
            progress,
            kills=_kills(arguments.kills),
            virtual_mtas=arguments.slots,
            delivery_workers=arguments.slots,
            listener_workers=arguments.listeners,
        )
    if name == "postfix":
        return runs.through(POSTFIX, replace(load, messages=min(load.messages, arguments.postfix_messages)), work, progress)
    return runs.floor(load, work, progress)


def _why_not(name: str) -> str | None:
    if name == "postfix":
        return POSTFIX.missing()
    if name == "smtp-source" and shutil.which("smtp-source") is None:
        return "smtp-source is not installed (it comes with Postfix)"
    return None


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = _arguments(words)
    names = [name for name in arguments.compare.split(",") if name]
    if unknown := [name for name in names if name not in COMPARE_WITH]:
        raise SystemExit(f"--compare: {', '.join(unknown)}: not among {', '.join(COMPARE_WITH)}")
    _kills(arguments.kills)
    names = [*names, *([] if arguments.no_engine else ["engine"])]
    arguments.spool_dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=arguments.spool_dir))
    directory.chmod(0o711)  # children of root become other users and have to get here
    results: dict[str, Figures] = {}
    wrong: list[str] = []
    try:
        with progress_bar(sys.stdout.isatty()) as progress:
            for name in names:
                if reason := _why_not(name):
                    print(f"{name}: not run: {reason}")
                    continue
                try:
                    results[name] = _run(name, arguments, directory, progress)
                except (LoadError, PeerError, EngineDown, BuildError) as error:
                    wrong.append(f"{name}: {error}")
                    continue
                print(line(results[name]), flush=True)
                wrong += failures(results[name])
    finally:
        if not arguments.keep:
            shutil.rmtree(directory, ignore_errors=True)
    said = ratios(results)
    print("\n".join([*said, *(f"WRONG: {each}" for each in wrong)]) or "nothing to compare with (--compare floor,postfix)")
    _save(results, said, wrong, arguments.spool_dir)
    return 1 if wrong else 0


def setting(spool_dir: Path) -> dict[str, Any]:
    """Where and when a run was made."""
    models = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "file_system": file_system(spool_dir),
        "load_average": os.getloadavg()[0],
    }


def _save(results: dict[str, Figures], said: list[str], wrong: list[str], spool_dir: Path) -> None:
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"end_to_end-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    target.write_text(
        json.dumps(
            {"setting": setting(spool_dir), "runs": {name: each.as_json() for name, each in results.items()}, "ratios": said, "wrong": wrong},
            indent=1,
            default=list,
        )
    )
    print(f"-> {target.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
