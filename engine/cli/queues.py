"""What lies in the queues, and how they fare: `engine show queues`, `queue`, `domains`, `vmtas`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from engine.cli.asking import Engine
from engine.cli.grammar import Grammar, Parser
from engine.cli.pages import Tally
from engine.cli.printing import local_time, print_json, print_table
from engine.control import Request
from engine.control.sentence import sentence, when
from engine.control.views import Detail, Part, QueueDetail, QueueView
from engine.delivery.limits import as_they_stand
from engine.errors import EngineError

MAX_ITEMS = 20  # as PowerMTA
ASKED_AT_ONCE = 200  # queues in one request
LOOKED_AT_MOST = 2_000  # queues that a filter on what delivery knows looks at, the fullest first
ERROR_CHARS = 60


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    base = [grammar.conf, grammar.state, grammar.form]
    listing = Parser(add_help=False)
    listing.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="names to show, with * and ?")
    listing.add_argument("--max", dest="most", metavar="N", type=int, default=MAX_ITEMS, help="how many to show (20; 0: all)")
    listing.add_argument("--sort", choices=("rcpt", "name", "size", "conn"), default="rcpt", help="by what (rcpt)")
    listing.add_argument("--kbytes", action="store_true", help="add up sizes too, which takes longer")
    queues = grammar.show.add_parser("queues", parents=[*base, listing], help="queues that have mail: recipients, connections, mode, last error")
    queues.add_argument("--connected", action="store_true", help="only those with connections")
    queues.add_argument("--errors", action="store_true", help="only those with errors")
    queues.set_defaults(run=run_show_queues)
    queue = grammar.show.add_parser("queue", parents=base, help="all about one queue: why it waits, its limits, connections, last errors")
    queue.add_argument("queue", metavar="DOMAIN/VMTA")
    queue.set_defaults(run=run_show_queue)
    for name, words in (("domains", "destinations over all virtual MTAs"), ("vmtas", "virtual MTAs that have mail")):
        parser = grammar.show.add_parser(name, parents=[*base, listing], help=words)
        parser.set_defaults(run=run_show_groups, grouped=name)


@dataclass
class Shown:
    """A queue, as both sides tell of it."""

    tally: Tally
    view: QueueView | None = None


def run_show_queues(arguments: argparse.Namespace) -> int:
    engine = Engine(arguments)
    sizes = arguments.kbytes or arguments.sort == "size"
    tallies = engine.tallies(sizes)
    active = {view.name: view for view in _views(engine, [])} if arguments.connected or arguments.sort == "conn" else {}
    queues = {tally.name: Shown(tally, active.get(tally.name)) for tally in tallies.queues}
    for name, view in active.items():
        queues.setdefault(name, Shown(Tally(view.number, name), view))
    chosen = [shown for shown in queues.values() if fnmatchcase(shown.tally.name, _pattern(arguments.pattern))]
    matching = len(chosen)
    _sort(chosen, arguments.sort)
    if arguments.connected:
        chosen = [shown for shown in chosen if shown.view is not None and shown.view.open]
    if arguments.errors:
        _look(engine, chosen[:LOOKED_AT_MOST])
        chosen = [shown for shown in chosen if shown.view is not None and shown.view.last]
    chosen = chosen[: arguments.most or None]
    _look(engine, chosen)
    if arguments.json:
        print_json({"queues": [_json(shown, sizes) for shown in chosen], "matching": matching, "whole": tallies.whole, "silent": engine.silent})
        return os.EX_OK
    now_ms = int(time.time() * 1000)
    print_table(["queue", "rcpts", "kbytes", "conn", "mode", "next attempt", "last error"], [_row(shown, sizes, now_ms) for shown in chosen])
    _foot(f"{len(chosen)} of {matching} queues shown", tallies.whole, engine)
    return os.EX_OK


def run_show_queue(arguments: argparse.Namespace) -> int:
    engine = Engine(arguments)
    named = [(number, name) for name, number in engine.names(arguments.queue) if name == arguments.queue]
    if not named:
        print(f"engine: no queue {arguments.queue} has ever had mail: see engine show queues", file=sys.stderr)
        return os.EX_DATAERR
    number, name = named[0]
    recipients, whole = engine.length(number, name)
    answers: list[Detail] = engine.slots(Request("queue", queues=[(number, name)]))
    detail = next((answer.detail for answer in answers if answer.detail is not None), None)
    if detail is None:
        silent = ", ".join(f"{slot}: {why}" for slot, why in engine.silent.items())
        raise EngineError(f"the delivery process of {name} does not answer ({silent or 'none says that it is its own'})")
    now_ms = int(time.time() * 1000)
    detail = _as_it_stands(engine, name, detail)
    said = sentence(f"queue {name}", detail.standing, now_ms)
    if arguments.json:
        print_json({"recipients": recipients, "whole": whole, "why": said, **msgspec.to_builtins(detail)})
        return os.EX_OK
    _print_detail(detail, f"{recipients}{'' if whole else ' or more'}", said, now_ms)
    return os.EX_OK


def _as_it_stands(engine: Engine, name: str, detail: QueueDetail) -> QueueDetail:
    """*detail* with the lines of the configuration as it is on disk."""
    standing = detail.standing
    if standing.limit is not None:
        (limit,) = as_they_stand(engine.config, name, [standing.limit])
        standing = msgspec.structs.replace(standing, limit=limit)
    return msgspec.structs.replace(detail, standing=standing, limits=as_they_stand(engine.config, name, detail.limits))


def _print_detail(detail: QueueDetail, recipients: str, said: str, now_ms: int) -> None:
    view = detail.view
    print(said)
    print(f"recipients: {recipients}, of which {view.window} are in memory and {view.in_flight} under way")
    print(f"mode: {view.mode}" + (f", {view.failures} failures in a row" if view.failures else ""))
    print(f"connections: {view.open}, of which {view.connecting} are being opened")
    if view.next_ms:
        print(f"next attempt: {when(view.next_ms, now_ms)}")
    if detail.connections:
        print()
        columns = ["connection", "state", "waits for", "from", "messages", "carries", "seconds"]
        rows = [
            [f"{each.host}[{each.address}]:{each.port}", each.state, each.waits_for, each.source_ip, each.transactions, each.message, each.seconds]
            for each in detail.connections
        ]
        print_table(columns, rows)
    print()
    print_table(["limit", "value", "from"], [[limit.name, limit.value, limit.place or "default"] for limit in detail.limits])
    for title, events in (("error", detail.errors), ("recipient event", detail.recipient_events)):
        if events:
            print()
            rows = [[local_time(each.at_ms), each.kind, each.recipient or "-", each.source_ip or "-", each.mx or "-", each.text] for each in events]
            print_table([title, "kind", "recipient", "from", "mx", "what"], rows)


@dataclass
class Group:
    """Queues that have a domain, or a virtual MTA, in common."""

    name: str
    queues: int = 0
    recipients: int = 0
    size_bytes: int = 0
    connections: int = 0


def run_show_groups(arguments: argparse.Namespace) -> int:
    engine = Engine(arguments)
    by_domain = arguments.grouped == "domains"
    sizes = arguments.kbytes or arguments.sort == "size"
    tallies = engine.tallies(sizes)
    name_of: Callable[[str], str] = (lambda name: name.rpartition("/")[0]) if by_domain else (lambda name: name.rpartition("/")[2])
    groups: dict[str, Group] = {}
    for tally in tallies.queues:
        group = groups.setdefault(name_of(tally.name), Group(name_of(tally.name)))
        group.queues += 1
        group.recipients += tally.recipients
        group.size_bytes += tally.size_bytes
    for view in _views(engine, []):
        group = groups.setdefault(name_of(view.name), Group(name_of(view.name)))
        group.connections += view.open
    chosen = [group for group in groups.values() if fnmatchcase(group.name, arguments.pattern)]
    matching, total = len(chosen), max(1, sum(group.recipients for group in groups.values()))
    order: dict[str, Callable[[Group], tuple[int, str]]] = {
        "rcpt": lambda group: (-group.recipients, group.name),
        "name": lambda group: (0, group.name),
        "size": lambda group: (-group.size_bytes, group.name),
        "conn": lambda group: (-group.connections, group.name),
    }
    chosen.sort(key=order[arguments.sort])
    chosen = chosen[: arguments.most or None]
    if arguments.json:
        shown = [_group_json(group, total, sizes) for group in chosen]
        print_json({arguments.grouped: shown, "matching": matching, "whole": tallies.whole, "silent": engine.silent})
        return os.EX_OK
    rows = [
        [
            group.name,
            group.queues,
            group.recipients,
            f"{100 * group.recipients / total:.1f}",
            f"{group.size_bytes / 1024:.1f}" if sizes else "-",
            group.connections,
        ]
        for group in chosen
    ]
    print_table(["domain" if by_domain else "virtual MTA", "queues", "rcpts", "% total", "kbytes", "conn"], rows)
    _foot(f"{len(chosen)} of {matching} {'domains' if by_domain else 'virtual MTAs'} shown", tallies.whole, engine)
    return os.EX_OK


# --- both sides put together ------------------------------------------------------------------------------------------------------


def _views(engine: Engine, queues: Sequence[tuple[int, str]]) -> Iterable[QueueView]:
    """What delivery says of *queues*; with none named, of those that are connected."""
    for start in range(0, max(len(queues), 1), ASKED_AT_ONCE):
        parts: list[Part] = engine.slots(Request("queues", queues=list(queues[start : start + ASKED_AT_ONCE]), active=not queues))
        for part in parts:
            yield from part.owned


def _look(engine: Engine, shown: Sequence[Shown]) -> None:
    """Give those of *shown* their view that have none."""
    blank = {each.tally.name: each for each in shown if each.view is None}
    if blank:
        for view in _views(engine, [(each.tally.number, name) for name, each in blank.items()]):
            blank[view.name].view = view


def _pattern(text: str) -> str:
    return text if "/" in text or text == "*" else f"{text}/*"


def _sort(shown: list[Shown], by: str) -> None:
    keys: dict[str, Callable[[Shown], tuple[int, str]]] = {
        "rcpt": lambda each: (-each.tally.recipients, each.tally.name),
        "name": lambda each: (0, each.tally.name),
        "size": lambda each: (-each.tally.size_bytes, each.tally.name),
        "conn": lambda each: (-(each.view.open if each.view is not None else 0), each.tally.name),
    }
    shown.sort(key=keys[by])


def _row(shown: Shown, sizes: bool, now_ms: int) -> list[object]:
    tally, view = shown.tally, shown.view
    kbytes = f"{tally.size_bytes / 1024:.1f}" if sizes else "-"
    if view is None:
        return [tally.name, tally.recipients, kbytes, "-", "?", "-", "its delivery process does not answer"]
    last = view.last.text.removeprefix("smtp;") if view.last is not None else ""
    short = last if len(last) <= ERROR_CHARS else last[: ERROR_CHARS - 3] + "..."
    next_ms = view.next_ms or (tally.first_due_ms if tally.first_due_ms > now_ms else 0)
    return [tally.name, tally.recipients, kbytes, view.open, view.mode, when(next_ms, now_ms) if next_ms else "-", short or "-"]


def _json(shown: Shown, sizes: bool) -> dict[str, object]:
    tally = shown.tally
    kbytes = {"kbytes": round(tally.size_bytes / 1024, 1)} if sizes else {}
    view = {key: value for key, value in msgspec.to_builtins(shown.view).items() if key != "name"} if shown.view is not None else {"mode": "?"}
    return {"name": tally.name, "rcpt": tally.recipients, **kbytes, "first_due_ms": tally.first_due_ms, **view}


def _group_json(group: Group, total: int, sizes: bool) -> dict[str, object]:
    share = round(100 * group.recipients / total, 1)
    kbytes = {"kbytes": round(group.size_bytes / 1024, 1)} if sizes else {}
    return {"name": group.name, "queues": group.queues, "rcpt": group.recipients, "pctOfTotal": share, **kbytes, "conn": group.connections}


def _foot(text: str, whole: bool, engine: Engine) -> None:
    """What is no data goes to a terminal; what is missing is always said."""
    if sys.stdout.isatty():
        print(f"{text}.")
    if not whole:
        print("engine: there was no time to count all queues: the figures are lower bounds", file=sys.stderr)
    for slot, why in engine.silent.items():
        print(f"engine: {slot} does not answer: {why}", file=sys.stderr)
