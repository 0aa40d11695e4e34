"""Why mail waits, in one sentence: `engine why QUEUE|ID|ADDRESS`."""

from __future__ import annotations

import argparse
import os
import time
from typing import NamedTuple

import msgspec

from engine.cli.asking import Engine
from engine.cli.grammar import Grammar
from engine.cli.pages import Waiting
from engine.cli.printing import print_json
from engine.control import Request, Standing
from engine.control.client import NotRunning
from engine.control.sentence import sentence, span
from engine.delivery.limits import as_they_stand
from engine.errors import EngineError
from engine.log import escape
from engine.mail import message_id


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    why = grammar.commands.add_parser(
        "why", parents=[grammar.conf, grammar.state, grammar.form], help="say in one sentence why a queue, a message or an address waits"
    )
    why.add_argument("what", metavar="QUEUE|ID|ADDRESS", help="domain/virtual-mta or a domain, a message id, or a recipient's address")
    why.add_argument("--max", dest="most", metavar="N", type=int, default=1, help="explain so many of several that wait, a sentence each (1)")
    why.set_defaults(run=run_why)


class Explained(NamedTuple):
    """One thing explained."""

    text: str
    standing: Standing | None = None
    queue: str = ""
    id: str = ""
    recipient: str = ""
    attempts: int = 0
    due_ms: int = 0
    ahead: int = -1


def run_why(arguments: argparse.Namespace) -> int:
    now_ms = int(time.time() * 1000)
    found, known = explain(Engine(arguments), arguments.what, max(1, arguments.most), now_ms)
    if arguments.json:
        print_json([msgspec.to_builtins(each._asdict()) for each in found])
    else:
        for each in found:
            print(each.text)
    return os.EX_OK if known else os.EX_DATAERR


def explain(engine: Engine, what: str, most: int, now_ms: int) -> tuple[list[Explained], bool]:
    """(explanations, *most* at the most; whether *what* is in the spool at all)."""
    _ = engine.status  # NotRunning, if nothing runs
    try:
        if "@" in what:
            return _address(engine, what.strip("<>"), most, now_ms)
        identity = message_id.parse(what)
        if identity is not None:
            return _message(engine, what, identity, most, now_ms)
        return _queues(engine, what, most, now_ms)
    except NotRunning:
        return [Explained(f"{what} waits for the spool process: {_state(engine, 'spool/0')}; all mail lies on disk until then.")], True


# --- what is asked for ------------------------------------------------------------------------------------------------------------


def _address(engine: Engine, address: str, most: int, now_ms: int) -> tuple[list[Explained], bool]:
    domain = address.rpartition("@")[2].lower()
    waiting: list[Waiting] = []
    for name, number in engine.names(f"{domain}/"):
        waiting += engine.rows(number, name, address=address)
    if not waiting:
        return [Explained(f"nothing waits for <{escape(address)}>: {_look(engine, address)}.")], False
    waiting.sort(key=lambda each: each.due_ms)
    several = f", the next of {len(waiting)} that wait for this address," if len(waiting) > 1 else ""
    return _recipients(engine, waiting[:most], several, now_ms), True


def _message(engine: Engine, shown: str, identity: bytes, most: int, now_ms: int) -> tuple[list[Explained], bool]:
    message, queues, issued = engine.message(identity)
    if message is None:
        if not issued:
            return [Explained(f"message {shown} is unknown: this spool has never given that id.", id=shown)], False
        moved = ", or moved into the first spool under another id, which the log names" if engine.others else ""
        gone = f"message {shown} has left the spool, each of its recipients delivered or bounced{moved}: {_look(engine, shown)}."
        return [Explained(gone, id=shown)], False
    waiting = [each for number, name in queues for each in engine.rows(number, name, message=identity)]
    if not waiting:
        return [Explained(f"message {shown} has recipients to come in {len(queues)} queues, and none was found in time.", id=shown)], True
    waiting.sort(key=lambda each: each.due_ms)
    several = f", the next of {len(waiting)} recipients that wait," if len(waiting) > 1 else ""
    return _recipients(engine, waiting[:most], several, now_ms), True


