"""The table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import tests.faults

TESTS = Path(__file__).resolve().parent.parent


def test_every_test_of_the_table_exists() -> None:
    rows = [line[32:].partition(";")[0] for line in (tests.faults.__doc__ or "").splitlines() if " " in line and re.match(r".{31} \S", line)]
    rows = [row for row in rows if re.match(r"(\w+/)?test_\w+", row)]
    assert len(rows) == 28
    for row in rows:
        for module, names in re.findall(r"((?:\w+/)?test_\w+)(?:: ([\w*, ]+?))?(?=$|, \w+/| and|, test_)", row):
            path = TESTS / (module if "/" in module else f"faults/{module}")
            file = path.with_suffix(".py") if path.with_suffix(".py").exists() else TESTS / f"{module}.py"
            text = file.read_text()
            for name in filter(None, names.split(", ")):
                assert re.search(rf"def test_{name.removesuffix('*')}", text), f"{file} has no test_{name}"
