"""Regular expressions whose matching time is bounded: PCRE's syntax as far as it is regular, run as a lazily built automaton.

A peer chooses the text and an operator the pattern, so a backtracking matcher would hand the process to whoever finds the two that
explode.  Here each character of the text costs at most one pass over the pattern's states (MAX_STATES), however they are written.  What no automaton
can do (back references, look-around, atomic groups, possessive repetition, recursion) is refused when the configuration is read.  The answer is yes
or no: greedy, lazy and capturing make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

MAX_STATES = 600
MAX_TEXT = 4_096  # characters of a text that are looked at
_MAX_CACHED = 256  # states of the automaton kept between texts
_MAX_NEXT = 128  # next characters remembered per state
_MAX_DEPTH = 40

Test = Callable[[str], bool]
Kind = Literal["char", "split", "assert", "accept"]


class RegexProblem(ValueError):
    """A pattern that is no regular expression, or not one that can be matched in bounded time."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text)
        self.text = text
        self.offset = offset


# --- syntax tree ---


@dataclass(frozen=True, slots=True)
class _Char:
    test: Test


@dataclass(frozen=True, slots=True)
class _Assert:
    holds: Callable[[str, str, bool], bool]  # (character before or "", character after or "", after is the last and a newline) -> whether


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    branches: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    node: _Node
    least: int
    most: int | None


_Node = _Char | _Assert | _Sequence | _Choice | _Repeat


def _word(char: str) -> bool:
    return char == "_" or (char.isascii() and char.isalnum())


def _digit(char: str) -> bool:
    return char in _DIGITS


_DIGITS = frozenset("0123456789")
_BLANKS = frozenset(" \t\n\r\f\v")
_CLASSES: dict[str, Test] = {
    "d": _digit,
    "w": _word,
    "s": _BLANKS.__contains__,
    "h": frozenset(" \t\xa0").__contains__,
    "v": frozenset("\n\v\f\r\x85\u2028\u2029").__contains__,
}
_POSIX: dict[str, Test] = {
    "alpha": lambda c: c.isascii() and c.isalpha(),
    "digit": _digit,
    "alnum": lambda c: c.isascii() and c.isalnum(),
    "space": _BLANKS.__contains__,
    "upper": lambda c: "A" <= c <= "Z",
    "lower": lambda c: "a" <= c <= "z",
    "xdigit": frozenset("0123456789abcdefABCDEF").__contains__,
    "punct": frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~").__contains__,
    "word": _word,
    "blank": frozenset(" \t").__contains__,
    "cntrl": lambda c: c < " " or c == "\x7f",
    "graph": lambda c: "!" <= c <= "~",
    "print": lambda c: " " <= c <= "~",
}
_ASSERTIONS: dict[str, _Assert] = {
    "^": _Assert(lambda before, after, last: not before),
    "A": _Assert(lambda before, after, last: not before),
    "$": _Assert(lambda before, after, last: not after or last),
    "Z": _Assert(lambda before, after, last: not after or last),
    "z": _Assert(lambda before, after, last: not after),
    "b": _Assert(lambda before, after, last: _word(before or " ") != _word(after or " ")),
    "B": _Assert(lambda before, after, last: _word(before or " ") == _word(after or " ")),
}
_MULTILINE: dict[str, _Assert] = {
    "^": _Assert(lambda before, after, last: not before or (before == "\n" and after != "")),
    "$": _Assert(lambda before, after, last: not after or after == "\n"),
}
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "e": "\x1b", "a": "\x07"}
_REPEAT = re.compile(r"\{([0-9]{1,4})(,?)([0-9]{0,4})\}")
_FLAGS = re.compile(r"\?([ims]*)(?:-([ims]*))?([:)])")
_COMMENT = re.compile(r"\?#[^)]*\)")
_NAMED = re.compile(r"\?(?:P?<[A-Za-z_][A-Za-z_0-9]*>|'[A-Za-z_][A-Za-z_0-9]*')")
_HEX = re.compile(r"x(?:\{([0-9A-Fa-f]{1,6})\}|([0-9A-Fa-f]{1,2}))")
_CLASS_NAME = re.compile(r"\[:(\^?)([a-z]+):\]")


