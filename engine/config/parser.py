"""Lines of all files to one tree of sections: matches tags, takes in included files where they are named.  Knows nothing of what values mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.config.continuation import whole_lines
from engine.config.lexer import Arguments, Line, Place, ValueProblem, lex_lines, place_in
from engine.config.problem import Problems
from engine.config.snapshot import Snapshot, is_wild, resolve, text_of
from engine.config.stanza import STANZAS, holders

MAX_INCLUDE_DEPTH = 16
MAX_INCLUDES = 20_000  # files taken in, one that is included several times counted each time
MAX_LINES = 1_000_000  # of all files, an included one counted each time
MAX_BYTES = 256 << 20  # likewise
_NAMES = frozenset(name for stanza in STANZAS.values() for name in stanza.directives)


@dataclass(frozen=True, slots=True)
class Statement:
    """A directive as written."""

    place: Place
    name: str  # lower case
    argument: str
    argument_column: int
    commented: bool = False  # a comment follows
    joints: tuple[tuple[int, int], ...] = ()  # of a line that was joined: where each further line begins, and its number
    list: Section | None = None  # the nested <pattern-list> that it opens

    def place_of(self, offset: int) -> Place:
        """The place *offset* characters into the argument."""
        return place_in(self.place.file, self.place.line, self.argument_column + offset, self.joints)


@dataclass(slots=True)
class Section:
    """A stanza as written; the outermost has the tag ""."""

    place: Place
    tag: str
    argument: str
    argument_column: int
    statements: list[Statement] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def place_of(self, offset: int) -> Place:
        return Place(self.place.file, self.place.line, self.argument_column + offset)


def parse(snapshot: Snapshot, problems: Problems) -> Section:
    """The tree of *snapshot*; what cannot be read is reported and left out.

    PowerMTA's config-defaults is weaker than the main file: its settings come first, its patterns, of which the first that matches counts, last.
    """
    parser = _Parser(snapshot, problems)
    top = Section(Place(snapshot.main, 1, 1), "", "", 1)
    parser.file(snapshot.main, top.place, [top], ())
    if snapshot.defaults:
        weaker = Section(Place(snapshot.defaults, 1, 1), "", "", 1)
        parser.file(snapshot.defaults, weaker.place, [weaker], ())
        patterns = [section for section in weaker.sections if section.tag == "bounce-category-patterns"]
        top.statements[:0] = weaker.statements
        top.sections[:0] = [section for section in weaker.sections if section not in patterns]
        top.sections += patterns
    return top


class _Parser:
    def __init__(self, snapshot: Snapshot, problems: Problems) -> None:
        self.snapshot = snapshot
        self.problems = problems
        self.includes = 0
        self.lines = 0
        self.bytes = 0

    def file(self, name: str, place: Place, open_sections: list[Section], including: tuple[str, ...]) -> None:
        """Adds the file *name*, included at *place*, to the innermost of *open_sections*."""
        if name not in self.snapshot.files:
            self.problems.error(place, f"cannot read {name}: {self.snapshot.failures.get(name, 'no such file')}")
            return
        if name in including:
            self.problems.error(place, f"{name} includes itself: {' -> '.join((*including[including.index(name) :], name))}")
            return
        if len(including) >= MAX_INCLUDE_DEPTH:
            self.problems.error(place, f"includes nested deeper than {MAX_INCLUDE_DEPTH}")
            return
        self.includes += 1
        if self.includes > MAX_INCLUDES:
            self.problems.error(place, f"more than {MAX_INCLUDES} includes")
            return
        self.bytes += len(self.snapshot.files[name])
        if self.bytes > MAX_BYTES:
            self.problems.error(place, f"more than {MAX_BYTES >> 20} MB, with what is included several times")
            return
        base = len(open_sections)
        for line in lex_lines(name, whole_lines(text_of(self.snapshot.files[name]), _NAMES)):
            self.lines += 1
            if self.lines > MAX_LINES or self.problems.full:
                if self.lines == MAX_LINES + 1:
                    self.problems.error(line.place, f"more than {MAX_LINES} lines, with what is included several times")
                break
            match line.kind:
                case "statement":
                    self.statement(line, open_sections, (*including, name))
                case "open":
                    self.open(line.place, line.word, line.argument, line.argument_column, open_sections)
                case "close":
                    self.close(line, open_sections, base)
                case "bad":
                    self.problems.error(line.place, line.word)
        for section in open_sections[base:]:
            self.problems.error(section.place, f"<{section.tag}> is not closed: </{section.tag}> is missing")
        del open_sections[base:]

    def statement(self, line: Line, open_sections: list[Section], including: tuple[str, ...]) -> None:
        current = open_sections[-1]
        if line.joints:
            self.joined(line)
        if line.word == "include":
            self.include(line, open_sections, including)
            return
        argument, nested = line.argument, None
        if current.tag == "pattern-list" and argument.endswith("<pattern-list>"):  # a nested list may open behind its pattern
            argument = argument.removesuffix("<pattern-list>").rstrip()
            nested = self.open(line.place, "pattern-list", "", line.argument_column, open_sections)
        current.statements.append(Statement(line.place, line.word, argument, line.argument_column, line.commented, line.joints, nested))

    def joined(self, line: Line) -> None:
        """Says that *line* was made of several: as it was asked for, or against the language."""
        end = Place(line.place.file, line.place.line, line.joints[0][0] + 1)
        last = line.joints[-1][1]
        word = "pattern" if line.word == "/" else line.word
        if self.snapshot.lenient:
            self.problems.warning(end, f"{word}: the line goes on to line {last}; read as one, since --lenient allows it")
        else:
            self.problems.error(
                end, f"{word}: the line ends in the middle, and seems to go on to line {last}: write it as one line, or give --lenient"
            )

    def open(self, place: Place, tag: str, argument: str, column: int, open_sections: list[Section]) -> Section:
        section = Section(place, tag, argument, column)
        open_sections[-1].sections.append(section)
        if len(open_sections) > 64:
            self.problems.error(place, "stanzas nested too deeply")
            open_sections.pop()
        open_sections.append(section)
        return section

    def close(self, line: Line, open_sections: list[Section], base: int) -> None:
        for depth in range(len(open_sections) - 1, base - 1, -1):
            if open_sections[depth].tag == line.word:
                for section in open_sections[depth + 1 :]:
                    self.problems.error(section.place, f"<{section.tag}> is not closed before </{line.word}> in line {line.place.line}")
                opened = open_sections[depth].argument
                if line.argument and line.argument != opened:
                    self.problems.warning(line.place, f"</{line.word} {line.argument[:60]}> closes <{line.word} {opened[:60]}>")
                del open_sections[depth:]
                return
        inner = open_sections[-1].tag if len(open_sections) > base else ""
        self.problems.error(line.place, f"</{line.word}> closes nothing" + (f": <{inner}> is open" if inner else ""))

    def include(self, line: Line, open_sections: list[Section], including: tuple[str, ...]) -> None:
        tag = open_sections[-1].tag
        if tag in STANZAS and "include" not in STANZAS[tag].directives:
            self.problems.error(line.place, f"include does not belong into <{tag}>, but in {', '.join(holders('include'))}")
            return
        arguments = Arguments(line.argument)
        try:
            argument = arguments.rest()
        except ValueProblem as problem:
            self.problems.error(Place(line.place.file, line.place.line, line.argument_column + problem.offset), problem.text)
            return
        if not argument:
            self.problems.error(line.place, "include: the name of a file is missing")
            return
        if "://" in argument:
            self.problems.error(
                line.place, "include: only files are read; fetch what an address holds to a file, so that a start never depends on another host"
            )
            return
        pattern = resolve(line.place.file, argument)
        if not is_wild(pattern):
            self.file(pattern, line.place, open_sections, including)
            return
        if pattern in self.snapshot.failures:
            self.problems.error(line.place, f"include {argument}: {self.snapshot.failures[pattern]}")
        matches = self.snapshot.matches.get(pattern, [])
        if not matches:
            self.problems.warning(line.place, f"include: no file matches {pattern}")
        for match in matches:
            self.file(match, line.place, open_sections, including)
