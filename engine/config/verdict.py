"""What a configuration is worth to its operator: what works, what does not yet, what is dangerous, what each large provider would get.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config.build import Loaded
from engine.config.explain import Explainer, Said, Setting, lines_by_key
from engine.config.lexer import Place, ValueProblem
from engine.config.parser import Section
from engine.config.problem import Problem
from engine.config.risk import Risk, find_risks
from engine.config.settings import DEFAULT_VIRTUAL_MTA
from engine.config.stanza import STANZAS
from engine.config.surroundings import Surroundings
from engine.config.values import parse_value

PROVIDERS = (
    *("gmail.com", "googlemail.com", "yahoo.com", "aol.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "icloud.com", "me.com"),
    *("gmx.de", "gmx.net", "web.de", "t-online.de", "orange.fr", "wanadoo.fr", "free.fr", "sfr.fr", "laposte.net", "libero.it"),
    *("comcast.net", "att.net", "verizon.net", "cox.net", "btinternet.com", "mail.ru", "yandex.ru", "qq.com", "163.com"),
)
OTHERS = "*"  # every domain that no section names
_NOBODY = "other.invalid"  # stands for them
_ALWAYS_SHOWN = ("max-smtp-out", "retry-after", "bounce-after")
LIMITS = (
    *("max-smtp-out", "max-msg-rate", "max-msg-per-hour", "max-connect-rate", "max-data-volume-rate", "max-msg-per-connection"),
    *("max-rcpt-per-message", "max-cold-virtual-mta-msg", "backoff-max-msg-rate", "retry-after", "bounce-after"),
)


@dataclass(frozen=True, slots=True)
class NotYet:
    """A directive or stanza that this version knows and does not do."""

    name: str
    scope: str  # "" or "<domain>"
    places: tuple[Place, ...]
    stops: str  # why the engine does not start without it; "" where it starts


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit that is in effect."""

    name: str
    value: str
    works: bool
    places: tuple[Place, ...]  # several where virtual MTAs say the same in lines of their own; none: the default


