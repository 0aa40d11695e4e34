"""The configuration as a start uses it: read once by the supervisor, built again by each child from the same bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from engine.config import Config, Problem, Snapshot, build
from engine.errors import StartError


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says about a start."""

    conf: str
    port_offset: int = 0
    state_dir: str = ""  # absolute, or "" for the configuration's own paths
    lenient: bool = False  # as in Snapshot; children inherit it with the text
    shadow: bool = False  # every connection out goes to our own sink
    sink_port: int = 0  # of that sink: chosen by the kernel at the start, the same through every reload


def load(snapshot: Snapshot, state_dir: str = "") -> tuple[Config, list[Problem]]:
    """The configuration in *snapshot*, and what there is to say about it; StartError lists its errors.

    Its state files lie below *state_dir*, if that is given; host-name is this machine's name where the configuration gives none.
    """
    loaded = build(snapshot)
    if loaded.config is None:
        raise StartError("the configuration has errors:\n" + "\n".join(str(problem) for problem in loaded.problems))
    config = loaded.config
    if not config.server.host_name:
        config = replace(config, server=replace(config.server, host_name=(os.uname().nodename,)))
    return relocate(config, state_dir), list(loaded.problems)


def decode(data: bytes, state_dir: str = "") -> Config:
    """What a child makes of the bytes that the supervisor read."""
    return load(Snapshot.decode(data), state_dir)[0]


def relocate(config: Config, state_dir: str) -> Config:
    """*config* with spool, log-file and acct-files below *state_dir*, so that one configuration also runs without privilege."""
    if not state_dir:
        return config

    def below(path: str) -> str:
        return os.path.join(state_dir, path.lstrip("/"))

    return replace(
        config,
        server=replace(config.server, log_file=below(config.server.log_file)),
        spools=tuple(replace(spool, path=below(spool.path)) for spool in config.spools),
        acct_files=tuple(replace(acct, path=below(acct.path), move_to=acct.move_to and below(acct.move_to)) for acct in config.acct_files),
    )
