"""What a configuration says: `engine check-config`."""

from __future__ import annotations

import argparse
import os

from engine.cli.grammar import Grammar
from engine.config import read
from engine.supervisor.configuration import check


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    checking = grammar.commands.add_parser("check-config", parents=[grammar.conf], help="say what is wrong with a configuration; starts nothing")
    checking.set_defaults(run=run_check)


def run_check(arguments: argparse.Namespace) -> int:
    usable, problems = check(read(arguments.conf, lenient=arguments.lenient))
    for problem in problems:
        print(problem)
    if usable:
        print(f"{arguments.conf}: good" + (f", with {len(problems)} notices" if problems else ""))
    return os.EX_OK if usable else os.EX_CONFIG
