"""A new version in a running engine's place: `engine upgrade`."""

from __future__ import annotations

import argparse
import os
import sys
import time

import msgspec

from engine.cli.configured import configuration, spool_path
from engine.cli.grammar import Grammar
from engine.cli.printing import print_json
from engine.control import Status, Upgrade, ask
from engine.control.client import HungUp
from engine.errors import EngineError
from engine.supervisor.slots import Timing
from engine.supervisor.spooldir import control_socket

LOOK_S = 0.1
SILENCE_S = 10.0  # that a supervisor may take to become another program
STAGES = 6  # roles that may each take shutdown-timeout to drain
STARTING_S = 60.0


def add(grammar: Grammar) -> None:
    """Add this command to *grammar*."""
    upgrading = grammar.commands.add_parser(
        "upgrade",
        parents=[grammar.conf, grammar.state, grammar.form],
        help="have the newly installed program take over while mail flows; exit status 78, and everything runs on, if it could not",
    )
    upgrading.add_argument("--try", dest="only_try", action="store_true", help="only ask the installed program whether it could")
    upgrading.add_argument("--no-wait", action="store_true", help="do not wait until every process of the old program has drained")
    upgrading.set_defaults(run=run_upgrade)


def run_upgrade(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    path = control_socket(spool_path(config))
    asked: Upgrade = ask(path, "try-upgrade" if arguments.only_try else "upgrade")
    until_s = time.monotonic() + Timing().trial_s + STAGES * config.server.shutdown_timeout_s + STARTING_S
    enough = {"refused", "done"} | ({"possible"} if arguments.only_try else set()) | ({"replacing"} if arguments.no_wait else set())
    told = wait(path, asked, enough, until_s)
    if arguments.json:
        print_json(msgspec.to_builtins(told))
    elif told.state == "refused":
        for problem in told.problems:
            print(problem, file=sys.stderr)
        print(f"engine: refused; {told.before} runs on as it was", file=sys.stderr)
    else:
        words = {"possible": "could take over from", "replacing": "is taking over from", "done": "has taken over from"}
        print(f"engine: {told.after} {words[told.state]} {told.before}")
    return os.EX_CONFIG if told.state == "refused" else os.EX_OK


def wait(path: str, asked: Upgrade, enough: set[str], until_s: float) -> Upgrade:
    """What became of the upgrade that was *asked* for, once it is one of the states that are *enough*; EngineError at the deadline."""
    heard_s = time.monotonic()
    while True:
        try:
            status: Status = ask(path, "status")
        except HungUp:  # it becomes the other program: the next connection waits for that one
            if time.monotonic() - heard_s > SILENCE_S:
                raise
        else:
            heard_s = time.monotonic()
            told = status.upgrade
            if told.attempt != asked.attempt:
                raise EngineError("the engine was started anew meanwhile, or somebody else asked for another upgrade: see the log")
            if told.state in enough:
                return told
            if heard_s > until_s:
                waiting = ", ".join(f"{child.name} {child.state}" for child in status.children if child.state != "working")
                raise EngineError(f"the upgrade is still {told.state}: {waiting or 'no process is named'}: see engine status and the log")
        time.sleep(LOOK_S)
