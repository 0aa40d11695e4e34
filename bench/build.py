"""The compiled load pair, made on demand: `binary("source")`, `binary("sink")`; `python -m bench.build` makes both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("source", "sink")


class BuildError(Exception):
    """No C compiler, or it refused; the text says which."""


def binary(name: str) -> Path:
    """Path of the compiled program, compiled first if it is missing or older than its source; BuildError."""
    source, header, target = HERE / f"{name}.c", HERE / "load.h", HERE / "bin" / name
    newest = max(source.stat().st_mtime, header.stat().st_mtime)
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise BuildError("no C compiler found: install gcc or clang, or set CC")
    target.parent.mkdir(exist_ok=True)
    fresh = target.with_suffix(f".{os.getpid()}")  # renamed when whole: two builds at once do not meet
    command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-pthread", "-o", str(fresh), str(source)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if made.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{made.stderr}")
    fresh.replace(target)
    return target


if __name__ == "__main__":
    for each in NAMES:
        sys.stdout.write(f"{binary(each)}\n")