def _negated(test: Test) -> Test:
    return lambda char: not test(char)


def _any(tests: list[Test]) -> Test:
    return lambda char: any(test(char) for test in tests)


def _either_case(test: Test) -> Test:
    return lambda char: test(char) or test(char.lower()) or test(char.upper())


class _Parser:
    def __init__(self, text: str, ignore_case: bool) -> None:
        self.text = text
        self.at = 0
        self.flags = frozenset("i" if ignore_case else "")  # of i, m, s: those in force
        self.depth = 0

    def parse(self) -> _Node:
        node = self.choice()
        if self.at < len(self.text):
            raise RegexProblem("a ) that nothing opened", self.at)
        return node

    def choice(self) -> _Node:
        outer = self.flags  # (?i) holds to the end of its group
        branches = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence())
        self.flags = outer
        return branches[0] if len(branches) == 1 else _Choice(tuple(branches))

    def sequence(self) -> _Node:
        parts: list[_Node] = []
        while (char := self.peek()) and char not in "|)":
            start = self.at
            if self.text.startswith("\\Q", start):
                quoted = self.quoted()
                parts += quoted[:-1]
                node = quoted[-1] if quoted else None  # the last one alone is what a repetition behind it repeats
            else:
                node = self.atom()
            if node is not None:
                parts.append(self.repeated(node, start))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def quoted(self) -> list[_Node]:
        """The characters between \\Q and \\E, or the end."""
        end = self.text.find("\\E", self.at)
        text = self.text[self.at + 2 : end if end >= 0 else None]
        self.at = end + 2 if end >= 0 else len(self.text)
        return [self.literal(char) for char in text]

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def atom(self) -> _Node | None:
        char = self.peek()
        self.at += 1
        if char == "(":
            return self.group()
        if char == "[":
            return _Char(self.char_class())
        if char == ".":
            return _Char((lambda c: True) if "s" in self.flags else lambda c: c != "\n")
        if char in "^$":
            return (_MULTILINE if "m" in self.flags else _ASSERTIONS)[char]
        if char == "\\":
            return self.escape()
        if char in "*+?" or (char == "{" and _REPEAT.match(self.text, self.at - 1)):
            raise RegexProblem(f"nothing stands before {char!r} that it could repeat", self.at - 1)
        return self.literal(char)

    def repeated(self, node: _Node, start: int) -> _Node:
        times = 0
        while (char := self.peek()) and (char in "*+?" or char == "{"):
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(char, (0, 0))
            if char == "{":
                match = _REPEAT.match(self.text, self.at)
                if match is None:
                    break
                least = int(match[1])
                most = int(match[3]) if match[3] else None if match[2] else least
                if most is not None and most < least:
                    raise RegexProblem(f"{match[0]}: the second number is smaller than the first", self.at)
                self.at = match.end()
            else:
                self.at += 1
            if self.peek() == "+":
                raise RegexProblem("possessive repetition is not supported", self.at)
            if self.peek() == "?":
                self.at += 1  # lazy: another order of trying, the same answer
            times += 1
            if times > 1:
                raise RegexProblem("a repetition of a repetition: write a group", start)
            node = _Repeat(node, least, most)
        return node

    def group(self) -> _Node | None:
        start = self.at - 1
        if self.peek() == "?":
            if named := _NAMED.match(self.text, self.at):
                self.at = named.end()
            elif flags := _FLAGS.match(self.text, self.at):
                self.at = flags.end()
                outer = self.flags
                self.flags = (outer | set(flags[1])) - set(flags[2] or "")
                if flags[3] == ")":
                    return None
                node = self.grouped(start)
                self.flags = outer
                return node
            elif comment := _COMMENT.match(self.text, self.at):
                self.at = comment.end()
                return None
            else:
                what = {"?=": "look-ahead", "?!": "look-ahead", "?<": "look-behind", "?>": "an atomic group", "?(": "a condition"}
                raise RegexProblem(f"{what.get(self.text[self.at : self.at + 2], 'this (?...) form')} is not supported", start)
        return self.grouped(start)

    def grouped(self, start: int) -> _Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise RegexProblem(f"groups nested deeper than {_MAX_DEPTH}", start)
        node = self.choice()
        if self.peek() != ")":
            raise RegexProblem("a ( that nothing closes", start)
        self.at += 1
        self.depth -= 1
        return node

    def escape(self) -> _Node:
        start = self.at - 1
        char = self.peek()
        if char in ("b", "B", "A", "Z", "z"):
            self.at += 1
            return _ASSERTIONS[char]
        if char.isdigit() and char != "0":
            raise RegexProblem("back references are not supported", start)
        found = self.escaped()
        return self.literal(found) if isinstance(found, str) else _Char(found)

    def escaped(self) -> str | Test:
        """What the escape after a backslash stands for: a character or a class of them."""
        start, char = self.at - 1, self.peek()
        self.at += 1
        if char.lower() in _CLASSES and char:
            test = _CLASSES[char.lower()]
            return _negated(test) if char.isupper() else test
        if char in _ESCAPED:
            return _ESCAPED[char]
        if char == "0":
            return "\0"
        if char == "x" and (match := _HEX.match(self.text, self.at - 1)):
            self.at = match.end()
            code = int(match[1] or match[2], 16)
            if code < 0x110000:
                return chr(code)
        if not char or (char.isascii() and char.isalnum()):
            raise RegexProblem(f"the escape \\{char} is not supported", start)
        return char

    def literal(self, char: str) -> _Node:
        if "i" in self.flags:
            return _Char(frozenset((char, char.lower(), char.upper())).__contains__)
        return _Char(char.__eq__)

    def char_class(self) -> Test:
        start = self.at - 1
        negate = self.peek() == "^"
        self.at += negate
        tests: list[Test] = []
        chars: set[str] = set()
        first = True
        while (char := self.peek()) and (char != "]" or first):
            first = False
            if name := _CLASS_NAME.match(self.text, self.at):
                if name[2] not in _POSIX:
                    raise RegexProblem(f"the character class {name[2]!r} is not known", self.at)
                self.at = name.end()
                tests.append(_negated(_POSIX[name[2]]) if name[1] else _POSIX[name[2]])
                continue
            low = self.class_item()
            if not isinstance(low, str):
                tests.append(low)
            elif self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self.class_item()
                if not isinstance(high, str) or high < low:
                    raise RegexProblem("a range of characters that runs backwards", self.at - 1)
                tests.append(_between(low, high))
            else:
                chars.add(low)
        if not self.peek():
            raise RegexProblem("a [ that nothing closes", start)
        self.at += 1
        if chars:
            tests.append(frozenset(chars).__contains__)
        test = _any(tests)
        if "i" in self.flags:
            test = _either_case(test)
        return _negated(test) if negate else test

    def class_item(self) -> str | Test:
        char = self.peek()
        self.at += 1
        if char != "\\":
            return char
        if self.peek() == "b":
            self.at += 1
            return "\b"
        return self.escaped()


