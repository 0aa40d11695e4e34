"""`python -m tests.system.impatient CONF TIMING`: a real engine whose supervisor has other patience; TIMING is JSON of Timing's fields."""

from __future__ import annotations

import json
import sys

from engine.config import read
from engine.supervisor.configuration import load
from engine.supervisor.slots import Timing
from engine.supervisor.start import Options, prepare, say
from engine.supervisor.supervisor import Supervisor


def main(conf: str, timing: str) -> int:
    snapshot = read(conf)
    plan = prepare(load(snapshot)[0], snapshot, Options(conf=conf))
    plan.timing = Timing(**json.loads(timing))
    return Supervisor(plan, say).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
