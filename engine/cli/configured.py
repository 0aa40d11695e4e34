"""The configuration that a command names, and what it says about where the engine is."""

from __future__ import annotations

import argparse

from engine.config import Config, read
from engine.errors import StartError
from engine.supervisor.configuration import load


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that the command names."""
    return load(read(arguments.conf, lenient=arguments.lenient), arguments.state_dir)[0]


def spool_path(config: Config) -> str:
    """Where the engine of *config* keeps its sockets."""
    if not config.spools:
        raise StartError("the configuration has no <spool>")
    return config.spool.path