def _between(low: str, high: str) -> Test:
    return lambda char: low <= char <= high


# --- automaton ---


@dataclass(slots=True)
class _State:
    kind: Kind
    test: Test | None = None
    holds: Callable[[str, str, bool], bool] | None = None
    after: list[int] = field(default_factory=list)


class _Builder:
    """Thompson's construction, from the end backwards: `add` returns the state that matches a node and goes on to *then*."""

    def __init__(self) -> None:
        self.states = [_State("accept")]

    def add(self, node: _Node, then: int) -> int:
        match node:
            case _Char(test):
                return self.state(_State("char", test=test, after=[then]))
            case _Assert(holds):
                return self.state(_State("assert", holds=holds, after=[then]))
            case _Sequence(parts):
                for part in reversed(parts):
                    then = self.add(part, then)
                return then
            case _Choice(branches):
                return self.state(_State("split", after=[self.add(branch, then) for branch in branches]))
            case _Repeat(inner, least, most):
                if most is None:
                    loop = self.state(_State("split"))
                    self.states[loop].after = [self.add(inner, loop), then]
                    then = loop
                for _ in range((most or least) - least):
                    then = self.state(_State("split", after=[self.add(inner, then), then]))
                for _ in range(least):
                    then = self.add(inner, then)
                return then

    def state(self, state: _State) -> int:
        if len(self.states) >= MAX_STATES:
            raise RegexProblem(f"too large: more than {MAX_STATES} states once its repetitions are written out", 0)
        self.states.append(state)
        return len(self.states) - 1


