"""Names that lead nowhere: lists, virtual MTAs and sources that no section defines, and macros in the places outside <domain>."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine.config.lexer import Arguments, Place, ValueProblem
from engine.config.macro import Macros
from engine.config.parser import Section, Statement
from engine.config.problem import Problems
from engine.config.stanza import STANZAS
from engine.config.values import did_you_mean

_RESERVED = ("{auth}", "{pickup}", "{transmissions-api}")  # sources that need nobody to name them
_VMTA = "virtual MTA or pool"
_NAMED = {  # what a directive's values name: a stanza's tag, or _VMTA
    "smtp-pattern-list": "smtp-pattern-list",
    "pattern-list": "pattern-list",
    "rewrite-list": "rewrite-list",
    "source-group": "source-group",
    "suppression-lists": "address-list",
    "use-proxy": "proxy",
    "cold-virtual-mta": _VMTA,
    "reroute-to-virtual-mta": _VMTA,
    "backoff-reroute-to-virtual-mta": _VMTA,
    "invalid-virtual-mta-fallback": _VMTA,
}
_RISK = {_VMTA: "unknown virtual MTA"}
_IN_RESULT = {"virtual-mta": _VMTA, "call-to": "pattern-list"}  # likewise, behind the patterns of a <pattern-list>


def check_names(
    top: Section, macros: Macros, virtual_mtas: Iterable[str], sources: Mapping[str, Place], listened: Iterable[str], problems: Problems
) -> None:
    """Reports every name below *top* that leads nowhere, and every macro that is not defined, each where it is used.

    *sources*: where each named one stands; *listened*: those that a listener names.
    """
    known: dict[str, set[str]] = {_VMTA: set(virtual_mtas), "source": {*_RESERVED, *sources}}
    used = set(_RESERVED) | set(listened)
    for section in top.sections:
        known.setdefault(section.tag, set()).add(section.argument.strip('"'))
    for section in _all(top):
        for statement in section.statements:
            if problems.full:
                return
            if statement.name == "domain-key" or (statement.name == "domain" and section.tag == "address-list"):
                _expand(section, statement, macros, problems)
                continue
            if section.tag == "smtp-user" and statement.name == "source":
                used.add(statement.argument.strip('"'))
            for kind, name in _names(section, statement, problems):
                if name not in known.get(kind, ()):
                    what = f"{_VMTA} {name[:60]!r}" if kind == _VMTA else f"<{kind} {name[:60]}>"
                    text = f"{statement.name}: no {what} is defined{did_you_mean(name, known.get(kind, ()))}"
                    problems.error(statement.place_of(0), text, _RISK.get(kind, ""))
    for name, place in sources.items():
        if name not in used:
            text = f"<source {name[:60]}> is neither a network nor named by any listener or smtp-user: it applies to nobody"
            problems.warning(place, text)


def _all(section: Section) -> Iterator[Section]:
    yield section
    for inner in section.sections:
        yield from _all(inner)


def _names(section: Section, statement: Statement, problems: Problems) -> list[tuple[str, str]]:
    """(kind, name) of everything that *statement* names."""
    if section.tag == "pattern-list":
        value = _value(section, statement)
        if value is None:
            return []
        asked = value if statement.name == "*" else value[-1]
        if not asked and statement.list is None:
            problems.error(statement.place_of(len(statement.argument)), f"{statement.name}: argument missing: what to do with mail that matches")
        return [(_IN_RESULT[word], name) for word, name in asked if word in _IN_RESULT]
    kind = "source" if section.tag == "smtp-user" and statement.name == "source" else _NAMED.get(statement.name)
    value = _value(section, statement) if kind else None
    if kind is None or not value:
        return []
    return [(kind, name) for name in (value if isinstance(value, tuple) else (value,))]


def _value(section: Section, statement: Statement) -> Any:
    """The value of *statement*; None where it has none, which its reader has reported."""
    stanza = STANZAS.get(section.tag)
    row = stanza.directives.get(statement.name) if stanza else None
    if row is None:
        return None
    try:
        return row.type.parse(Arguments(statement.argument))
    except ValueProblem:
        return None


def _expand(section: Section, statement: Statement, macros: Macros, problems: Problems) -> None:
    value = _value(section, statement)
    texts = () if value is None else value[1:2] if statement.name == "domain-key" else value
    for text in texts:
        try:
            macros.expand(text)
        except ValueProblem as problem:
            problems.error(statement.place_of(0), f"{statement.name} {text[:60]}: {problem.text}")
