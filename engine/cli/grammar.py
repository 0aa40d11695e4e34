"""What the commands' grammar is made of: groups add their commands to it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, TypeAlias

from engine import __version__


class Parser(argparse.ArgumentParser):
    """argparse with sysexits' code for a wrong command line."""

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Grammar:
    """The command line: `commands`, those of `show`, and the options that several of them share."""

    def __init__(self) -> None:
        self.top = Parser(prog="engine", description="A multiprocess mail engine for outbound mail.")
        self.top.add_argument("--version", action="version", version=f"engine {__version__}")
        self.commands: Commands = self.top.add_subparsers(title="commands", metavar="COMMAND", required=True)
        self.conf = Parser(add_help=False)
        self.conf.add_argument("-c", dest="conf", metavar="PATH", required=True, help="configuration file, or a directory with engine.conf in it")
        self.conf.add_argument(
            "--lenient", action="store_true", help="join a domain-macro that goes on behind a comma, and a pattern that a line's end cuts"
        )
        self.state = Parser(add_help=False)
        self.state.add_argument("--state-dir", metavar="DIR", default="", help="keep spool, log and accounting below DIR")
        self.form = Parser(add_help=False)
        self.form.add_argument("--json", action="store_true", help="print JSON")
        self._show: Commands | None = None

    @property
    def show(self) -> Commands:
        """The commands of `engine show`, which stands in the list of commands where the first of them is added."""
        if self._show is None:
            self._show = self.commands.add_parser("show", help="look into an engine").add_subparsers(title="things", metavar="THING", required=True)
        return self._show
