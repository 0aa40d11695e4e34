"""Haraka from a directory of its own: the one that `python -m bench.fetch` installed there with npm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence

from bench.peer import CONCURRENCY, FETCHED, PEERS, Daemon, Peer, fill

PACKAGE = FETCHED / "haraka" / "node_modules" / "Haraka"


def missing() -> str | None:
    """Why no Haraka can run here, or None if one can."""
    if shutil.which("node") is None:
        return "not installed (it needs node and npm)"
    if not (PACKAGE / "bin" / "haraka").exists():
        return "not installed (python -m bench.fetch haraka)"
    return None


def version() -> str:
    """Such as "3.1.1"."""
    found: str = json.loads((PACKAGE / "package.json").read_text())["version"]
    return found


class Haraka(Daemon):
    """`with Haraka(directory, relay_port) as haraka: haraka.port`."""

    def configure(self) -> Sequence[str]:
        """Its config and plugins directories."""
        nodes = os.cpu_count() or 1
        values = {"port": self.port, "relay_port": self.relay_port, "nodes": nodes, "concurrency": max(1, CONCURRENCY // nodes)}
        source = PEERS / "haraka"
        for path in source.glob("*/*"):
            fill(path, self.directory / path.relative_to(source), values)
        (self.directory / "queue").mkdir()
        return ["node", str(PACKAGE / "bin" / "haraka"), "-c", str(self.directory)]


HARAKA = Peer("haraka", missing, version, Haraka)
