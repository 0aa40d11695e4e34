"""`engine doctor`: can this host send mail, does the world believe it, and are our listeners closed to strangers?  Needs no running engine."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from engine.cli.configured import configuration
from engine.cli.grammar import Grammar
from engine.cli.printing import on_terminal, print_json, print_table, progress_bar
from engine.config import Config, build, read
from engine.config.lexer import ValueProblem
from engine.config.parser import Section
from engine.config.pattern import domain_name
from engine.config.values import address_port, domain_key, parse_value
from engine.delivery.sources import Sources, local_addresses
from engine.dns import Resolver, system_servers
from engine.doctor import Examination, Finding, Plan, examine, exit_code, judge
from engine.doctor.examination import addresses_of
from engine.doctor.finding import SEVERITIES
from engine.doctor.ports import RELAY, SUBMISSION_PORTS, Target
from engine.doctor.probe import source_for
from engine.doctor.stranger import Door, door_of, relaying
from engine.errors import StartError
from engine.log import escape
from engine.supervisor import sockets

# of hosts that the whole world sends to, and that answer on every address
_TARGETS = (
    *(Target("gmail-smtp-in.l.google.com", RELAY, RELAY), Target("smtp.gmail.com", 587, 587), Target("smtp.sendgrid.net", 2525, 2525)),
    Target("smtp.gmail.com", 465, 465),
)
_SUBJECTS_SHOWN = 3  # of findings that say the same
_TIMEOUT_S = 10.0
_MARKS = {"ok": "ok", "hint": "hint", "warning": "WARNING", "problem": "PROBLEM"}


class _Place(NamedTuple):
    """HOST[:PORT[=ROLE]] of the command line; 0 where no port is given."""

    host: str
    port: int
    role: int


def add(grammar: Grammar) -> None:
    """Add this command to *grammar*."""
    command = grammar.commands.add_parser(
        "doctor",
        parents=[grammar.conf, grammar.state, grammar.form],
        help="say whether this host can send mail, is believed, and is closed to strangers",
        epilog="Exit status: 0 all is well, 1 warnings, 2 problems.  =ROLE: the port that a translated port stands for, as in 10.0.0.5:10587=587.",
    )
    command.add_argument(
        "--target", metavar="HOST[:PORT[=ROLE]]", action="append", type=_place, help="connect to it (ports 25, 587, 2525, 465) instead of Google's"
    )
    command.add_argument("--name-server", metavar="IP[:PORT]", action="append", type=_name_server, help="instead of the configuration's")
    command.add_argument(
        "--domain",
        metavar="DOMAIN",
        action="append",
        type=_domain,
        help="whose SPF record is to know us; those of postmaster and domain-key if not given",
    )
    command.add_argument("--vmta", metavar="NAME", action="append", help="only the source addresses of this virtual MTA")
    command.add_argument("--listener", metavar="HOST:PORT[=ROLE]", action="append", type=_place, help="look at it instead of the configuration's")
    command.add_argument("--from", metavar="IP", dest="client", type=_address, help="the local address to come from, as a stranger, to listeners")
    command.add_argument("--port-offset", metavar="N", type=int, default=0, help="as the engine was started with")
    command.add_argument(
        "--timeout", metavar="S", type=float, default=_TIMEOUT_S, help=f"of each step of a conversation; {_TIMEOUT_S:g} if not given"
    )
    command.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    if unknown := [name for name in arguments.vmta or () if name not in config.virtual_mtas]:
        raise StartError(f"there is no virtual MTA {', '.join(unknown)} in the configuration")
    if not 0 < arguments.timeout <= 300:
        raise StartError("--timeout is between 0 and 300 seconds")
    seen = asyncio.run(_examine(config, arguments))
    findings = judge(seen, relaying(config), time.time(), arguments.timeout)
    if arguments.json:
        print_json({"findings": [finding._asdict() for finding in findings], "counts": _counts(findings), "exit": exit_code(findings)})
    else:
        _print(_gathered(findings))
        print(_summary(findings))
    return exit_code(findings)


async def _examine(config: Config, arguments: argparse.Namespace) -> Examination:
    local = local_addresses()
    every = Sources(config, lambda: local)
    names = arguments.vmta or config.virtual_mtas
    sources = tuple(dict.fromkeys((source.ip, source.ehlo) for name in names for source in every.every(name)))
    resolver = Resolver(arguments.name_server or config.server.name_server or system_servers(), edns_bytes=config.server.edns_udp_length)
    try:
        doors = await _doors(config, arguments, resolver)
        plan = Plan(
            sources,
            _targets(arguments.target),
            tuple(arguments.domain or _domains(config, build(read(arguments.conf, lenient=arguments.lenient)).top)),
            doors,
        )
        with progress_bar() as bar:
            return await examine(plan, resolver, arguments.timeout, bar)
    finally:
        await resolver.close()


def _targets(given: Sequence[_Place] | None) -> tuple[Target, ...]:
    if not given:
        return _TARGETS
    ports = (RELAY, *SUBMISSION_PORTS)
    return tuple(Target(*each) for place in given for each in ([place] if place.port else [_Place(place.host, port, port) for port in ports]))


def _domains(config: Config, top: Section) -> tuple[str, ...]:
    """The sending domains that the configuration names: those of its postmasters, and those whose mail a domain-key is to sign."""
    found = [address.rpartition("@")[2].lower() for address in config.server.postmaster if "@" in address]
    return tuple(dict.fromkeys([*found, *_signed(top)]))


def _signed(section: Section) -> Iterator[str]:
    for statement in section.statements:
        if statement.name == "domain-key":
            try:
                yield domain_name(parse_value(domain_key, statement.argument)[1])
            except (ValueProblem, ValueError):
                continue  # *, or a macro: no domain of its own
    for inner in section.sections:
        yield from _signed(inner)


async def _doors(config: Config, arguments: argparse.Namespace, resolver: Resolver) -> tuple[Door, ...]:
    local = local_addresses()
    if not arguments.listener:
        listeners = [(each.network, each.port, each.source) for each in config.server.smtp_listener]
        places = sockets.addresses(listeners, arguments.port_offset)
        offset, client = arguments.port_offset, arguments.client or ""
        found = [
            door_of(config, (address, port, port - offset), local, listener=config.listener(address, port - offset), client=client)
            for address, port, _ in places
        ]
        return tuple({door.where: door for door in found}.values())
    doors = []
    for place in arguments.listener:
        addresses, trouble = await addresses_of(resolver, place.host)
        if not addresses or not place.port:
            raise StartError(f"--listener {escape(place.host)}: {trouble or 'HOST:PORT is expected'}")
        for address in addresses:
            ours = ip_address(address).is_loopback or ip_address(address) in local
            door = door_of(config, (address, place.port, place.role), local, client=arguments.client or "", own="" if ours else source_for(address))
            doors.append(door if place.host == address else door._replace(host_name=place.host))
    return tuple(doors)


# --- what is printed ---


def _gathered(findings: Iterable[Finding]) -> list[Finding]:
    """*findings* that say the same of several subjects as one, in the order of the first."""
    alike: dict[Finding, list[str]] = {}
    for finding in findings:
        alike.setdefault(finding._replace(subject=""), []).append(finding.subject)
    return [finding._replace(subject=_subjects(list(dict.fromkeys(subjects)))) for finding, subjects in alike.items()]


def _subjects(subjects: list[str]) -> str:
    shown = ", ".join(subjects[:_SUBJECTS_SHOWN])
    return shown if len(subjects) <= _SUBJECTS_SHOWN else f"{shown} and {len(subjects) - _SUBJECTS_SHOWN} more"


def _print(findings: Sequence[Finding]) -> None:
    if on_terminal():
        rows = [[_MARKS[each.severity], each.subject, escape(each.text), escape(each.advice)] for each in findings]
        print_table(["", "about", "what was seen", "what to do"], rows)
        return
    for each in findings:
        print(f"{each.severity}: {each.topic}: {each.subject}: {escape(each.text)}{f'.  To do: {escape(each.advice)}' if each.advice else ''}")


def _counts(findings: Iterable[Finding]) -> dict[str, int]:
    counts: dict[str, int] = dict.fromkeys(SEVERITIES, 0)
    for finding in findings:
        counts[finding.severity] += 1
    return counts


def _summary(findings: Sequence[Finding]) -> str:
    counts = _counts(findings)
    said = [f"{counts[kind]} {kind}{'' if counts[kind] == 1 else 's'}" for kind in ("problem", "warning", "hint") if counts[kind]]
    return f"doctor: {', '.join(said) or 'all is well'}, {counts['ok']} fine"


# --- what is given ---


def _place(text: str) -> _Place:
    whole, equals, role = text.partition("=")
    host, colon, port = whole, "", ""
    if whole.startswith("[") or whole.count(":") == 1:
        host, colon, port = whole.rpartition(":") if not whole.endswith("]") else (whole, "", "")
        host = host.removeprefix("[").removesuffix("]")
    numbers = [number for number, given in ((port, colon), (role, equals)) if given]
    if not host or (equals and not colon) or not all(number.isascii() and number.isdigit() and 0 < int(number) < 65536 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: HOST[:PORT[=ROLE]] is expected")
    return _Place(host, int(port or 0), int(role or port or 0))


def _name_server(text: str) -> tuple[str, int]:
    try:
        return parse_value(address_port, text)
    except ValueProblem as problem:
        raise argparse.ArgumentTypeError(f"--name-server: {problem.text}") from None


def _domain(text: str) -> str:
    try:
        return text.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no domain name") from None


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address") from None
