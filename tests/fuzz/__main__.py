"""`python -m tests.fuzz TARGET... --seconds N` (or `all`): fuzz each target for N seconds, keep what covers more, print a table.

Status 1 if anything broke: its traceback and the file with the input are named, nothing else stops for it.  The sources are what is fuzzed
(ENGINE_FASTPATH=off), since compiled modules give no coverage.  `--observe` prints what every target says to its corpus, as JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.corpus import keep, load, observe
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).parent / "found"
MAX_LENGTHS = {"client": 2000, "config": 3000, "server": 600}
SLOW_S = 10  # for one input, instrumented
GRACE_S = 60


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}, or all (all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--observe", action="store_true", help="print the digests of what is said to the corpus")
    options = parser.parse_args()
    if unknown := set(options.targets) - {*TARGETS, "all"}:
        parser.error(f"no such target: {', '.join(unknown)}")
    if options.observe:
        json.dump({target: observe(target) for target in TARGETS}, sys.stdout)
        return 0
    if os.environ.get("ENGINE_FASTPATH") != "off":
        os.execve(sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]], {**os.environ, "ENGINE_FASTPATH": "off"})
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("coverage-guided fuzzing needs atheris: pip install -e '.[fuzz]'\n")
        return 2
    wanted = list(TARGETS) if not options.targets or "all" in options.targets else options.targets
    sys.stdout.write(f"{'target':10} {'executions':>11} {'seconds':>8} {'per second':>10} {'files':>6} {'bytes':>7}  broke\n")
    return max([_fuzz(target, options.seconds) for target in wanted])


def _fuzz(target: str, seconds: int) -> int:
    """Fuzz one target and print its row; 1 if it broke."""
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        work = Path(name)
        for number, data in enumerate([*load(target).values(), *seeds(target)]):
            (work / f"seed-{number}").write_bytes(data)
        flags = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTHS.get(target, 1000)}", f"-timeout={SLOW_S}", "-print_final_stats=1"]
        started = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.fuzzing", target, *flags, f"-artifact_prefix={FOUND}/{target}-", str(work)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + GRACE_S, check=False,
        )  # fmt: skip
        took = time.monotonic() - started
        said = ran.stdout.decode("utf-8", "replace")
        executed = re.search(r"stat::number_of_executed_units: *(\d+)", said)
        runs = int(executed[1]) if executed else 0
        files, size = keep(target, [path.read_bytes() for path in work.iterdir()])
    broke = re.findall(r"Test unit written to (\S+)", said)
    row = f"{target:10} {runs:11,} {took:8.0f} {runs / max(took, 1):10,.0f} {files:6} {size:7,}"
    sys.stdout.write(f"{row}  {' '.join(broke) or ('-' if not ran.returncode else 'ended early')}\n")
    if ran.returncode:
        sys.stderr.write(said[said.find(" === Uncaught Python exception") :][:4000] + "\n")
    sys.stdout.flush()
    return min(1, ran.returncode)


if __name__ == "__main__":
    sys.exit(main())
