"""Starting, stopping and asking an engine: `engine start`, `stop`, `status`."""

from __future__ import annotations

import argparse
import os
from typing import Any

import msgspec

from engine.cli.configured import configuration, spool_path
from engine.cli.grammar import Grammar
from engine.cli.printing import duration, print_json, print_table
from engine.control import Status, ask, ask_spool, wait_until_closed
from engine.control.client import NotRunning
from engine.errors import EngineError
from engine.supervisor.spooldir import control_socket, spool_socket
from engine.supervisor.start import Options, start


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    starting = grammar.commands.add_parser(
        "start", parents=[grammar.conf, grammar.state], help="run in the foreground; SIGTERM drains, a second one stops"
    )
    starting.add_argument("--port-offset", metavar="N", type=int, default=0, help="add N to every listening port")
    starting.set_defaults(run=run_start)
    stopping = grammar.commands.add_parser("stop", parents=[grammar.conf, grammar.state], help="drain a running engine and wait for its end")
    stopping.set_defaults(run=run_stop)
    status = grammar.commands.add_parser(
        "status", parents=[grammar.conf, grammar.state, grammar.form], help="what runs, since when, and how much mail waits"
    )
    status.set_defaults(run=run_status)


def run_start(arguments: argparse.Namespace) -> int:
    return start(Options(conf=arguments.conf, port_offset=arguments.port_offset, state_dir=arguments.state_dir, lenient=arguments.lenient))


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


def run_status(arguments: argparse.Namespace) -> int:
    path = spool_path(configuration(arguments))
    status: Status = ask(control_socket(path), "status")
    try:
        counts = ask_spool(spool_socket(path), {"q": "counts"}, timeout_s=3)
    except EngineError as error:
        counts = {"error": str(error)}
    if arguments.json:
        print_json(msgspec.to_builtins(status) | {"counts": counts})
        return os.EX_OK
    state = "stopping" if status.stopping else "ready" if status.ready else "starting"
    print(f"engine {status.version}: {state}, pid {status.pid}, up {duration(status.uptime_s)}, on {', '.join(status.listening) or 'no port'}")
    print(f"spool {status.spool}: {in_words(counts)}")
    rows = [
        [each.name, each.pid or "-", each.state, duration(each.uptime_s), each.restarts, f"{each.heartbeat_age_s:.0f}s", each.smtp_in, each.smtp_out]
        for each in status.children
    ]
    print_table(["role", "pid", "state", "uptime", "restarts", "heartbeat", "in", "out"], rows)
    return os.EX_OK


def in_words(counts: dict[str, Any]) -> str:
    """The spool's counts on one line."""
    if counts.get("error"):
        return str(counts["error"])
    line = f"{counts['messages']} messages, {counts['recipients']} recipients waiting, {counts['outbox']} records to write"
    return f"{line}; refuses mail: {counts['refusing']}" if counts["refusing"] else line
