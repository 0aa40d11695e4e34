"""The run itself, in a process of its own: `python -m tests.fuzz.fuzzing TARGET FLAGS... DIRECTORY`, flags and directory as libFuzzer has them.

The targets are instrumented too: an oracle that walks over the bytes guides where the engine leaves them to a regular expression.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["engine", "tests.fuzz.targets"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Never returns: libFuzzer ends the process, with a status other than 0 once an input has broken something."""
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: target(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
