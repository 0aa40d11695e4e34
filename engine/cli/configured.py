"""The configuration that a command names, and what it says about where the engine is."""

from __future__ import annotations

import argparse
import os

from engine.config import Config, read
from engine.errors import StartError
from engine.supervisor.configuration import load
from engine.supervisor.spooldir import control_socket


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that the command names."""
    return load(read(arguments.conf, lenient=arguments.lenient), arguments.state_dir)[0]


def spool_path(config: Config) -> str:
    """The spool in which the engine of *config* keeps its sockets: of several that accept mail the one that was the first when it started."""
    if not config.spools:
        raise StartError("the configuration has no <spool>")
    accepting = [spool.path for spool in config.accepting_spools]
    if len(accepting) < 2:
        return config.spool.path
    return next((path for path in accepting if os.path.exists(control_socket(path))), accepting[0])
