"""Which value is in effect, and which line says so: for the server, a <source>, a virtual MTA, a queue.  Pure.

What does not work yet is shown as it will be, and marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from engine.config.build import Loaded
from engine.config.directive import Directive, Status
from engine.config.lexer import Place
from engine.config.parser import Section, Statement
from engine.config.pattern import client_address
from engine.config.stanza import STANZAS, TOP

HIDDEN = "(hidden)"
_ADDING = frozenset(  # of those that do not work yet: each line adds to the others
    {
        *("api-key", "cold-virtual-mta", "domain-key", "dummy-smtp-ip", "http-access", "http-api-key", "ip-connection-limit", "mx-connection-limit"),
        *("smtp-proxy-source-host", *(f"source-ip-max-{what}" for what in ("smtp-out", "msg-rate", "connect-rate", "data-volume-rate"))),
    }
)
_STACKED = frozenset({"domain-key", "include-headers-from"})  # a wider scope's lines come after a narrower one's instead of being replaced
_UNSAID = {  # what no line says and no table holds
    (TOP, "host-name"): "this machine's name",
    (TOP, "name-server"): "the system's",
    (TOP, "smtp-listener"): "0.0.0.0:25",
    (TOP, "listener-workers"): "by the number of cores",
    (TOP, "delivery-workers"): "by the number of cores",
    ("virtual-mta", "smtp-source-host"): "any address of this machine",
    ("virtual-mta", "host-name"): "the server's",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that is in effect."""

    name: str  # the directive's name of today
    value: str  # as written; what hides a secret; or the default
    place: Place | None  # None: the default
    status: Status = "working"


@dataclass(frozen=True, slots=True)
class Said:
    """One statement that its stanza knows and whose arguments can be read."""

    row: Directive
    statement: Statement

    @property
    def key(self) -> str:
        """The same for a directive and its old forms."""
        return self.row.field or self.row.name

    def setting(self, name: str) -> Setting:
        value = self.statement.argument
        if self.row.name.endswith("-certificate"):  # the file, and perhaps its password
            path, _, password = value.partition(" ")
            value = f"{path} {HIDDEN}" if password else path
        elif self.row.type.secret or self.row.name.endswith("password"):
            value = HIDDEN
        return Setting(name, value, self.statement.place, self.row.status)