def _queues(engine: Engine, what: str, most: int, now_ms: int) -> tuple[list[Explained], bool]:
    domain, slash, vmta = what.partition("/")
    exact = f"{domain.lower()}{slash}{vmta}"
    named = [(name, number) for name, number in engine.names(exact if slash else f"{exact}/") if not slash or name == exact]
    if not named:
        return [Explained(f"no queue {escape(what)} has ever had mail: a queue is DOMAIN/VIRTUAL-MTA, as in `engine show queues`.")], False
    found = []
    for name, number in named[:most]:
        length, whole = engine.length(number, name)
        elsewhere = not number or (engine.others and length and not engine.spools[0].length(number)[0])
        standing = _elsewhere(engine) if elsewhere else _standing(engine, Request("why", queues=[(number, name)]))
        if not length and standing.kind not in ("draining", "slot-down"):
            standing = Standing("idle")
        subject = f"queue {name} ({length}{'' if whole else ' or more'} recipients)"
        found.append(Explained(sentence(subject, standing, now_ms), standing, name))
    return found, True


def _recipients(engine: Engine, waiting: list[Waiting], several: str, now_ms: int) -> list[Explained]:
    found = []
    for each in waiting:
        due = each.due
        message = engine.message(each.message)[0]
        request = Request(
            "why", queues=[(each.number, each.queue)], key=each.key.hex(), queued_ms=due.queued_ms, attempts=due.attempts, last_reply=due.last_reply
        )
        standing = _elsewhere(engine, each.spool) if each.spool else _standing(engine, request)
        shown = message_id.text(each.message)
        what = "our report (DSN)" if message is not None and message.src_type == "local" and not message.return_path else "message"
        tried = f", tried {due.attempts} times in {span((now_ms - due.queued_ms) / 1000)}" if due.attempts else ""
        subject = f"{what} {shown} to <{escape(due.address)}> in queue {each.queue}{tried}{several}".rstrip(",") + ("," if tried or several else "")
        behind = f"{each.ahead} recipients of its queue are before it" if each.ahead else "first in its queue"
        text = sentence(subject, standing, now_ms, "" if standing.kind in ("sending", "storing", "bouncing") else behind)
        found.append(Explained(text, standing, each.queue, shown, due.address, due.attempts, each.due_ms, each.ahead))
        several = ""
    return found


# --- who holds it -----------------------------------------------------------------------------------------------------------------


def _standing(engine: Engine, request: Request) -> Standing:
    """What the process that sends it says; or what stops that process."""
    counts = engine.counts()
    if counts["full"]:
        return Standing("disk-full", str(counts["refusing"]))
    if counts["outbox"] > 2 * counts["outbox_bound"]:
        return Standing("outbox", f"{counts['outbox']} records have not been written yet, and sending stops at {2 * counts['outbox_bound']}")
    for answer in engine.slots(request):
        if answer.standing is not None:
            standing: Standing = answer.standing
            if standing.limit is not None and request.queues:
                (limit,) = as_they_stand(engine.config, request.queues[0][1], [standing.limit])
                standing = msgspec.structs.replace(standing, limit=limit)
            return standing
    if not engine.silent:
        raise EngineError("no delivery process knows this queue: the engine has just been started or reloaded, ask again")
    return Standing("slot-down", ", ".join(_state(engine, name) for name in engine.silent))


def _elsewhere(engine: Engine, spool: str = "") -> Standing:
    """What keeps mail in a *spool* that is not the first."""
    refusing = str(engine.counts()["refusing"]) or "it has, so that takes seconds"
    where = spool or " ".join(pages.path for pages in engine.others)
    return Standing("elsewhere", f"{where} and is moved into {engine.path} when that has room: {refusing}")


def _state(engine: Engine, name: str) -> str:
    """`delivery/0 is starting, for 3s, after 2 restarts`."""
    child = engine.child(name)
    if child is None:
        return f"{name} is not there"
    if child.state == "working":
        return f"{name} (pid {child.pid}) works, but does not answer: {engine.silent.get(name, 'no answer')}"
    restarts = f", after {child.restarts} restarts" if child.restarts else ""
    return f"{name} is {child.state}{f', for {span(child.uptime_s)}' if child.pid else ''}{restarts}"


def _look(engine: Engine, what: str) -> str:
    """Where to look for what is gone."""
    files = [engine.config.server.log_file, *("-*".join(os.path.splitext(acct.path)) for acct in engine.config.acct_files)]
    return f"`grep {escape(what)} {' '.join(files)}` tells what became of it"
