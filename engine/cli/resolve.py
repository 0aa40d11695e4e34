"""Where mail for a domain would go: `engine resolve`.  Needs no running engine."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import msgspec

from engine.cli.configured import configuration
from engine.cli.grammar import Grammar
from engine.cli.printing import print_json, print_table
from engine.config import Config
from engine.config.settings import DEFAULT_VIRTUAL_MTA
from engine.delivery.resolve import Resolution, Way, resolve
from engine.delivery.sources import local_addresses
from engine.dns import NoTargets, Resolver, system_servers
from engine.log import escape
from engine.supervisor import sockets


def add(grammar: Grammar) -> None:
    """Add this command to *grammar*."""
    command = grammar.commands.add_parser(
        "resolve", parents=[grammar.conf, grammar.state, grammar.form], help="say where mail for a domain would go, and from which addresses"
    )
    command.add_argument("domain", metavar="DOMAIN", help="a domain, or an address literal such as [192.0.2.1]")
    command.add_argument("--vmta", metavar="NAME", default=DEFAULT_VIRTUAL_MTA, help="for mail of this virtual MTA ({default})")
    command.set_defaults(run=run_resolve)


def run_resolve(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    if arguments.vmta not in config.virtual_mtas:
        print(f"engine: there is no virtual MTA {arguments.vmta} in the configuration: mail of it bounces with 5.3.5", file=sys.stderr)
        return os.EX_DATAERR
    try:
        domain = arguments.domain if arguments.domain.startswith("[") else arguments.domain.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        print(f"engine: {escape(arguments.domain)} is no domain name", file=sys.stderr)
        return os.EX_DATAERR
    found = asyncio.run(_resolve(config, domain, arguments.vmta))
    if arguments.json:
        print_json(_json(found))
    else:
        _print(found)
    return os.EX_OK if found.ways and not any(isinstance(way.found, NoTargets) for way in found.ways) else os.EX_NOHOST


async def _resolve(config: Config, domain: str, vmta: str) -> Resolution:
    listeners = [(each.network, each.port, each.source) for each in config.server.smtp_listener]
    listening = frozenset((address, port) for address, port, _ in sockets.addresses(listeners, 0))
    resolver = Resolver(config.server.name_server or system_servers(), edns_bytes=config.server.edns_udp_length)
    try:
        return await resolve(config, resolver, domain, vmta, listening, local_addresses)
    finally:
        await resolver.close()


def _print(found: Resolution) -> None:
    if found.exchanges:
        rows = [
            [mx.preference, escape(mx.host), ", ".join(mx.addresses) or f"none: {escape(mx.trouble)}", f"{mx.ttl_s:.0f}s"] for mx in found.exchanges
        ]
        print_table(["pref", "host", "addresses", "ttl"], rows)
    elif found.says:
        print(f"MX: {escape(found.says)}")
    print()
    if not found.ways:
        print("nothing is sent: no smtp-source-host of this virtual MTA is an address of this host")
    rows = []
    for way in found.ways:
        source = way.source.ip or "any address"
        if isinstance(way.found, NoTargets):
            rows.append([source, way.source.ehlo, "-", _verdict(way.found)])
            continue
        for index, target in enumerate(way.found.targets, start=1):
            rows.append([source, way.source.ehlo, index, f"{escape(target.host)}[{target.address}]:{target.port}, preference {target.preference}"])
    if rows:
        print_table(["from", "as", "try", "to"], rows)


def _verdict(verdict: NoTargets) -> str:
    what = "mail waits" if verdict.kind == "temporary" else "mail waits or bounces (bounce-upon-no-mx)" if verdict.kind == "no-mx" else "mail bounces"
    return f"{verdict.kind}: {what}: {verdict.status} {escape(verdict.text)}"


def _json(found: Resolution) -> dict[str, object]:
    return {"mx": [msgspec.to_builtins(mx._asdict()) for mx in found.exchanges], "says": found.says, "ways": [_way(way) for way in found.ways]}


def _way(way: Way) -> dict[str, object]:
    told: dict[str, object] = {"source": way.source.ip, "ehlo": way.source.ehlo}
    if isinstance(way.found, NoTargets):
        return told | {"verdict": way.found.kind, "status": way.found.status, "text": way.found.text, "targets": []}
    return told | {"verdict": "ok", "ttl_s": round(way.found.ttl_s, 1), "targets": [target._asdict() for target in way.found.targets]}
