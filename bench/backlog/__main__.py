"""The command: `python -m bench.backlog`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.backlog import PARTS, run
from bench.backlog.stage import Report, Scale
from bench.end_to_end import RESULTS, file_system
from bench.engine_process import ROOT
from bench.load import LoadError


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description="Large backlogs; bench/README.md says how to read it.")
    scale = Scale()
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: " + ", ".join(PARTS))
    parser.add_argument("--messages", type=int, default=scale.messages, help="of part deferred")
    parser.add_argument("--due", type=int, default=scale.due, help="recipients of part due")
    parser.add_argument("--due-domains", default=",".join(map(str, scale.due_domains)), help="over how many domains they are spread, one run each")
    parser.add_argument("--expired", type=int, default=scale.expired, help="recipients of part expired")
    parser.add_argument("--domains", type=int, default=scale.domains, help="destinations of parts domains and dead")
    parser.add_argument("--per-domain", type=int, default=scale.per_domain, help="messages for each in part domains")
    parser.add_argument("--size", type=int, default=scale.size_bytes, help="bytes of each body")
    parser.add_argument("--retry", type=int, default=scale.retry_s, help="seconds, for hosts and recipients alike")
    parser.add_argument("--bounce", type=int, default=scale.bounce_s, help="seconds to bounce-after in part expired: longer than its injection takes")
    parser.add_argument("--burst", action="store_true", help="part expired: the engine is down while bounce-after passes, so that all expire at once")
    parser.add_argument("--watch", type=int, default=scale.watch_s, help="seconds over which CPU and delay are measured")
    parser.add_argument("--deadline", type=int, default=scale.deadline_s, help="seconds for one injection or release")
    parser.add_argument("--spool-dir", type=Path, default=ROOT / "var" / "bench", help="where spools lie: a real file system")
    parser.add_argument("--keep", action="store_true", help="leave the directory of the run behind")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    given = _arguments(words)
    parts = given.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"--parts: {', '.join(unknown)}: not among {', '.join(PARTS)}")
    scale = Scale(
        messages=given.messages, expired=given.expired, due=given.due, due_domains=tuple(map(int, given.due_domains.split(","))),
        domains=given.domains, per_domain=given.per_domain, size_bytes=given.size,
        retry_s=given.retry, bounce_s=given.bounce, burst=given.burst, watch_s=given.watch, deadline_s=given.deadline,
    )  # fmt: skip
    given.spool_dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="backlog-", dir=given.spool_dir))
    directory.chmod(0o711)  # children of root become other users and have to get here
    reports: dict[str, Report] = {}
    try:
        for part in parts:
            print(f"--- {part}", flush=True)
            report = reports[part] = Report()
            began_s = time.monotonic()
            try:
                run(part, scale, directory, report)
            except LoadError as error:
                report.expect(False, str(error))
            report.add("part", time.monotonic() - began_s, f"{time.monotonic() - began_s:.0f} s in all")
    finally:
        if not given.keep:
            shutil.rmtree(directory, ignore_errors=True)
    _save(reports, given)
    return 1 if any(report.wrong for report in reports.values()) else 0


def _save(reports: dict[str, Report], given: argparse.Namespace) -> None:
    RESULTS.mkdir(exist_ok=True)
    setting = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "file_system": file_system(given.spool_dir),
        "load_average": os.getloadavg()[0],
        "arguments": {name: str(value) for name, value in vars(given).items()},
    }
    target = RESULTS / f"backlog-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    parts = {part: {"figures": report.figures, "wrong": report.wrong} for part, report in reports.items()}
    target.write_text(json.dumps({"setting": setting, "parts": parts}, indent=1))
    print(f"-> {target.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
