"""Starting and stopping an engine: `engine start`, `stop`."""

from __future__ import annotations

import argparse
import os

from engine.cli.configured import configuration, spool_path
from engine.cli.grammar import Grammar
from engine.control import wait_until_closed
from engine.control.client import NotRunning
from engine.errors import EngineError
from engine.supervisor.spooldir import control_socket
from engine.supervisor.start import Options, start


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    starting = grammar.commands.add_parser(
        "start", parents=[grammar.conf, grammar.state], help="run in the foreground; SIGTERM drains, a second one stops"
    )
    starting.add_argument("--port-offset", metavar="N", type=int, default=0, help="add N to every listening port")
    starting.add_argument(
        "--shadow", action="store_true", help="do all as configured, but deliver to a built-in sink on loopback: nothing is sent to the world"
    )
    starting.set_defaults(run=run_start)
    stopping = grammar.commands.add_parser("stop", parents=[grammar.conf, grammar.state], help="drain a running engine and wait for its end")
    stopping.set_defaults(run=run_stop)


def run_start(arguments: argparse.Namespace) -> int:
    options = Options(
        conf=arguments.conf,
        port_offset=arguments.port_offset,
        state_dir=arguments.state_dir,
        lenient=arguments.lenient,
        shadow=arguments.shadow,
    )
    return start(options)


def run_stop(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    timeout_s = config.server.shutdown_timeout_s + 30
    try:
        ended = wait_until_closed(control_socket(spool_path(config)), "stop", timeout_s)
    except NotRunning:
        print("engine: not running")
        return os.EX_OK
    if not ended:
        raise EngineError(f"the engine has not ended within {timeout_s:g} s: see engine status; asked once more, it ends at once")
    print("engine: stopped")
    return os.EX_OK
