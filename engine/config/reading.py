"""Reads the statements of a section by its stanza's table: values with their places, and every complaint about names and values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.config.directive import Directive
from engine.config.lexer import Arguments, Place, ValueProblem
from engine.config.parser import Section, Statement
from engine.config.problem import Problems
from engine.config.stanza import STANZAS, TOP, Stanza, holders
from engine.config.values import ValueType, did_you_mean

T = TypeVar("T")
_MAX_GUESSES = 100  # near names looked for; each costs milliseconds
_UNFINISHED = ("argument missing", "the pattern does not end", "the quoted text does not end")


@dataclass(slots=True)
class Values:
    """What working directives set, by field: the value (a tuple where values accumulate) and where it stands."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    all_places: dict[str, tuple[Place, ...]] = field(default_factory=dict)  # of each value that accumulates

    def set(self, row: Directive, value: Any, place: Place) -> None:
        if row.repeat:
            self.values[row.field] = (*self.values.get(row.field, ()), value)
            self.all_places[row.field] = (*self.all_places.get(row.field, ()), place)
        else:
            self.values[row.field] = value
        self.places[row.field] = place

    def update(self, later: Values) -> None:
        """Adds what a repetition of the stanza says: values that accumulate do, of others the later one wins."""
        for name, value in later.values.items():
            if name in later.all_places:
                self.values[name] = (*self.values.get(name, ()), *value)
                self.all_places[name] = (*self.all_places.get(name, ()), *later.all_places[name])
            else:
                self.values[name] = value
        self.places.update(later.places)


