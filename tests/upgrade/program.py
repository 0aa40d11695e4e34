"""Programs to upgrade to: this tree once more under another version, or broken on purpose."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.system.engine import Engine, eventually

PACKAGE = Path(__file__).resolve().parents[2] / "engine"
PROTOCOL = ("process.py", ("SPOOL_PROTOCOL = 1", "SPOOL_PROTOCOL = 2"))  # a change: workers and spool process speak otherwise
LEFT_OUT = {".c", ".html", ".pyx", ".pxd", ".pyi"}


class Program:
    """What is installed at *path*, a link that `install` moves, as one that installs releases side by side does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count(1)

    def install(self, version: str, changes: Mapping[str, tuple[str, str]] = {}) -> None:
        """The tree of today, calling itself *version*, with each of *changes*: a file below engine/ -> (what stands there, what shall)."""
        release = self.path.parent / f"release-{next(self._numbers)}"
        for folder, _, names in os.walk(PACKAGE):
            here = release / "engine" / Path(folder).relative_to(PACKAGE)
            here.mkdir(parents=True)
            for name in names:
                if Path(name).suffix not in LEFT_OUT:
                    (here / name).symlink_to(Path(folder) / name)
        for name, (old, new) in {"__init__.py": (_version(), f'__version__ = "{version}"'), **changes}.items():
            text = (PACKAGE / name).read_text()
            assert old in text, f"{name} does not say {old!r}"
            (release / "engine" / name).unlink()
            (release / "engine" / name).write_text(text.replace(old, new))
        link = self.path.with_suffix(".new")
        link.symlink_to(release.name)
        link.replace(self.path)


def _version() -> str:
    return next(line for line in (PACKAGE / "__init__.py").read_text().splitlines() if line.startswith("__version__"))


class UpgradableEngine(Engine):
    """An Engine that runs what is installed in `program`, version 1.0 at first."""

    def __init__(self, directory: Path, conf_text: str = "") -> None:
        super().__init__(directory, conf_text)
        self.program = Program(self.directory / "program")
        self.program.install("1.0")

    def _environment(self) -> dict[str, str]:
        paths = [str(self.program.path), *filter(None, [super()._environment()["PYTHONPATH"]])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def look(self) -> dict[str, Any]:
        """What `engine status --json` says; nothing known while nobody answers."""
        told: dict[str, Any] = json.loads(self.run("status", "--json").stdout or '{"ready": false, "reloading": true}')
        return told

    def wait_until_ready(self) -> None:
        """Return once every process works."""
        eventually(lambda: self.look()["ready"], "every process works")

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command line, and wait for nothing."""
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(self.command(*words, "-c", str(self.conf)), env=self._environment(), cwd=self.directory, **quiet)
