"""`python -m tests.supervisor.driver CONF TIMING`: a real supervisor over the fake roles of `fakes`; TIMING is JSON of Timing's fields."""

from __future__ import annotations

import json
import sys

from engine.config import read
from engine.errors import StartError
from engine.supervisor.configuration import load
from engine.supervisor.slots import Timing
from engine.supervisor.start import MODULES, Options, prepare, say
from engine.supervisor.supervisor import Supervisor


def main(conf: str, timing: str) -> int:
    options = Options(conf=conf)
    snapshot = read(conf)
    try:
        plan = prepare(load(snapshot)[0], snapshot, options, dict.fromkeys(MODULES, "tests.supervisor.fakes"))
    except StartError as error:
        print(f"refused: {error}", file=sys.stderr, flush=True)
        return 78
    plan.timing = Timing(**json.loads(timing))
    return Supervisor(plan, say).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
