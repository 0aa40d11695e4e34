"""The configuration's text: whatever it says, the answer is a list of problems, soon."""

from __future__ import annotations

import time

from engine.config import Snapshot, build, describe, from_text

SECONDS = 1.0  # of CPU, for a text of a few KB, instrumented or not
INCLUDED = "<domain *>\nbounce-after 4d12h\n</domain>\n"


def config(data: bytes) -> object:
    """*data* as a file, which may include itself and `more.conf`."""
    started = time.thread_time()
    snapshot = from_text(data, **{"more.conf": INCLUDED})
    loaded = build(snapshot)
    shown = describe(loaded.problems)
    took = time.thread_time() - started
    assert took < SECONDS, f"took {took:.1f} s"
    assert (loaded.config is None) == any(problem.severity == "error" for problem in loaded.problems)
    for problem in loaded.problems:
        assert problem.line >= 1 and problem.column >= 1
        assert problem.text and problem.text.isprintable(), "one line, and nothing that a terminal would obey"
    if loaded.config is not None:
        loaded.config.domain("aol.com", "m1")
        loaded.config.client("192.0.2.1", "{in}")
        assert {name for slot in loaded.config.slots(3) for name in slot.virtual_mtas} == set(loaded.config.virtual_mtas)
    assert build(Snapshot.decode(snapshot.encode())).problems == loaded.problems, "children read what the supervisor read"
    return shown
