"""`python -m tests.hostile [ATTACK...]`: every attack against an engine of its own, and the table; status 1 if a bound was broken."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from bench.load import LoadError
from tests.hostile.measuring import CASES, P99_MS, RATE, Case, Row, room, running

CONNECTIONS_BESIDE = 100  # the other client's, and some air
HOSTS = 150


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(case.attack.__name__ for case in CASES))
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the other client sends during each attack (10)")
    parser.add_argument("--connections", type=int, default=10_000, help="of the idle attack (10,000)")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.attacks or case.attack.__name__ in options.attacks]
    if len(cases) < len(options.attacks) or (options.attacks and not cases):
        parser.error("no such attack")
    promise = f"p99 from the final dot to 250 is under {P99_MS} ms"
    sys.stdout.write(f"Another client sends {RATE} messages a second for {options.seconds:.0f} s during each attack: {promise}.\n\n{Row.HEAD}\n")
    bad = 0
    for case in cases:
        bad += not _row(case, options.seconds, min(case.count, options.connections))
    return min(1, bad)


def _row(case: Case, seconds: float, wanted: int) -> bool:
    """Print the row of *case*; whether nothing broke."""
    count = room(wanted)
    with tempfile.TemporaryDirectory(prefix="engine-hostile-") as name:
        if os.geteuid() == 0:
            Path(name).chmod(0o711)
        try:
            with running(Path(name), max(count + CONNECTIONS_BESIDE, 500), HOSTS) as ground:
                row = ground.measure([Case(case.attack, count, case.kb_each)], seconds)
        except (AssertionError, LoadError) as error:
            sys.stdout.write(f"{case.name:22} {error}\n")
            return False
    sys.stdout.write(f"{row}\n")
    if count < wanted:
        sys.stdout.write(f"    the limit on open files leaves {count:,} connections, not {wanted:,}\n")
    for what in row.broken():
        sys.stdout.write(f"    BROKEN: {what}\n")
    sys.stdout.flush()
    return not row.broken()


if __name__ == "__main__":
    sys.exit(main())
