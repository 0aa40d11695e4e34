"""`engine status`: processes, the traffic table, connections, what waits."""

from __future__ import annotations

import argparse
import os
from typing import Any

import msgspec

from engine.cli.asking import Engine
from engine.cli.grammar import Grammar
from engine.cli.printing import duration, print_json, print_table
from engine.control import Request, Status
from engine.control.views import Period, SlotView
from engine.errors import EngineError

PERIODS = (("total", "total"), ("last hour", "last_hour"), ("top hour", "top_hour"), ("last minute", "last_minute"), ("top minute", "top_minute"))


def add(grammar: Grammar) -> None:
    """Add this command to *grammar*."""
    status = grammar.commands.add_parser(
        "status", parents=[grammar.conf, grammar.state, grammar.form], help="what runs, what came in and went out, and how much mail waits"
    )
    status.set_defaults(run=run_status)


def run_status(arguments: argparse.Namespace) -> int:
    engine = Engine(arguments)
    status = engine.status
    slots: list[SlotView] = engine.slots(Request("slot"))
    counts: dict[str, Any]
    others: dict[str, dict[str, Any]] = {}
    try:
        counts = engine.counts()
        others = {pages.path: pages.counts() for pages in engine.others} | {path: {"error": why} for path, why in engine.away.items()}
        queues, domains, whole = engine.heads()
        counts |= {"queues_waiting": queues, "domains_waiting": domains, "whole": whole}
    except EngineError as error:
        counts = {"error": str(error)}
    if arguments.json:
        print_json(_json(engine, status, slots, counts) | ({"spools": others} if others else {}))
        return os.EX_OK
    state = "stopping" if status.stopping else "ready" if status.ready else "starting"
    print(f"engine {status.version}: {state}, pid {status.pid}, up {duration(status.uptime_s)}, on {', '.join(status.listening) or 'no port'}")
    if status.shadow:
        print(f"SHADOW: no mail leaves this host: every delivery goes to the built-in sink at {status.shadow}, which throws it away")
    print(f"spool {status.spool}: {in_words(counts)}")
    for path, theirs in others.items():
        print(f"spool {path}: {in_words(theirs)}")
    rows = [
        [each.name, each.pid or "-", each.state, duration(each.uptime_s), each.restarts, f"{each.heartbeat_age_s:.0f}s", each.smtp_in, each.smtp_out]
        for each in status.children
    ]
    print_table(["role", "pid", "state", "uptime", "restarts", "heartbeat", "in", "out"], rows)
    _print_traffic(engine, status, slots, counts, others)
    return os.EX_OK


def _print_traffic(engine: Engine, status: Status, slots: list[SlotView], counts: dict[str, Any], others: dict[str, dict[str, Any]]) -> None:
    table = status.traffic
    if table is None:
        return
    print()
    rows = []
    for words, name in PERIODS:
        period: Period = getattr(table, name)
        rows.append([words, *(value for flow in (period.inward, period.outward) for value in (flow.rcp, flow.msg, flow.kb))])
    print_table(["traffic", "in rcpts", "in msgs", "in kbytes", "out rcpts", "out msgs", "out kbytes"], rows)
    print()
    server = engine.config.server
    print_table(
        ["connections", "active", "top", "maximum"],
        [
            ["inbound", table.connections_in.cur, table.connections_in.top, server.total_max_smtp_in],
            ["outbound", table.connections_out.cur, table.connections_out.top, server.total_max_smtp_out],
        ],
    )
    print()
    more = "" if counts.get("whole", True) else "+"
    waiting = [
        counts["recipients"] + sum(theirs.get("recipients", 0) for theirs in others.values()) if "recipients" in counts else "?",
        f"{counts.get('domains_waiting', '?')}{more}",
        f"{counts.get('queues_waiting', '?')}{more}",
        _kbytes(counts),
    ]
    print_table(["queues", "rcpts", "domains", "queues", "kbytes"], [["SMTP", *waiting]])
    print()
    print_table(["names", "cached", "pending"], [["DNS", sum(slot.names_cached for slot in slots), sum(slot.names_pending for slot in slots)]])


def _kbytes(counts: dict[str, Any]) -> object:
    return round(counts["live_bytes"] / 1024, 1) if "live_bytes" in counts else "?"


def _json(engine: Engine, status: Status, slots: list[SlotView], counts: dict[str, Any]) -> dict[str, Any]:
    """What `status` has always told, and PowerMTA's tree beside it: traffic, conn, queue, resolver."""
    told = msgspec.to_builtins(status)
    table = told.pop("traffic") or {}
    server = engine.config.server
    conn = {name: table.pop(name) | {"max": most} for name, most in (("smtpIn", server.total_max_smtp_in), ("smtpOut", server.total_max_smtp_out))}
    return {
        **told,
        "traffic": table,
        "conn": conn,
        "queue": {"smtp": {"rcp": counts.get("recipients"), "dom": counts.get("domains_waiting"), "kb": _kbytes(counts)}},
        "resolver": {"namesCached": sum(slot.names_cached for slot in slots), "queriesPending": sum(slot.names_pending for slot in slots)},
        "slots": msgspec.to_builtins(slots),
        "counts": counts,
    }


def in_words(counts: dict[str, Any]) -> str:
    """The spool's counts on one line."""
    if counts.get("error"):
        return str(counts["error"])
    line = f"{counts['messages']} messages, {counts['recipients']} recipients waiting, {counts['outbox']} records to write"
    return f"{line}; refuses mail: {counts['refusing']}" if counts["refusing"] else line
