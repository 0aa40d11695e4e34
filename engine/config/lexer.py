"""Text of one file to lines of meaning: `<tag argument>`, `</tag>`, or keyword and arguments, each with its place.

Comments run from `#` to the end of the line wherever they stand outside double quotes; there is no escape in plain text.
What an argument means is left to its directive: regular expressions hold blanks, commas and quotes of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

_SKIP = re.compile(r'#|(?:(?<=[\s,;=])|^)"(?:[^"\\]|\\.)*"(?=[\s,;>]|$)')
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_NAME = re.compile(r"[^\s<>/\"]+")
_WORD = re.compile(r"\S+")
MAX_LINE = 1_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class ValueProblem(ValueError):
    """Text that is not what its place wants: the reason, and how far into the text (in characters) the trouble lies."""

    def __init__(self, text: str, offset: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.offset = offset


class Raw(NamedTuple):
    """A line as it stands in its file, without its end; or several that were joined."""

    number: int
    text: str
    joints: tuple[tuple[int, int], ...] = ()  # where each further line begins in `text`, and its number


def place_in(file: str, number: int, column: int, joints: tuple[tuple[int, int], ...] = ()) -> Place:
    """The place of *column* in line *number*, or in the one that was joined to it there (*joints* as in Raw)."""
    for start, joined in reversed(joints):
        if column > start:
            return Place(file, joined, column - start)
    return Place(file, number, column)


@dataclass(frozen=True, slots=True)
class Line:
    """One line that says something."""

    kind: Literal["statement", "open", "close", "bad"]
    place: Place  # of the keyword or the tag
    word: str  # keyword or tag, lower case; for a bad line: what is wrong with it
    argument: str  # what follows, comment and outer blanks removed
    argument_column: int
    commented: bool = False  # a comment followed
    joints: tuple[tuple[int, int], ...] = ()  # as in Raw


def lex(file: str, text: str) -> Iterator[Line]:
    """The lines of *text* that say something, in order; a line that cannot be read comes as kind "bad"."""
    return lex_lines(file, raw_lines(text))


def raw_lines(text: str) -> list[Raw]:
    """The lines of *text*, whose ends may be LF or CRLF and which may begin with a byte order mark."""
    return [Raw(number, line.removesuffix("\r")) for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1)]


def lex_lines(file: str, lines: Iterable[Raw]) -> Iterator[Line]:
    """What `lex` gives, of lines that may be joined ones."""
    for raw in lines:
        bare = raw.text.strip()
        if bare and bare[0] != "#":
            yield _line(file, raw)


def _line(file: str, line: Raw) -> Line:
    number, raw, joints = line
    if len(raw) > MAX_LINE:
        return Line("bad", Place(file, number, 1), f"a line of more than {MAX_LINE} characters", "", 1)
    text = without_comment(raw)
    if control := _CONTROL.search(text):
        what = "a byte that is not UTF-8" if control[0] >= "\ud800" else f"the control character {control[0]!r}"
        return Line("bad", place_in(file, number, control.start() + 1, joints), f"{what} is not allowed here", "", 1)
    commented = len(text) < len(raw)
    body = text.rstrip()
    start = len(body) - len(body.lstrip())
    place = Place(file, number, start + 1)
    if body[start] == "<":
        return _tag(place, body, start)
    if body[start] == "/":  # a line of <bounce-category-patterns> is all argument
        return Line("statement", place, "/", body[start:], start + 1, commented, joints)
    match = _WORD.match(body, start)
    assert match is not None
    rest = body[match.end() :]
    argument = rest.lstrip()
    return Line("statement", place, match[0].lower(), argument, match.end() + len(rest) - len(argument) + 1, commented, joints)


def _tag(place: Place, body: str, start: int) -> Line:
    inner = body[start + 1 : -1].strip()
    closing = inner.startswith("/")
    words = inner.removeprefix("/").split(None, 1)
    tag, argument = (*words, "", "")[:2]
    if not body.endswith(">") or not tag or not _NAME.fullmatch(tag):
        return Line("bad", place, "a stanza's tag is <tag argument> or </tag>, alone on its line", "", 1)
    column = body.rindex(argument, start) + 1 if argument else place.column + 1
    return Line("close" if closing else "open", place, tag.lower(), argument, column)


def without_comment(raw: str) -> str:
    """*raw* up to the `#` that begins a comment."""
    if "#" not in raw:
        return raw
    for match in _SKIP.finditer(raw):
        if match[0] == "#":
            return raw[: match.start()]
    return raw


class Arguments:
    """The arguments of one directive, taken from left to right; positions are offsets for ValueProblem."""

    __slots__ = ("_text", "notes", "position")

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0
        self.notes: list[tuple[str, int]] = []  # what is no error and yet hardly meant: a warning and its offset

    @property
    def at_end(self) -> bool:
        return self._skip_blanks() == len(self._text)

    def word(self, stops: str = "") -> str:
        """The next word, or quoted string without its quotes; ends before a blank or one of *stops*.  ValueProblem if there is none."""
        start = self._skip_blanks()
        text = self._text
        if start == len(text):
            raise ValueProblem("argument missing", start)
        if text[start] == '"':
            return self._quoted(start)
        end = start
        while end < len(text) and not text[end].isspace() and text[end] not in stops:
            end += 1
        if end == start:
            raise ValueProblem(f"a value is missing before {text[start]!r}", start)
        self.position = end
        return text[start:end]

    def _quoted(self, start: int) -> str:
        out: list[str] = []
        text, at = self._text, start + 1
        while at < len(text):
            if text[at] == '"':
                self.position = at + 1
                return "".join(out)
            if text[at] == "\\" and text[at + 1 : at + 2] in ("\\", '"'):
                at += 1
            out.append(text[at])
            at += 1
        raise ValueProblem("the quoted text does not end", start)

    def rest(self) -> str:
        """All that is left, unquoted if it is one quoted string."""
        start = self._skip_blanks()
        if self._text[start : start + 1] == '"':
            quoted = self.word()
            self.end()
            return quoted
        self.position = len(self._text)
        return self._text[start:]

    def list(self, separators: str = ",") -> list[tuple[str, int, str]]:
        """(item, its offset, the separator before it: "" for the first) to the end; `""` alone is the empty list.

        Quotes may also stand around a whole list, so that it may hold blanks.
        """
        items: list[tuple[str, int, str]] = []
        separator = ""
        while True:
            start = self._skip_blanks()
            quoted = self._text[start : start + 1] == '"'
            item = self.word(separators)
            if item or not quoted:
                items.append((item, start, separator))
            if self.at_end:
                if quoted and not separator and any(mark in item for mark in separators):
                    try:
                        return [(inner, start + 1 + offset, mark) for inner, offset, mark in Arguments(item).list(separators)]
                    except ValueProblem as problem:
                        raise ValueProblem(problem.text, start + 1 + problem.offset) from None
                return items
            separator = self._text[self.position]
            if separator not in separators:
                raise ValueProblem(f"{' or '.join(map(repr, separators))} expected between values", self.position)
            self.position += 1

    def remaining(self) -> tuple[str, int]:
        """The whole text, and where the next argument starts in it: for a type that reads for itself and then sets `position`."""
        return self._text, self._skip_blanks()

    def starts_with(self, word: str) -> bool:
        """Whether the next argument is *word*, which is then taken."""
        start = self._skip_blanks()
        end = start + len(word)
        if not self._text.startswith(word, start) or self._text[end : end + 1].strip():
            return False
        self.position = end
        return True

    def end(self) -> None:
        """ValueProblem if anything is left."""
        if not self.at_end:
            raise ValueProblem(f"unexpected {self._text[self.position :][:40]!r} after the value", self.position)

    def _skip_blanks(self) -> int:
        text, at = self._text, self.position
        while at < len(text) and text[at].isspace():
            at += 1
        self.position = at
        return at
