"""What a configuration says: `engine check-config`, `engine show settings`."""

from __future__ import annotations

import argparse
import os
import sys

from engine.cli import verdict as words
from engine.cli.grammar import Grammar
from engine.cli.printing import print_json, print_table
from engine.config import DEFAULT_VIRTUAL_MTA, Config, build, read
from engine.config.build import Loaded
from engine.config.explain import Explainer, Setting
from engine.config.pattern import domain_name
from engine.config.risk import files_to_look_at
from engine.config.verdict import judge
from engine.supervisor.surroundings import look

_SECTIONS = ("smtp-listener", "spool", "acct-file")


def add(grammar: Grammar) -> None:
    """Add these commands to *grammar*."""
    checking = grammar.commands.add_parser(
        "check-config",
        parents=[grammar.conf, grammar.form],
        help="say what works, what does not yet, what is dangerous, and what large providers would get; starts nothing",
        description="Exit status: 0 an engine would start with it on this machine, 78 it would not.",
    )
    checking.set_defaults(run=run_check)
    settings = grammar.show.add_parser(
        "settings",
        parents=[grammar.conf, grammar.form],
        help="each value that the file puts into effect, and the line it comes from",
        description="The server's settings, those of a queue (DOMAIN, or DOMAIN/VMTA), or a client's.  Reads the file; no engine needs to run.",
    )
    settings.add_argument("queue", metavar="DOMAIN[/VMTA]", nargs="?", default="", help="without a VMTA: by {default}")
    settings.add_argument("--source", metavar="IP|NAME", default="", help="what a client at this address, or under this <source>, gets")
    settings.set_defaults(run=run_show_settings)


def run_check(arguments: argparse.Namespace) -> int:
    loaded = build(read(arguments.conf, lenient=arguments.lenient))
    verdict = judge(loaded, look(files_to_look_at(loaded, Explainer(loaded))))
    if arguments.json:
        print_json(words.built(verdict))
    else:
        words.show(verdict, loaded.top.place.file)
    return os.EX_OK if verdict.usable else os.EX_CONFIG


def run_show_settings(arguments: argparse.Namespace) -> int:
    if arguments.queue and arguments.source:
        print("engine: a queue or --source: one of them", file=sys.stderr)
        return os.EX_USAGE
    loaded = build(read(arguments.conf, lenient=arguments.lenient))
    if loaded.config is None:
        print(f"engine: {arguments.conf} has errors (see engine check-config): what they are in is left out here", file=sys.stderr)
    try:
        groups = _groups(loaded, arguments.queue, arguments.source)
    except ValueError as error:
        print(f"engine: {error}", file=sys.stderr)
        return os.EX_DATAERR
    if arguments.json:
        print_json([{"section": title, "settings": [{"name": s.name, **words.setting(s)} for s in settings]} for title, settings in groups])
        return os.EX_OK
    rows = [[title, s.name, s.value, _origin(s)] for title, settings in groups for s in settings]
    print_table(["section", "directive", "value", "from"], rows)
    return os.EX_OK


def _groups(loaded: Loaded, queue: str, source: str) -> list[tuple[str, list[Setting]]]:
    """(title, settings) of what is asked for; ValueError says what is not there."""
    explainer = Explainer(loaded)
    if source:
        try:
            return [(f"source {source}", explainer.source(source))]
        except ValueError as error:
            raise ValueError(f"--source {source}: neither an address nor the name of a <source>") from error
    if queue:
        domain, vmta = _queue(queue, loaded.draft)
        return [(f"{domain}/{vmta}", explainer.domain(domain, vmta)), (f"virtual-mta {vmta}", explainer.virtual_mta(vmta))]
    groups = [("server", explainer.server())]
    for tag in _SECTIONS:
        groups += [(f"{tag} {argument}", settings) for argument, settings in explainer.stanzas(tag)]
    return groups


def _queue(text: str, config: Config) -> tuple[str, str]:
    """The domain and the virtual MTA of a queue's name; ValueError if there is no such virtual MTA."""
    domain, _, vmta = text.partition("/")
    vmta = vmta or DEFAULT_VIRTUAL_MTA
    if vmta in config.pools:
        raise ValueError(f"{vmta} is a pool: ask for one of its virtual MTAs ({', '.join(config.pools[vmta].members)})")
    if vmta not in config.virtual_mtas:
        raise ValueError(f"no virtual MTA is named {vmta!r}")
    return domain if domain.startswith(("[", "{", "*")) else domain_name(domain), vmta


def _origin(setting: Setting) -> str:
    where = f"{setting.place.file}:{setting.place.line}" if setting.place else "default"
    return f"{where} (does not work yet)" if setting.status == "later" else where
