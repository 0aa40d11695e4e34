"""The first configuration: `engine init` asks on a terminal for what the flags do not say, and writes it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.cli.grammar import Grammar
from engine.config import build, from_text
from engine.config import values as v
from engine.config.pattern import Address, Network, parse_address, parse_network
from engine.config.starter import Wishes, starter
from engine.errors import StartError
from engine.supervisor.sockets import local_addresses

T = TypeVar("T")
MODE = 0o640


class Refused(Exception):
    """An answer that cannot be used, or none where one is needed."""


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    init = grammar.commands.add_parser(
        "init",
        help="write a first configuration; asks on a terminal",
        description="Writes a small configuration.  What the flags do not say is asked on a terminal; elsewhere it is --host-name that is needed.",
    )
    init.add_argument("--host-name", metavar="NAME", help="how we greet; should have an A or AAAA record")
    init.add_argument("--ip", metavar="IP", action="append", help="address to send from; several take turns")
    init.add_argument("--relay-from", metavar="CIDR", action="append", help="who may send through us to anybody; 127.0.0.1 and ::1 if not given")
    init.add_argument("--postmaster", metavar="ADDRESS", help="who reads mail to postmaster and abuse; postmaster@NAME if not given")
    init.add_argument("--output", metavar="PATH", default="engine.conf", help="file to write, or the directory for engine.conf (default: here)")
    init.add_argument("--force", action="store_true", help="replace a file that is there")
    init.set_defaults(run=run_init)


def run_init(arguments: argparse.Namespace) -> int:
    target = Path(arguments.output)
    if target.is_dir():
        target /= "engine.conf"
    if target.exists() and not arguments.force:
        print(f"engine: {target} is there already: give --force to replace it, or --output another file", file=sys.stderr)
        return os.EX_CANTCREAT
    try:
        wishes = _wishes(arguments)
    except Refused as refused:
        print(f"engine: {refused}; nothing is written", file=sys.stderr)
        return os.EX_USAGE
    text = starter(wishes)
    loaded = build(from_text(text, str(target.absolute())))
    if loaded.config is None:
        raise StartError("what would be written has errors:\n" + "\n".join(str(problem) for problem in loaded.problems))
    try:
        _write(target, text)
    except OSError as error:
        print(f"engine: cannot write {target}: {error.strerror}", file=sys.stderr)
        return os.EX_CANTCREAT
    print(f"{target} is written.  Next: engine check-config -c {target}, then engine start -c {target}")
    return os.EX_OK


def _write(target: Path, text: str) -> None:
    """Make *target* hold *text*, readable by owner and group alone; all of it or nothing."""
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        with open(descriptor, "w") as file:
            os.fchmod(descriptor, MODE)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


# --- what is wished ---


def _wishes(arguments: argparse.Namespace) -> Wishes:
    """What flags and answers say; Refused says what is wrong with them."""
    asking = sys.stdin.isatty() and sys.stdout.isatty()
    host_name = _wish("--host-name", arguments.host_name, asking, "Host name of this machine, as others find it", os.uname().nodename, _host_name)
    own = _own_addresses() if asking else []
    ips = _wish("--ip", arguments.ip, asking, "Addresses to send from", ", ".join(map(str, own)), _list(parse_address))
    relay_from = _wish("--relay-from", arguments.relay_from, asking, "Who may send through it", "127.0.0.1, ::1", _list(_relay_network))
    postmaster = _wish("--postmaster", arguments.postmaster, asking, "Address of the postmaster", f"postmaster@{host_name}", _mail_address)
    return Wishes(host_name, postmaster, relay_from, ips)


def _wish(flag: str, given: str | list[str] | None, asking: bool, question: str, default: str, read: Callable[[str], T]) -> T:
    """What *flag* says, else the answer to *question*, else *default*; a wrong answer is asked for again."""
    if given is not None:
        try:
            return read(given if isinstance(given, str) else ", ".join(given))
        except ValueError as error:
            raise Refused(f"{flag}: {error}") from error
    if not asking:
        if flag == "--host-name":
            raise Refused("--host-name is needed: there is no terminal to ask on")
        return read(default)
    while True:
        try:
            answer = input(f"{question} [{default or 'any'}]: ").strip()
        except EOFError:
            raise Refused("the answers ended") from None
        try:
            return read(answer or default)
        except ValueError as error:
            print(f"  {error}")


def _list(read: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(dict.fromkeys(read(word) for word in text.replace(",", " ").split()))


def _host_name(text: str) -> str:
    return v.parse_value(v.host_name, text)


def _mail_address(text: str) -> str:
    return v.parse_value(v.mail_address, text)


def _relay_network(text: str) -> Network:
    try:
        network = parse_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is {error}") from error
    if network.prefixlen == 0:
        raise ValueError(f"{text} is everybody, which would make an open relay")
    return network


def _own_addresses() -> list[Address]:
    """This machine's addresses that others can see; none if it cannot be asked."""
    try:
        return [address for address in local_addresses() if not address.is_loopback]
    except (OSError, ValueError):
        return []
