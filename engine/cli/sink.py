"""`engine sink`: a host to send to while one tests; it throws everything away and tells how much came."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
from ipaddress import ip_address
from pathlib import Path

import msgspec
import uvloop

from engine.cli.grammar import Grammar
from engine.cli.printing import print_json
from engine.errors import StartError
from engine.sink.behaviour import STAGES, Behaviour, BehaviourError, Counts, read_blacklist, read_replies
from engine.sink.listening import Sink


def add(grammar: Grammar) -> None:
    """Add this command to *grammar*."""
    sink = grammar.commands.add_parser(
        "sink", parents=[grammar.form], help="accept mail and throw it away, for tests; at SIGINT or SIGTERM, say how much came"
    )
    sink.add_argument("--listen", metavar="IP:PORT", default="127.0.0.1:2525", help="where; 127.0.0.1:2525 if not given")
    sink.add_argument(
        "--reply", metavar="STAGE=CODE TEXT", action="append", default=[], help=f"instead of the usual reply; stages: {', '.join(STAGES)}"
    )
    sink.add_argument("--latency", metavar="MS", type=float, default=0.0, help="wait so long before each reply")
    sink.add_argument("--blacklist", metavar="FILE", help="recipients to bounce: addresses and domains, one a line")
    sink.add_argument(
        "--bounce-percent", metavar="N", type=float, help="bounce N percent of those on the blacklist (100 if not given), or of all recipients"
    )
    sink.add_argument("--chunking", action="store_true", help="offer CHUNKING and BINARYMIME, and take BDAT")
    sink.set_defaults(run=run_sink)


def run_sink(arguments: argparse.Namespace) -> int:
    """Serve until told to stop; 0, or StartError."""
    try:
        behaviour = _behaviour(arguments)
        bound = _bind(arguments.listen)
    except (BehaviourError, OSError) as error:
        raise StartError(f"sink: {error}") from error
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        counts, seconds = runner.run(_serve(behaviour, bound))
    if arguments.json:
        print_json(msgspec.to_builtins(counts) | {"seconds": round(seconds, 3)})
    else:
        print(f"engine sink: {counts.in_words(seconds)}")
    return 0


def _behaviour(arguments: argparse.Namespace) -> Behaviour:
    listed = read_blacklist(Path(arguments.blacklist).read_text("utf-8", "replace")) if arguments.blacklist else None
    percent = arguments.bounce_percent if arguments.bounce_percent is not None else 0.0 if listed is None else 100.0
    if not 0 <= percent <= 100 or not 0 <= arguments.latency <= 600_000:
        raise BehaviourError("--bounce-percent is between 0 and 100, --latency between 0 and 600000")
    name = socket.gethostname()
    return Behaviour(
        host_name=name if name.isascii() and name.isprintable() else "sink.invalid",
        replies=read_replies(arguments.reply),
        latency_s=arguments.latency / 1000,
        blacklist=listed,
        bounce_percent=percent,
        chunking=arguments.chunking,
    )


def _bind(where: str) -> socket.socket:
    host, colon, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise BehaviourError(f"--listen {where}: IP:PORT is expected")
    try:
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise BehaviourError(f"--listen {where}: {host!r} is not an IP address") from None
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {where}: {error.strerror}") from error
    return bound


async def _serve(behaviour: Behaviour, bound: socket.socket) -> tuple[Counts, float]:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    address, port = bound.getsockname()[:2]
    sink = Sink(behaviour)
    sink.listen([bound])
    began_s = loop.time()
    print(f"engine sink: throws away what comes to {f'[{address}]' if ':' in address else address}:{port}", flush=True)
    await stopped.wait()
    sink.close()
    return sink.counts, loop.time() - began_s
