"""`python -m tests.chaos`: kill, stop, lie, then account for every recipient; exit status 1 if a promise is broken."""

from __future__ import annotations

import argparse
import sys
import time

from tests.chaos.run import Options, run, seed_of_the_day


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kills under load, then an account of every recipient.")
    parser.add_argument("--seed", type=int, default=None, help="what happens is drawn from it; printed")
    parser.add_argument("--kills", type=int, default=200, help="stop after so many (200)")
    parser.add_argument("--minutes", type=float, default=10.0, help="... or after so long (10)")
    parser.add_argument("--sessions", type=int, default=16, help="of the load (16)")
    parser.add_argument("--rate", type=float, default=80.0, help="messages a second at the most (80)")
    parser.add_argument("--keep", action="store_true", help="leave everything there, whatever comes of it")
    words = parser.parse_args()
    options = Options(
        seed=seed_of_the_day() if words.seed is None else words.seed, kills=words.kills, minutes=words.minutes, sessions=words.sessions,
        rate=words.rate, keep=words.keep,
    )  # fmt: skip
    began_s = time.monotonic()
    print(f"seed {options.seed}, {options.kills} kills or {options.minutes:g} minutes", flush=True)
    result = run(options, lambda line: print(f"[{time.monotonic() - began_s:4.0f} s] {line}", flush=True))
    print(result)
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
