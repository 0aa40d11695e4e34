"""domain-macro: names for lists of domains, expanded to the cross product of all that a text uses."""

from __future__ import annotations

import re
from itertools import product

from engine.config.lexer import Arguments, Place, ValueProblem
from engine.config.parser import Statement
from engine.config.problem import Problems
from engine.config.values import did_you_mean

MAX_EXPANSION = 200_000  # values of one text
MAX_TOTAL = 1_000_000  # values of all macros
_NAME = re.compile(r"[A-Za-z0-9_]+")
_USE = re.compile(r"\$([A-Za-z0-9_]*)")


class Macros:
    """All macros of a configuration."""

    def __init__(self) -> None:
        self._defined: dict[str, tuple[str, ...]] = {}
        self._places: dict[str, Place] = {}
        self._expanded: dict[str, tuple[str, ...]] = {}
        self._failed: dict[str, str] = {}
        self._total = 0

    def define(self, statement: Statement, problems: Problems) -> None:
        arguments = Arguments(statement.argument)
        try:
            name = arguments.word(",")
            if not _NAME.fullmatch(name):
                raise ValueProblem(f"the macro name {name[:60]!r} must be of letters, digits and _")
            values = tuple(item for item, _, _ in arguments.list(","))
            if not values:
                raise ValueProblem("a macro of nothing", arguments.position)
        except ValueProblem as problem:
            problems.error(statement.place_of(problem.offset), f"domain-macro: {problem.text}")
            return
        name = name.lower()
        if name in self._defined:
            problems.warning(statement.place, f"domain-macro {name} replaces that of {self._places[name]}")
        self._defined[name] = values
        self._places[name] = statement.place

    def check(self, problems: Problems) -> None:
        """Reports loops, unknown names and expansions past every sense, each where it is defined."""
        for name, place in self._places.items():
            try:
                self._macro(name, ())
            except ValueProblem as problem:
                problems.error(place, f"domain-macro {name}: {problem.text}")

    def expand(self, text: str) -> tuple[str, ...]:
        """Every text that *text* stands for, itself if it names no macro.  ValueProblem for an unknown macro."""
        return self._expand(text, ()) if "$" in text else (text,)

    def _expand(self, text: str, inside: tuple[str, ...]) -> tuple[str, ...]:
        parts: list[tuple[str, ...]] = []
        size, at = 1, 0
        for use in _USE.finditer(text):
            if use.start() > at:
                parts.append((text[at : use.start()],))
            values = self._macro(use[1].lower(), inside)
            size *= len(values)
            if size > MAX_EXPANSION:
                raise ValueProblem(f"expands to more than {MAX_EXPANSION} values")
            parts.append(values)
            at = use.end()
        parts.append((text[at:],))
        return tuple("".join(combination) for combination in product(*parts))

    def _macro(self, name: str, inside: tuple[str, ...]) -> tuple[str, ...]:
        if name in self._expanded:
            return self._expanded[name]
        if name in self._failed:
            raise ValueProblem(self._failed[name])
        if name in inside:
            raise ValueProblem(f"a loop: {' -> '.join((*inside[inside.index(name) :], name))}")
        if name not in self._defined:
            raise ValueProblem(f"no macro ${name[:60]}{did_you_mean(name, self._defined)}" if name else "a macro's name is missing after $")
        if len(inside) > 50:
            raise ValueProblem("macros nested too deeply")
        try:
            values = self._values(name, inside)
        except ValueProblem as problem:
            self._failed[name] = problem.text
            raise
        self._expanded[name] = values
        return values

    def _values(self, name: str, inside: tuple[str, ...]) -> tuple[str, ...]:
        values: list[str] = []
        for text in self._defined[name]:
            values.extend(self._expand(text, (*inside, name)) if "$" in text else (text,))
            if len(values) > MAX_EXPANSION:
                raise ValueProblem(f"expands to more than {MAX_EXPANSION} values")
        self._total += len(values)
        if self._total > MAX_TOTAL:
            raise ValueProblem(f"all macros together expand to more than {MAX_TOTAL} values")
        return tuple(values)
