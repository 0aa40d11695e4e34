"""Live many seeds; print the trace of those that fail.

    python -m tests.simulation                      a thousand seeds
    python -m tests.simulation --seconds 60 --workers 2 --first 100000
    python -m tests.simulation --seed 4711          one, with its trace
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter

from tests.simulation.batch import part
from tests.simulation.world import Outcome, live

TRACE_LINES = 200  # of a failure that are printed; all of them with --seed


def _told(outcome: Outcome, whole: bool) -> None:
    lines = outcome.trace if whole else outcome.trace[-TRACE_LINES:]
    print("\n".join(lines))
    print(f"seed {outcome.seed} ({outcome.kind}): {outcome.failure or outcome.account}")
    print(f"trace {outcome.digest}; again: python -m tests.simulation --seed {outcome.seed}")


def _summary(all_of_them: list[Outcome], took_s: float) -> None:
    totals: Counter[str] = Counter()
    for outcome in all_of_them:
        totals["recipients"] += outcome.recipients
        totals["attempts"] += outcome.attempts
        totals["connections"] += outcome.connections
        totals["events"] += outcome.events
        totals["simulated hours"] += int(outcome.simulated_s)
    totals["simulated hours"] //= 3600
    print(f"{len(all_of_them)} seeds in {took_s:.1f} s, {len(all_of_them) / took_s * 60:.0f} a minute: {dict(totals)}")
    slowest: dict[str, int] = {}
    for outcome in all_of_them:
        slowest[outcome.kind] = max(slowest.get(outcome.kind, 0), outcome.late_ms)
    print("latest settlement in the kind part, ms, by kind of world:", slowest)


def main() -> int:
    """The exit status: 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="live this one only, and print its trace")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, help="the first of them; random if not given")
    parser.add_argument("--seconds", type=float, default=600.0, help="stop after so long")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        outcome = live(options.seed)
        _told(outcome, whole=True)
        return int(bool(outcome.failure))
    first = random.randrange(1 << 40) if options.first is None else options.first
    print(f"first seed {first}", flush=True)
    begin_s = time.monotonic()
    parts = [(first + number, first + options.seeds, options.workers, begin_s + options.seconds) for number in range(options.workers)]
    if options.workers == 1:
        lived = part(parts[0])
    else:
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            lived = [outcome for part in pool.map(part, parts) for outcome in part]
    failed = [outcome for outcome in lived if outcome.failure]
    for outcome in failed[:5]:
        _told(outcome, whole=False)
    _summary(lived, time.monotonic() - begin_s)
    print(f"{len(failed)} failed" + (": " + " ".join(str(outcome.seed) for outcome in failed[:50]) if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("TZ", "UTC")
    time.tzset()
    sys.exit(main())