class Reader:
    """Reads sections; remembers what needs the whole configuration to judge."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.special: list[Statement] = []  # working directives that are no field: domain-macro, spool, record-fields
        self.later: dict[str, list[tuple[Place, Any]]] = {}  # directives not supported yet: where, and which value
        self._read: dict[tuple[int, str], Any] = {}
        self._told: set[tuple[str, str]] = set()
        self._guesses = 0

    def read(self, section: Section, stanza: Stanza) -> Values:
        """The values that the statements of *section* set."""
        values = Values()
        for statement in section.statements:
            if self.problems.full:
                break
            row = stanza.directives.get(statement.name)
            if row is None:
                self.problems.error(statement.place, self._unknown(statement.name, stanza))
                continue
            value = self._value(statement, row)
            if value is _BAD:
                continue
            if row.status != "working":
                self._pending(statement, row, stanza, value)
            elif row.field:
                if row.field == "smtp_hosts" and row.field in values.values and not self._same_name(values, section, statement):
                    self.problems.warning(
                        statement.place, f"route and smtp-hosts are one setting: this replaces line {values.places[row.field].line}"
                    )
                values.set(row, value, statement.place)
            else:
                self.special.append(statement)
        return values

    def _same_name(self, values: Values, section: Section, statement: Statement) -> bool:
        before = values.places["smtp_hosts"]
        return any(other.place == before and other.name == statement.name for other in section.statements)

    def take_special(self, name: str) -> list[Statement]:
        """The statements *name* read since the last call."""
        taken = [statement for statement in self.special if statement.name == name]
        self.special = [statement for statement in self.special if statement.name != name]
        return taken

    def stanza(self, section: Section, parent: Section) -> Stanza | None:
        """The table for *section*; None, after a complaint, if its tag is unknown or does not belong into *parent*."""
        stanza = STANZAS.get(section.tag) if section.tag != TOP else None
        if stanza is None:
            hint = f"; {section.tag} is a directive, without <>" if holders(section.tag) else self._near(section.tag, [tag for tag in STANZAS if tag])
            self.problems.error(section.place, f"unknown stanza <{section.tag[:60]}>{hint}")
            return None
        if parent.tag not in stanza.parents:
            places = " or ".join(f"in <{tag}>" if tag else "at the top level" for tag in stanza.parents)
            self.problems.error(section.place, f"<{section.tag}> does not belong into <{parent.tag}>, but {places}")
            return None
        if stanza.working and section.tag not in ("virtual-mta", "virtual-mta-pool"):
            for inner in section.sections:
                self.stanza(inner, section)
        if stanza.argument is None and section.argument:
            self.problems.error(section.place_of(0), f"<{section.tag}> takes no argument")
        return stanza

    def argument(self, section: Section, value_type: ValueType[T]) -> T | None:
        """The argument of the tag as *value_type*; None, after a complaint, if it is none."""
        arguments = Arguments(section.argument)
        try:
            value = value_type.parse(arguments)
            arguments.end()
        except ValueProblem as problem:
            self.problems.error(section.place_of(problem.offset), f"<{section.tag}>: {problem.text}")
            return None
        return value

    def pending_stanza(self, section: Section, stanza: Stanza, *, nested: bool = False) -> None:
        """Checks a stanza that does not work yet, and says so once."""
        if stanza.argument is not None and (section.argument or not stanza.optional):
            self.argument(section, stanza.argument)
        if stanza.stops:
            self.problems.error(section.place, f"<{section.tag}> is not supported yet, and starting without it would {stanza.stops}")
        elif not nested and self._first(section.tag, ""):
            self.problems.unsupported(section.place, f"<{section.tag}> is not supported yet")
        for statement in section.statements:
            if self.problems.full:
                break
            row = stanza.directives.get(statement.name)
            if row is None:
                self.problems.error(statement.place, self._unknown(statement.name, stanza))
            else:
                self._value(statement, row)
        for inner in section.sections:
            inner_stanza = self.stanza(inner, section)
            if inner_stanza is not None:
                self.pending_stanza(inner, inner_stanza, nested=True)

    def _value(self, statement: Statement, row: Directive) -> Any:
        key = (id(row), statement.argument)
        if key in self._read:
            return self._read[key]
        arguments = Arguments(statement.argument)
        try:
            value = row.type.parse(arguments)
            arguments.end()
        except ValueProblem as problem:
            text = "not what this directive wants" if row.type.secret and problem.text != "argument missing" else problem.text
            if not statement.argument:
                text += f"; {row.type.name} is expected"
            if statement.commented and problem.text.startswith(_UNFINISHED):
                text += "; the # begins a comment"
            self.problems.error(statement.place_of(problem.offset), f"{_shown(row)}: {text}")
            return _BAD
        for text, offset in arguments.notes:
            self.problems.warning(statement.place_of(offset), f"{_shown(row)}: {text}")
        if not arguments.notes:
            self._read[key] = value
        return value

    def _pending(self, statement: Statement, row: Directive, stanza: Stanza, value: Any) -> None:
        if row.status == "ignored":
            if self._first(stanza.tag, row.name):
                self.problems.warning(statement.place, f"{row.name} is accepted and changes nothing.  {row.help}")
            return
        if value in row.harmless:
            return
        self.later.setdefault(row.name, []).append((statement.place, value))
        if row.stops:
            self.problems.error(statement.place, f"{row.name} is not supported yet, and starting without it would {row.stops}")
        elif self._first(stanza.tag, row.name):
            self.problems.unsupported(statement.place, f"{row.name} is not supported yet")

    def _first(self, tag: str, name: str) -> bool:
        if (tag, name) in self._told:
            return False
        self._told.add((tag, name))
        return True

    def _unknown(self, name: str, stanza: Stanza) -> str:
        here = f" in <{stanza.tag}>" if stanza.tag else ""
        if name in STANZAS and stanza.tag in STANZAS[name].parents:
            return f"{name} is a stanza: <{name} ...>"
        if elsewhere := holders(name):
            return f"{name} does not belong {here.strip() or 'at the top level'}, but in {', '.join(elsewhere)}"
        near = self._near(name, {row for other in STANZAS.values() for row in other.directives})
        return f"unknown directive {name[:60]!r}{here}{near}"

    def _near(self, name: str, known: Any) -> str:
        self._guesses += 1
        return did_you_mean(name, known) if self._guesses <= _MAX_GUESSES else ""


def _shown(row: Directive) -> str:
    return "pattern" if row.name == "/" else row.name


_BAD = object()
