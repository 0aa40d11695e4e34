"""The `engine` command: each module holds a group of commands, and adds them to the grammar.

Exit codes are those of sysexits: 0 done, 64 usage, 69 no engine answers, 74 or 75 it could not be asked, 78 configuration or start refused; 1:
`spool check` found something; `doctor` alone says 1 for warnings and 2 for problems.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from engine.cli import configuration, doctor, init, message, password, queues, reload, resolve, running, sink, spool, status, upgrade, why
from engine.cli.grammar import Grammar
from engine.control.client import NotRunning
from engine.errors import EngineError, StartError

# in the order in which --help lists them
GROUPS = (running, reload, upgrade, status, init, configuration, password, message, queues, why, resolve, doctor, spool, sink)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv* (default: the process's own) and return its exit code."""
    arguments = grammar().top.parse_args(argv)
    if getattr(arguments, "state_dir", ""):
        arguments.state_dir = os.path.abspath(arguments.state_dir)
    try:
        code: int = arguments.run(arguments)
    except StartError as error:
        return fail(error, os.EX_CONFIG)
    except NotRunning as error:
        return fail(error, os.EX_UNAVAILABLE)
    except EngineError as error:
        return fail(error, os.EX_TEMPFAIL)
    except BrokenPipeError:  # `engine status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_IOERR
    except KeyboardInterrupt:
        return 130
    return code


def grammar() -> Grammar:
    """The grammar of the command line, with every group's commands."""
    whole = Grammar()
    for group in GROUPS:
        group.add(whole)
    return whole


def fail(error: EngineError, code: int) -> int:
    """Say *error* and return *code*."""
    print(f"engine: {error}", file=sys.stderr)
    return code
