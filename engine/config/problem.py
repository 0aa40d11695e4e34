"""What is wrong with a configuration, all of it in one run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.config.lexer import Place

Severity = Literal["error", "warning", "unsupported"]
MAX_PROBLEMS = 500  # reported; a file of noise must not take minutes to explain


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to tell the operator.  "error" stops the start; "unsupported" is a directive that does nothing yet; "warning" is advice."""

    severity: Severity
    file: str
    line: int
    column: int
    text: str
    risk: str = ""  # what kind of danger it is, for the verdict

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.text}"


class Problems:
    """Collects problems, at most MAX_PROBLEMS of each severity."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}
        self._counts = {"error": 0, "warning": 0, "unsupported": 0}

    def error(self, place: Place, text: str, risk: str = "") -> None:
        self._add("error", place, text, risk)

    def warning(self, place: Place, text: str, risk: str = "") -> None:
        self._add("warning", place, text, risk)

    def unsupported(self, place: Place, text: str) -> None:
        self._add("unsupported", place, text)

    @property
    def failed(self) -> bool:
        return self._counts["error"] > 0

    @property
    def full(self) -> bool:
        """Whether there are so many errors that explaining more of them helps nobody."""
        return self._counts["error"] >= MAX_PROBLEMS

    def _add(self, severity: Severity, place: Place, text: str, risk: str = "") -> None:
        self._counts[severity] += 1
        if self._counts[severity] <= MAX_PROBLEMS:
            self._found.setdefault(Problem(severity, place.file, place.line, place.column, text, risk))
        elif self._counts[severity] == MAX_PROBLEMS + 1:
            self._found.setdefault(Problem(severity, place.file, place.line, place.column, "more of this kind are not shown"))

    def all(self, files: Iterable[str]) -> list[Problem]:
        """Everything, by file in the order of *files*, then by line."""
        order = {file: number for number, file in enumerate(files)}
        return sorted(self._found, key=lambda p: (order.get(p.file, len(order)), p.file, p.line, p.column))


def describe(problems: Iterable[Problem]) -> str:
    """The text of `engine check-config`: a line per problem, then how many of each kind."""
    lines, counts = [], {"error": 0, "warning": 0, "unsupported": 0}
    for problem in problems:
        lines.append(str(problem))
        counts[problem.severity] += 1
    plural = {1: ""}
    summary = (
        f"{counts['error']} error{plural.get(counts['error'], 's')}, "
        f"{counts['warning']} warning{plural.get(counts['warning'], 's')}, {counts['unsupported']} not supported yet"
    )
    return "\n".join([*lines, summary]) + "\n"
