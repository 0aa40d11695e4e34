"""What is compiled is what the sources say: an old build beside a new source would test the wrong code."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from engine.fastpath import COMPILED

ROOT = Path(__file__).resolve().parent.parent
TYPED = sorted(path for path in (ROOT / "engine").rglob("*/*.pxd") if path.stem != "__init__")


@pytest.mark.skipif(not COMPILED, reason="runs on the sources")
@pytest.mark.parametrize("types", TYPED, ids=lambda path: path.stem)
def test_a_typed_module_runs_compiled_and_as_its_source_says(types: Path) -> None:
    module = importlib.import_module(".".join(types.relative_to(ROOT).with_suffix("").parts))
    built = Path(module.__file__ or "")
    assert built.suffix == ".so", f"{module.__name__} is not compiled: make {ROOT.name}/.venv/.built"
    for source in (types, types.with_suffix(".py")):
        assert built.stat().st_mtime >= source.stat().st_mtime, f"{source.name} is newer than its build: `make test` builds again"
