"""The `engine` command: start, stop, status, check-config, show, spool.

Exit codes are those of sysexits: 0 done, 64 usage, 69 no engine answers, 74 or 75 it could not be asked, 78 configuration or start refused; and 1:
`spool check` found something.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from engine import __version__
from engine.config import Config, read
from engine.control import Status, ask, ask_spool, wait_until_closed
from engine.control.client import NotRunning
from engine.errors import EngineError, StartError
from engine.log import escape
from engine.mail import message_id
from engine.mail.envelope import Due, Message
from engine.process import load_codecs
from engine.supervisor.configuration import check, load
from engine.supervisor.spooldir import claim, control_socket, spool_socket
from engine.supervisor.start import Options, start

PROBLEMS_SHOWN = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv* (default: the process's own) and return its exit code."""
    arguments = parser().parse_args(argv)
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


def fail(error: EngineError, code: int) -> int:
    """Say *error* and return *code*."""
    print(f"engine: {error}", file=sys.stderr)
    return code


class Parser(argparse.ArgumentParser):
    """argparse with sysexits' code for a wrong command line."""

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = Parser(prog="engine", description="A multiprocess mail engine for outbound mail.")
    top.add_argument("--version", action="version", version=f"engine {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    conf = Parser(add_help=False)
    conf.add_argument("-c", dest="conf", metavar="PATH", required=True, help="configuration file, or a directory with engine.conf in it")
    state = Parser(add_help=False)
    state.add_argument("--state-dir", metavar="DIR", default="", help="keep spool, log and accounting below DIR")
    form = Parser(add_help=False)
    form.add_argument("--json", action="store_true", help="print JSON")

    starting = commands.add_parser("start", parents=[conf, state], help="run in the foreground; SIGTERM drains, a second one stops")
    starting.add_argument("--port-offset", metavar="N", type=int, default=0, help="add N to every listening port")
    starting.set_defaults(run=run_start)
    stopping = commands.add_parser("stop", parents=[conf, state], help="drain a running engine and wait for its end")
    stopping.set_defaults(run=run_stop)
    status = commands.add_parser("status", parents=[conf, state, form], help="what runs, since when, and how much mail waits")
    status.set_defaults(run=run_status)
    checking = commands.add_parser("check-config", parents=[conf], help="say what is wrong with a configuration; starts nothing")
    checking.set_defaults(run=run_check)
    show = commands.add_parser("show", help="look into a running engine")
    things = show.add_subparsers(title="things", metavar="THING", required=True)
    message = things.add_parser("message", parents=[conf, state, form], help="a message in the spool and where its recipients stand")
    message.add_argument("id", metavar="ID", help="as in the 250 reply, the log and Received")
    message.set_defaults(run=run_show_message)
    spool = commands.add_parser("spool", help="look after the spool of an engine that is stopped")
    works = spool.add_subparsers(title="works", metavar="WORK", required=True)
    proving = works.add_parser("check", parents=[conf, state, form], help="prove that index and bodies are whole; exit status 1 if not")
    proving.add_argument("--repair", action="store_true", help="mend what can be mended without losing mail, and say what that was")
    proving.set_defaults(run=run_spool_check)
    compacting = works.add_parser("compact", parents=[conf, state, form], help="give space back: sparse segments rewritten, the index copied")
    compacting.set_defaults(run=run_spool_compact)
    return top


# --- commands ------------------------------------------------------------------------------------------------------------------------


def run_start(arguments: argparse.Namespace) -> int:
    return start(Options(conf=arguments.conf, port_offset=arguments.port_offset, state_dir=arguments.state_dir))


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


def run_check(arguments: argparse.Namespace) -> int:
    usable, problems = check(read(arguments.conf))
    for problem in problems:
        print(problem)
    if usable:
        print(f"{arguments.conf}: good" + (f", with {len(problems)} notices" if problems else ""))
    return os.EX_OK if usable else os.EX_CONFIG


def run_show_message(arguments: argparse.Namespace) -> int:
    identity = message_id.parse(arguments.id)
    if identity is None:
        print(f"engine: {arguments.id!r} is not a message id: 20 letters and digits, as in the 250 reply", file=sys.stderr)
        return os.EX_USAGE
    answer = ask_spool(spool_socket(spool_path(configuration(arguments))), {"q": "show", "id": identity})
    if not answer.get("ok"):
        print(f"engine: {arguments.id}: {answer.get('error', 'no answer')}", file=sys.stderr)
        return os.EX_DATAERR
    shown = message_in_words(arguments.id, answer)
    if arguments.json:
        print_json(shown)
        return os.EX_OK
    for name, value in shown.items():
        if name != "waiting":
            print(f"{name}: {value}")
    if shown["waiting"]:
        print_table(list(shown["waiting"][0]), [list(row.values()) for row in shown["waiting"]])
    return os.EX_OK


def message_in_words(identity: str, answer: dict[str, Any]) -> dict[str, Any]:
    """What the spool process says about a message, for people: its row, and a row for each recipient that waits."""
    message = msgspec.msgpack.decode(answer["message"], type=Message)
    waiting = []
    for queue, due_ms, priority, number, encoded in answer["rows"]:
        due = msgspec.msgpack.decode(encoded, type=Due)
        waiting.append(
            {
                "recipient": escape(due.address),
                "number": number,
                "queue": queue,
                "due": local_time(due_ms),
                "attempts": due.attempts,
                "priority": priority,
                "last reply": escape(due.last_reply),
            }
        )
    return {
        "id": identity,
        "sender": f"<{escape(message.return_path)}>",
        "queued": local_time(message.queued_ms),
        "received from": escape(message.src_mta),
        "size": f"{message.body.size_bytes + len(message.prefix)} bytes",
        "body": f"epoch {message.body.epoch} segment {message.body.segment} offset {message.body.offset}",
        "recipients open": answer["open"] if answer["whole"] else f"{answer['open']} (not all are listed)",
        "waiting": waiting,
    }


def run_spool_check(arguments: argparse.Namespace) -> int:
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
    with progress_bar() as progress, stopped_spool(arguments) as root:
        count, problems = look(root)
        if count and arguments.repair:
            try:
                mended = repair(root)
            except EngineError as error:
                mended = [f"nothing: {error}"]
            count, problems = look(root)
    if arguments.json:
        print_json({"problems": count, "shown": [shown_problem(problem) for problem in problems], "mended": mended})
        return int(count > 0)
    for line in mended:
        print(f"repair: {line}")
    if problems:
        print_table(["kind", "where", "message", "what"], [list(shown_problem(problem).values()) for problem in problems])
        print(f"{count} problems" + (f", of which {PROBLEMS_SHOWN} are shown" if count > PROBLEMS_SHOWN else ""))
    else:
        print(f"{root}: whole")
    return int(count > 0)


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
    from engine.spool.offline import compact

    with progress_bar() as progress, stopped_spool(arguments) as root:
        done = compact(root, progress)
    if arguments.json:
        print_json(done._asdict())
        return os.EX_OK
    before, after = done.index_before_bytes + done.bodies_before_bytes, done.index_after_bytes + done.bodies_after_bytes
    rows = [
        ["index", done.index_before_bytes, done.index_after_bytes],
        ["bodies", done.bodies_before_bytes, done.bodies_after_bytes],
        ["all", before, after],
    ]
    print_table(["bytes of", "before", "after"], rows)
    print(f"{done.orphans_removed} orphans removed, {done.segments_emptied} segments emptied")
    if done.segments_damaged:
        print(f"{done.segments_damaged} damaged segments left as they are: see engine spool check")
    return os.EX_OK


@contextmanager
def stopped_spool(arguments: argparse.Namespace) -> Iterator[Path]:
    """The spool of the configuration, held as `engine start` would hold it and worked on as its owner; StartError says what is in the way."""
    from engine.spool.offline import present

    root = Path(spool_path(configuration(arguments)))
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


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration that the command names."""
    return load(read(arguments.conf), arguments.state_dir)[0]


def spool_path(config: Config) -> str:
    """Where the engine of *config* keeps its sockets."""
    if not config.spools:
        raise StartError("the configuration has no <spool>")
    return config.spools[0].path


# --- printing ------------------------------------------------------------------------------------------------------------------------


def local_time(at_ms: int) -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(at_ms / 1000))


def duration(seconds: float) -> str:
    """`3d 4h`, `5m 10s`: the two largest units."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Shows (what, how much of it, of how much) while the body runs, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def print_json(data: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn on a terminal, plain and tab-free elsewhere."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        Console().print(table)
        return
    cells = [list(columns)] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