@dataclass(slots=True)
class _Step:
    """A set of states between two characters, with what is known about each next character."""

    waiting: frozenset[int]
    before: str
    next: dict[tuple[str, bool], _Step | None] = field(default_factory=dict)  # None: matched


class Regex:
    """A compiled pattern; `search` is its only use.  RegexProblem if *pattern* cannot be compiled."""

    __slots__ = ("_cache", "_start", "_states", "ignore_case", "pattern")

    def __init__(self, pattern: str, *, ignore_case: bool = True) -> None:
        self.pattern = pattern
        self.ignore_case = ignore_case
        builder = _Builder()
        self._start = builder.add(_Parser(pattern, ignore_case).parse(), 0)
        self._states = builder.states
        self._cache: dict[tuple[frozenset[int], str], _Step] = {}

    def __repr__(self) -> str:
        return f"/{self.pattern}/"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regex) and (self.pattern, self.ignore_case) == (other.pattern, other.ignore_case)

    def __hash__(self) -> int:
        return hash((self.pattern, self.ignore_case))

    def search(self, text: str) -> bool:
        """Whether the pattern matches anywhere in *text* (its first MAX_TEXT characters); time O(states x characters) at worst."""
        text = text[:MAX_TEXT]
        step: _Step | None = self._step(frozenset((self._start,)), "")
        end = len(text) - 1
        for position, char in enumerate(text):
            key = (char, position == end and char == "\n")
            assert step is not None
            step = step.next[key] if key in step.next else self._advance(step, key)
            if step is None:
                return True
        assert step is not None
        key = ("", False)
        return (step.next[key] if key in step.next else self._advance(step, key)) is None

    def _step(self, waiting: frozenset[int], before: str) -> _Step:
        known = self._cache.get((waiting, before))
        if known is None:
            if len(self._cache) >= _MAX_CACHED:
                for step in self._cache.values():
                    step.next.clear()  # breaks the cycles, so that memory goes at once
                self._cache.clear()
            known = self._cache[waiting, before] = _Step(waiting, before)
        return known

    def _advance(self, step: _Step, key: tuple[str, bool]) -> _Step | None:
        char, last_newline = key
        moved: set[int] = {self._start}
        seen: set[int] = set()
        stack = list(step.waiting)
        matched = False
        while stack:
            number = stack.pop()
            if number in seen:
                continue
            seen.add(number)
            state = self._states[number]
            if state.kind == "accept":
                matched = True
                break
            if state.kind == "split" or (state.holds is not None and state.holds(step.before, char, last_newline)):
                stack.extend(state.after)
            elif state.test is not None and char and state.test(char):
                moved.update(state.after)
        # what the assertions may ask about the character before is only whether it is there, a word character or a line's end
        result = None if matched else self._step(frozenset(moved), "a" if _word(char) else "\n" if char == "\n" else "-") if char else step
        if len(step.next) < _MAX_NEXT:
            step.next[key] = result
        return result
