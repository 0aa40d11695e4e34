"""Changing a running engine's configuration: `engine reload`."""

from __future__ import annotations

import argparse
import os
import sys
import time

import msgspec

from engine.cli.configured import configuration, spool_path
from engine.cli.grammar import Grammar
from engine.cli.printing import print_json
from engine.control import Reloaded, Status, ask
from engine.errors import EngineError
from engine.supervisor.spooldir import control_socket

READING_S = 60.0  # a large configuration takes its time
LOOK_S = 0.1


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    reloading = grammar.commands.add_parser(
        "reload",
        parents=[grammar.conf, grammar.state, grammar.form],
        help="apply a changed configuration while mail flows; exit status 78, and nothing changes, if something is wrong with it",
    )
    reloading.add_argument("--diff", action="store_true", help="only list what would change")
    reloading.add_argument("--no-wait", action="store_true", help="do not wait until every process of the old configuration has drained")
    reloading.set_defaults(run=run_reload)


def run_reload(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)  # one that cannot be read is refused here already, in the words of check-config
    path = control_socket(spool_path(config))
    answer: Reloaded = ask(path, "diff" if arguments.diff else "reload", READING_S)
    if answer.conf != main_file(arguments.conf):
        print(f"engine: the running engine was started with {answer.conf}, and has read that", file=sys.stderr)
    if arguments.json:
        print_json(msgspec.to_builtins(answer))
    else:
        show(answer, arguments.diff)
    if not answer.good:
        return os.EX_CONFIG
    if answer.generation and not arguments.no_wait:
        wait(path, answer.generation, config.server.shutdown_timeout_s + READING_S)
        if not arguments.json:
            print("engine: reloaded")
    return os.EX_OK


def main_file(conf: str) -> str:
    """How a running engine names the configuration *conf*."""
    return os.path.abspath(conf)


def show(answer: Reloaded, only_look: bool) -> None:
    """The answer for people: what changes goes to standard output, what is wrong to standard error."""
    if not answer.good:
        for problem in answer.problems:
            print(problem, file=sys.stderr)
        print("engine: refused; the running configuration has not changed", file=sys.stderr)
        return
    for change in answer.changes:
        print(change)
    if answer.more:
        print(f"and {answer.more} changes more")
    if not answer.changes:
        print("engine: the configuration on disk says what is in force")
    elif not only_look:
        print(f"engine: starting {', '.join(answer.starting) or 'no process'}; draining {', '.join(answer.stopping) or 'none'}")


def wait(path: str, generation: int, timeout_s: float) -> None:
    """Return once *generation*, or a later one, is all that runs; EngineError at the deadline."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        status: Status = ask(path, "status")
        if status.generation >= generation and not status.reloading:
            return
        if time.monotonic() > deadline_s:
            waiting = ", ".join(f"{child.name} {child.state}" for child in status.children if child.state != "working")
            raise EngineError(f"the new configuration is in force, but within {timeout_s:g} s not all processes have followed: {waiting}")
        time.sleep(LOOK_S)
