"""The verdict on a configuration in words: tables on a terminal, a line for each thing elsewhere, JSON on request."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from engine.cli.printing import on_terminal, print_table
from engine.config.explain import Setting
from engine.config.lexer import Place
from engine.config.risk import Risk
from engine.config.verdict import LIMITS, Limit, NotYet, Verdict

_NAMES_SHOWN = 4  # virtual MTAs in one row; JSON has all


def lines(verdict: Verdict, main: str) -> list[str]:
    """The verdict as plain lines, the last ones being what each provider gets; places in the file *main* are given by their line alone there."""
    found = [f"{p.file}:{p.line}:{p.column}: {p.severity}: {p.text}" for p in verdict.problems]
    found += [f"{item.places[0].file}:{item.places[0].line}: not yet: {_not_yet(item, main)}" for item in verdict.not_yet]
    found += [f"{risk.places[0]}: risk: {_risk(risk, main)}" for risk in verdict.risks]
    found += [
        f"provider: {', '.join(each.domains)} by {_names(each.virtual_mtas)}: {'; '.join(_limit(limit, main) for limit in each.limits)}"
        for each in verdict.providers
    ]
    return [*found, *_summary(verdict)]


def show(verdict: Verdict, main: str) -> None:
    """Print the verdict as it suits standard output."""
    if not on_terminal():
        print("\n".join(lines(verdict, main)))
        return
    _section("Problems", ["where", "", "what"], [[_where([p], main), p.severity, p.text] for p in verdict.problems])
    rows = [[item.name, item.scope, _where(item.places, main), f"would {item.stops}" if item.stops else ""] for item in verdict.not_yet]
    _section("Does not work yet", ["directive", "in", "lines", "so it does not start: it"], rows)
    risks = [[_where(risk.places, main), risk.kind, f"{risk.text}.  {_sentence(risk.advice)}"] for risk in verdict.risks]
    _section("Risks", ["lines", "kind", "what, and what to do"], risks)
    said = {limit.name for provider in verdict.providers for limit in provider.limits}
    names = [name for name in LIMITS if name in said]
    cells = [(provider, {limit.name: _cell(limit, main) for limit in provider.limits}) for provider in verdict.providers]
    table = [[_names(provider.domains), _names(provider.virtual_mtas), *(limits.get(name, "") for name in names)] for provider, limits in cells]
    _section("What the large providers get (value @line; * does not work yet)", ["domain", "virtual MTA", *names], table)
    for line in _summary(verdict):
        print(line)


def built(verdict: Verdict) -> dict[str, Any]:
    """The verdict for --json."""
    return {
        "usable": verdict.usable,
        "working": {"directives": verdict.working, "lines": verdict.working_lines},
        "not_yet": [{"name": i.name, "in": i.scope, "at": _places(i.places), "stops": i.stops} for i in verdict.not_yet],
        "risks": [
            {"kind": r.kind, "at": _places(r.places), "text": r.text, "advice": r.advice, "severity": "error" if r.stops else "warning"}
            for r in verdict.risks
        ],
        "problems": [{"severity": p.severity, "at": f"{p.file}:{p.line}:{p.column}", "text": p.text} for p in verdict.problems],
        "providers": [
            {
                "domains": list(p.domains),
                "virtual_mtas": list(p.virtual_mtas),
                "limits": {s.name: {"value": s.value, "from": _places(s.places) or ["default"], "works": s.works} for s in p.limits},
            }
            for p in verdict.providers
        ],
    }


def setting(shown: Setting) -> dict[str, Any]:
    """One setting for --json."""
    return {"value": shown.value, "from": f"{shown.place.file}:{shown.place.line}" if shown.place else "default", "works": shown.status != "later"}


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    if rows:
        print(f"\n{title}")
        print_table(columns, rows)


def _summary(verdict: Verdict) -> list[str]:
    stopping = [item for item in verdict.not_yet if item.stops]
    errors = sum(p.severity == "error" for p in verdict.problems)
    fatal = sorted({risk.kind for risk in verdict.risks if risk.stops})
    counts = f"{_many(verdict.working, 'directive')} working (on {_many(verdict.working_lines, 'line')})"
    counts += f", {len(verdict.not_yet)} not yet, {len(verdict.risks)} risky"
    if verdict.usable:
        return [f"verdict: usable: {counts}"]
    reasons = [_many(errors, "error")] if errors else []
    reasons += [f"what is risky: {', '.join(fatal)}"] if fatal else []
    reasons += [f"{_many(len(stopping), 'thing')} not done yet"] if stopping else []
    return [f"verdict: would not start: {counts}; in its way: {', '.join(reasons)}"]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _not_yet(item: NotYet, main: str) -> str:
    text = f"{item.name} in {item.scope}" if item.scope else item.name
    if len(item.places) > 1:
        text += f" (also in {_where(item.places[1:], main)})"
    return f"{text}: stops the start, which would {item.stops}" if item.stops else text


def _risk(risk: Risk, main: str) -> str:
    also = f" (also in {_where(risk.places[1:], main)})" if len(risk.places) > 1 else ""
    return f"{risk.kind}: {risk.text}{also}.  {_sentence(risk.advice)}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown


def _limit(limit: Limit, main: str) -> str:
    where = _where(limit.places[:_NAMES_SHOWN], main) or "default"
    return f"{limit.name} {limit.value} ({where}{'' if limit.works else ', not yet'})"


def _cell(limit: Limit, main: str) -> str:
    return f"{limit.value}{'' if limit.works else '*'}" + (f" @{_where(limit.places[:_NAMES_SHOWN], main)}" if limit.places else "")


def _where(places: Iterable[Any], main: str) -> str:
    """Lines of the file *main* by number, of others with their names."""
    return ", ".join(str(place.line) if place.file == main else f"{os.path.basename(place.file)}:{place.line}" for place in places)


def _places(places: Iterable[Place]) -> list[str]:
    return [f"{place.file}:{place.line}" for place in places]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
