"""Every state that a power cut could leave of a spool: `python -m tests.crash_states [--states N] [--again M] [--seed S]`.

A spool's life is recorded call by call (workload.py, recorder.py).  Between any two calls the disk may be in many states (disk.py says which); those
at the edges are all tried, and others at random, up to N.  Each is opened by the real recovery and has to hold exactly the tables of the last
commit that was made, everything that was answered up to then (history.py), whole bodies and no file too many (engine.spool.check), and to work
on (trial.py).  Then the same for second lives, on what power cuts and kills left: recovery may be cut short too.  Exit status 1 if a state is
not as it should be; it is kept then.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tests.crash_states.lives import Result, explore, total
from tests.crash_states.trial import scratch


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash_states", description="Try the states that a power cut could leave of a spool.")
    parser.add_argument("--states", type=int, default=60_000, help="how many to try (default 60000: all edges and some others)")
    parser.add_argument("--seed", default="", help="of the workload and of the choice of states; printed if none is given")
    parser.add_argument("--keep", type=Path, default=Path("var/crash-states"), help="where states that fail are kept")
    parser.add_argument("--again", type=int, default=20, help="second lives after power cuts, and as many after kills (default 20)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that try them (default 2)")
    parser.add_argument("--omit", default="", help="as if paths like this one ('spool/bodies/*.seg') were never synced: states have to fail then")
    arguments = parser.parse_args()
    seed = arguments.seed or secrets.token_hex(4)
    print(f"seed {seed}: python -m tests.crash_states --states {arguments.states} --again {arguments.again} --seed {seed}", flush=True)
    results: list[Result] = []
    try:
        for what, result in explore(seed, arguments.states, again=arguments.again, omit=arguments.omit, keep=arguments.keep, jobs=arguments.jobs):
            print(f"{what}: {result}", flush=True)
            for failure in result.failures:
                print(failure, flush=True)
            results.append(result)
    except BrokenProcessPool:  # LMDB maps its file: what it believes of one that is not whole may end the process
        print(f"a state killed the process that tried it: it is a crash-state-* in {scratch() or tempfile.gettempdir()}")
        return 1
    print(f"{len(results)} lives: {total(results)}")
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