@dataclass(frozen=True, slots=True)
class Provider:
    """The limits in effect for domains and virtual MTAs that share them."""

    domains: tuple[str, ...]
    virtual_mtas: tuple[str, ...]
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole answer of `engine check-config`."""

    problems: tuple[Problem, ...]  # what is said nowhere below
    working: int  # directives, each counted once per stanza it stands in
    working_lines: int
    not_yet: tuple[NotYet, ...]
    risks: tuple[Risk, ...]
    providers: tuple[Provider, ...]
    usable: bool  # an engine would start with it on this machine


def judge(loaded: Loaded, around: Surroundings) -> Verdict:
    """The verdict on *loaded* on the machine *around*."""
    explainer = Explainer(loaded)
    working, not_yet = _count(loaded, explainer)
    risks = find_risks(loaded, explainer, around)
    covered = {place for item in not_yet for place in item.places}
    return Verdict(
        problems=tuple(p for p in loaded.problems if not p.risk and not (p.severity != "warning" and Place(p.file, p.line, p.column) in covered)),
        working=len(working),
        working_lines=sum(working.values()),
        not_yet=tuple(not_yet),
        risks=tuple(risks),
        providers=tuple(_providers(loaded, explainer)),
        usable=loaded.config is not None and not any(risk.stops for risk in risks),
    )


# --- what works ---


def _count(loaded: Loaded, explainer: Explainer) -> tuple[dict[tuple[str, str], int], list[NotYet]]:
    """How often each directive that works stands, by (stanza, name), and those that do not work, in the order of their first line."""
    errors = {Place(p.file, p.line, p.column): p.text for p in loaded.problems if p.severity == "error"}
    working: dict[tuple[str, str], int] = {}
    missing: dict[tuple[str, str], list[Place]] = {}
    stops: dict[tuple[str, str], str] = {}

    def read(section: Section) -> None:
        for said in explainer.said(section):
            row, place = said.row, said.statement.place
            key = (section.tag, row.name)
            if row.status == "working" or (row.status == "later" and _harmless(said)):
                if place not in errors:
                    working[key] = working.get(key, 0) + 1
            elif row.status == "later":
                missing.setdefault(key, []).append(place)
                if row.stops or place in errors:
                    stops[key] = row.stops or errors[place].rpartition(" would ")[2]
        for inner in section.sections:
            stanza = STANZAS.get(inner.tag)
            if stanza is not None and stanza.working:
                read(inner)
            elif stanza is not None:
                missing.setdefault(("<>", inner.tag), []).append(inner.place)
                stops[("<>", inner.tag)] = stanza.stops

    read(loaded.top)
    order = {file: number for number, file in enumerate(dict.fromkeys(p.file for places in missing.values() for p in places))}
    order[loaded.top.place.file] = -1
    items = [
        NotYet(f"<{name}>" if tag == "<>" else name, "" if tag in ("", "<>") else f"<{tag}>", tuple(places), stops.get((tag, name), ""))
        for (tag, name), places in missing.items()
    ]
    return working, sorted(items, key=lambda item: (order[item.places[0].file], item.places[0].line))


def _harmless(said: Said) -> bool:
    """Whether the value asks for nothing that we do not do."""
    if not said.row.harmless:
        return False
    try:
        return parse_value(said.row.type, said.statement.argument) in said.row.harmless
    except ValueProblem:
        return False


# --- what each provider gets ---


Words = tuple[tuple[str, str, bool], ...]  # name, value, works
Limits = dict[tuple[str, str, bool], dict[Place, None]]  # the same, and where they stand


def _providers(loaded: Loaded, explainer: Explainer) -> list[Provider]:
    """The large providers that the file speaks of, and all others together: {default} first, then the virtual MTAs that differ from it."""
    rows: dict[tuple[tuple[tuple[str, ...], tuple[Limit, ...]], ...], list[str]] = {}  # what is the same for several domains stands once
    limits = _LimitsOf(loaded, explainer)
    for domain in (*PROVIDERS, OTHERS):
        asked = _NOBODY if domain == OTHERS else domain
        usual, named = limits.of(asked, DEFAULT_VIRTUAL_MTA)
        groups: dict[Words, tuple[list[str], Limits]] = {}
        for vmtas in limits.alike:
            found, named_here = limits.of(asked, vmtas[0])
            named = named or named_here
            names, places = groups.setdefault(tuple(found), ([], {}))
            names.extend(vmtas)
            for words, its_places in found.items():
                places.setdefault(words, {}).update(its_places)
        if named or domain == OTHERS:
            others = [(tuple(names), _shown(places)) for words, (names, places) in groups.items() if words != tuple(usual)]
            rows.setdefault((((DEFAULT_VIRTUAL_MTA,), _shown(usual)), *others), []).append(domain)
    return [Provider(tuple(domains), vmtas, shown) for group, domains in rows.items() for vmtas, shown in group]


def _shown(limits: Limits) -> tuple[Limit, ...]:
    return tuple(Limit(name, value, works, tuple(places)) for (name, value, works), places in limits.items())


class _LimitsOf:
    """What bounds a queue, looked up once for each set of <domain> sections."""

    def __init__(self, loaded: Loaded, explainer: Explainer) -> None:
        self._config = loaded.draft
        self._explainer = explainer
        self._known: dict[tuple[int, ...], Limits] = {}
        alike: dict[tuple[int, int], list[str]] = {}
        for name in self._config.virtual_mtas:
            scopes = (id(self._config.virtual_mta_domains.get(name)), id(self._config.pool_domains.get(name)))
            alike.setdefault(scopes, []).append(name)
        self.alike = list(alike.values())  # virtual MTAs with the same <domain> sections

    def of(self, domain: str, vmta: str) -> tuple[Limits, bool]:
        """What bounds the queue *domain* / *vmta*; whether a section names the domain."""
        entries = self._config.domain_entries(domain, vmta)
        key = tuple(id(entry) for entry in entries)
        if key not in self._known:
            self._known[key] = _limits(self._explainer.domain_layers(domain, vmta))
        return self._known[key], any(entry.pattern != "*" for entry in entries)


def _limits(layers: list[list[Said]]) -> Limits:
    won: dict[str, Setting] = {}
    for layer in layers:
        for lines in lines_by_key(layer).values():
            name = _modern(lines[-1])
            if name in LIMITS:
                won[name] = lines[-1].setting(name)
    rows = STANZAS["domain"].directives
    for name in _ALWAYS_SHOWN:
        won.setdefault(name, Setting(name, rows[name].default, None))
    found = (won[name] for name in LIMITS if name in won)
    return {(s.name, s.value, s.status != "later"): {s.place: None} if s.place else {} for s in found}


def _modern(said: Said) -> str:
    """The directive's name of today."""
    rows = STANZAS["domain"].directives.values()
    return next((row.name for row in rows if row.field and row.field == said.row.field), said.row.name)