class Explainer:
    """Answers for one configuration, with errors or without; what cannot be read is as if it were not there."""

    def __init__(self, loaded: Loaded) -> None:
        self.top = loaded.top
        self.config = loaded.draft
        self._broken: dict[tuple[str, int], list[int]] = {}
        for problem in loaded.problems:
            if problem.severity == "error":
                self._broken.setdefault((problem.file, problem.line), []).append(problem.column)
        self._stanzas = {section.place: section for section in _domains(self.top)}
        self._sources = {section.place: section for section in self.top.sections if section.tag == "source"}
        self._known: dict[int, list[Said]] = {}

    def said(self, section: Section) -> list[Said]:
        """The statements of *section* that can be read, in order."""
        if id(section) in self._known:
            return self._known[id(section)]
        stanza = STANZAS.get(section.tag)
        found = []
        for statement in section.statements if stanza else ():
            row = stanza.directives.get(statement.name) if stanza else None
            columns = self._broken.get((statement.place.file, statement.place.line), ())
            if row is not None and all(column == statement.place.column for column in columns):
                found.append(Said(row, statement))
        self._known[id(section)] = found
        return found

    # --- what is in effect ---

    def server(self) -> list[Setting]:
        """What stands outside every stanza."""
        return self._effective(TOP, [self.said(self.top)])

    def source(self, client: str) -> list[Setting]:
        """What is in effect for the *client*, an IP or the name of a <source>.  ValueError if there is none of that name."""
        if client in self.config.named_sources:
            sections = [section for section in self.top.sections if section.tag == "source" and _argument(section) == client]
        else:
            sections = [self._sources[entry.place] for _, entry in self.config.sources.find(client_address(client)) if entry.place in self._sources]
        inherited = [said for said in self.said(self.top) if said.row.name == "always-allow-relaying"]
        return self._effective("source", [inherited, *(self.said(section) for section in sections)])

    def domain(self, domain: str, vmta: str) -> list[Setting]:
        """What is in effect for the queue *domain* (lower case, A-labels) / *vmta*."""
        return self._effective("domain", self.domain_layers(domain, vmta))

    def domain_layers(self, domain: str, vmta: str) -> list[list[Said]]:
        """What the <domain> sections that match say, the weakest first."""
        entries = self.config.domain_entries(domain, vmta)
        return [self.said(self._stanzas[entry.place]) for entry in entries if entry.place in self._stanzas]

    def virtual_mta(self, name: str) -> list[Setting]:
        """What is in effect for the virtual MTA *name* itself, its pools' and the server's settings included."""
        pools = [pool for pool, its in self.config.pools.items() if name in its.members]
        above = _as("virtual-mta", self._named("virtual-mta-pool", lambda argument: argument in pools))
        bounds = [said for said in above if said.row.name == "max-smtp-out" and _bound(said)]
        smallest = min(bounds, key=_bound, default=None)  # a member of several pools obeys this one
        above = [said for said in above if said.row.name != "max-smtp-out" or said is smallest]
        own = self._named("virtual-mta", lambda argument: argument == name)
        return self._effective("virtual-mta", [_as("virtual-mta", self.said(self.top)), above, own])

    def stanzas(self, tag: str) -> list[tuple[str, list[Setting]]]:
        """(argument, what is in effect) of each section *tag* at the top level, repetitions taken together."""
        names = dict.fromkeys(_argument(section) for section in self.top.sections if section.tag == tag)
        return [(name, self._effective(tag, [self._named(tag, name.__eq__)])) for name in names]

    # --- how ---

    def _named(self, tag: str, wanted: Callable[[str], bool]) -> list[Said]:
        sections = [section for section in self.top.sections if section.tag == tag and wanted(_argument(section))]
        return [said for section in sections for said in self.said(section)]

    def _effective(self, tag: str, layers: list[list[Said]]) -> list[Setting]:
        """What wins: of each layer its last word, of all layers the last that says something; lines that add do so within a layer."""
        won: dict[str, list[Said]] = {}
        for layer in layers:
            for key, lines in lines_by_key(layer).items():
                won[key] = [*lines, *won.get(key, [])] if key in _STACKED else lines
        settings: list[Setting] = []
        for row in _rows(tag):
            lines = won.get(row.field or row.name, [])
            settings += [said.setting(row.name) for said in lines]
            if not lines and row.status == "working" and row.field:
                settings.append(Setting(row.name, _UNSAID.get((tag, row.name), row.default or "none"), None))
        return settings


def _bound(said: Said) -> int:
    """The number that it sets; 0 for none."""
    return int(said.statement.argument) if said.statement.argument.isdigit() else 0


def _as(tag: str, layer: Iterable[Said]) -> list[Said]:
    """Those of *layer* that mean the same in the stanza *tag*."""
    rows = STANZAS[tag].directives
    return [Said(rows[said.row.name], said.statement) for said in layer if said.row.name in rows and said.row.name not in ("host-name", "include")]


def lines_by_key(layer: Iterable[Said]) -> dict[str, list[Said]]:
    """For each directive of *layer* the statements that count: all of one that adds, else the last."""
    found: dict[str, list[Said]] = {}
    for said in layer:
        adds = said.row.repeat or said.row.name in _ADDING or (said.row.status == "working" and not said.row.field)
        found[said.key] = [*found.get(said.key, []), said] if adds else [said]
    return found


def _rows(tag: str) -> Iterator[Directive]:
    """The directives of the stanza *tag* by their names of today, in the table's order."""
    told = set()
    for row in STANZAS[tag].directives.values():
        if row.name != "include" and (row.field or row.name) not in told:
            told.add(row.field or row.name)
            yield row


def _domains(top: Section) -> Iterator[Section]:
    for section in top.sections:
        if section.tag == "domain":
            yield section
        elif section.tag in ("virtual-mta", "virtual-mta-pool"):
            yield from (inner for inner in section.sections if inner.tag == "domain")


def _argument(section: Section) -> str:
    return section.argument.strip().strip('"')
