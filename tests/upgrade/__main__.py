"""`python -m tests.upgrade [--seed N] [--upgrades 100] [--seconds 1200]`: upgrades under load; the seed is printed, and makes the same run again."""

from __future__ import annotations

import argparse
import random
import sys

from tests.upgrade.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--upgrades", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    report = run(arguments.seed, arguments.upgrades, arguments.clients, seconds=arguments.seconds)
    print(report)
    for line in report.wrong:
        print(f"WRONG: {line}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
