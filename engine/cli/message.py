"""A message in the spool of a running engine: `engine show message`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import msgspec

from engine.cli.configured import configuration, spool_path
from engine.cli.grammar import Grammar
from engine.cli.printing import local_time, print_json, print_table
from engine.control import ask_spool
from engine.control.client import NotRunning
from engine.log import escape
from engine.mail import message_id
from engine.mail.envelope import Due, Message
from engine.process import spool_socket


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    message = grammar.show.add_parser(
        "message", parents=[grammar.conf, grammar.state, grammar.form], help="a message in the spool and where its recipients stand"
    )
    message.add_argument("id", metavar="ID", help="as in the 250 reply, the log and Received")
    message.set_defaults(run=run_show_message)


def run_show_message(arguments: argparse.Namespace) -> int:
    identity = message_id.parse(arguments.id)
    if identity is None:
        print(f"engine: {arguments.id!r} is not a message id: 20 letters and digits, as in the 250 reply", file=sys.stderr)
        return os.EX_USAGE
    config = configuration(arguments)
    first = spool_path(config)
    answer, where = ask_spool(spool_socket(first), {"q": "show", "id": identity}), first
    for path in [spool.path for spool in config.accepting_spools if spool.path != first and not answer.get("ok")]:
        try:
            there = ask_spool(spool_socket(path), {"q": "show", "id": identity})
        except NotRunning as error:
            print(f"engine: spool {path} is not looked into: {error}", file=sys.stderr)
            continue
        if there.get("ok"):
            answer, where = there, path
            break
    if not answer.get("ok"):
        print(f"engine: {arguments.id}: {answer.get('error', 'no answer')}", file=sys.stderr)
        return os.EX_DATAERR
    shown = message_in_words(arguments.id, answer) | ({"spool": where} if where != first else {})
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
