"""Looking after the spool of an engine that is stopped: `engine spool check`, `compact`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.cli.configured import configuration, spool_path
from engine.cli.grammar import Grammar
from engine.cli.printing import print_json, print_table, progress_bar
from engine.errors import EngineError, StartError
from engine.log import escape
from engine.mail import message_id
from engine.process import load_codecs
from engine.supervisor.spooldir import claim

PROBLEMS_SHOWN = 1000


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    spool = grammar.commands.add_parser("spool", help="look after the spool of an engine that is stopped")
    works = spool.add_subparsers(title="works", metavar="WORK", required=True)
    shared = [grammar.conf, grammar.state, grammar.form]
    proving = works.add_parser("check", parents=shared, help="prove that index and bodies are whole; exit status 1 if not")
    proving.add_argument("--repair", action="store_true", help="mend what can be mended without losing mail, and say what that was")
    proving.set_defaults(run=run_spool_check)
    compacting = works.add_parser("compact", parents=shared, help="give space back: sparse segments rewritten, the index copied")
    compacting.set_defaults(run=run_spool_compact)


def run_spool_check(arguments: argparse.Namespace) -> int:
    found = {path: _checked(path, arguments) for path in spools(arguments)}
    if arguments.json:
        _print_json(found)
    return int(any(each["problems"] for each in found.values()))


def _checked(path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is wrong with one spool, said unless JSON is wanted."""
    from engine.spool.check import Problem, check
    from engine.spool.repair import repair

    def look(root: Path) -> tuple[int, list[Problem]]:
        """How many problems there are, and the first of them."""
        count, first = 0, []
        for problem in check(root, progress=progress):
            count += 1
            if count <= PROBLEMS_SHOWN:
                first.append(problem)
        return count, first

    mended: list[str] = []
    with progress_bar() as progress, stopped_spool(path) as root:
        count, problems = look(root)
        if count and arguments.repair:
            try:
                mended = repair(root)
            except EngineError as error:
                mended = [f"nothing: {error}"]
            count, problems = look(root)
    if not arguments.json:
        for line in mended:
            print(f"repair: {line}")
        if problems:
            print_table(["kind", "where", "message", "what"], [list(shown_problem(problem).values()) for problem in problems])
            print(f"{root}: {count} problems" + (f", of which {PROBLEMS_SHOWN} are shown" if count > PROBLEMS_SHOWN else ""))
        else:
            print(f"{root}: whole")
    return {"problems": count, "shown": [shown_problem(problem) for problem in problems], "mended": mended}


def shown_problem(problem: Any) -> dict[str, str]:
    """A check.Problem in words."""
    known = len(problem.message) == message_id.PACKED_SIZE
    return {
        "kind": problem.kind,
        "where": escape(problem.where),
        "message": message_id.text(problem.message) if known else problem.message.hex(),
        "what": escape(problem.text),
    }


def run_spool_compact(arguments: argparse.Namespace) -> int:
    found = {path: _compacted(path, arguments) for path in spools(arguments)}
    if arguments.json:
        _print_json(found)
    return os.EX_OK


def _compacted(path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one spool was and is, said unless JSON is wanted."""
    from engine.spool.offline import compact

    with progress_bar() as progress, stopped_spool(path) as root:
        done = compact(root, progress)
    if not arguments.json:
        before, after = done.index_before_bytes + done.bodies_before_bytes, done.index_after_bytes + done.bodies_after_bytes
        rows = [
            ["index", done.index_before_bytes, done.index_after_bytes],
            ["bodies", done.bodies_before_bytes, done.bodies_after_bytes],
            ["all", before, after],
        ]
        print_table(["bytes of", "before", "after"], rows)
        print(f"{root}: {done.orphans_removed} orphans removed, {done.segments_emptied} segments emptied")
        if done.segments_damaged:
            print(f"{done.segments_damaged} damaged segments left as they are: see engine spool check")
    return done._asdict()


def _print_json(found: dict[str, dict[str, Any]]) -> None:
    """The only spool's, or each one's with its path."""
    several = {"spools": [{"spool": path} | each for path, each in found.items()]}
    print_json(several if len(found) > 1 else next(iter(found.values())))


def spools(arguments: argparse.Namespace) -> list[str]:
    """The paths of all spools of the configuration, the first first."""
    config = configuration(arguments)
    first = spool_path(config)
    return [first, *(spool.path for spool in config.spools if spool.path != first)]


@contextmanager
def stopped_spool(path: str) -> Iterator[Path]:
    """The spool at *path*, held as `engine start` would hold it and worked on as its owner; StartError says what is in the way."""
    from engine.spool.offline import present

    root = Path(path)
    try:
        present(root)
        lock = claim(str(root))
        try:
            with owner_of(root):
                yield root
        finally:
            os.close(lock)
    except PermissionError as error:
        raise StartError(f"spool {root}: {error.strerror} ({error.filename}): run this as root, or as the user that starts the engine") from error


@contextmanager
def owner_of(root: Path) -> Iterator[None]:
    """Be the user whose spool *root* is while the body runs: what is made belongs to the engine's children, and root follows no link of theirs."""
    if os.geteuid() != 0:
        yield
        return
    found = root.stat()
    load_codecs()
    groups, mask = os.getgroups(), os.umask(0o077)
    os.setgroups([])
    os.setegid(found.st_gid)
    os.seteuid(found.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(os.getgid())
        os.setgroups(groups)
        os.umask(mask)
