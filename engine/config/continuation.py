"""Lines that go on in the next one, though the language knows no such thing: the two kinds that public files have.

A `domain-macro` whose line ends in a comma, and a pattern that a terminal's width cut in two before its closing slash.  Both are found by shape, so
that a directive is never taken for the rest of the line above it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence

from engine.config.lexer import MAX_LINE, Raw, raw_lines, without_comment

MAX_PATTERN_LINES = 10  # that one pattern may be cut into
_MACRO = re.compile(r"\s*domain-macro\s", re.I)
_PATTERN = re.compile(r"\s*(?:(?:reply|mail-from|rcpt-to|relay-address|address)\s+|header\s+\S+\s+)?/", re.I)
_LIST = re.compile(r"[^\s,<>\"]+(?:\s*,\s*[^\s,<>\"]+)*\s*,?")
_TAG = re.compile(r"\s*</?\s*[A-Za-z][A-Za-z-]*(?:\s[^<]*)?>\s*$")


def whole_lines(text: str, names: Container[str]) -> Iterator[Raw]:
    """The lines of *text*, those that go on joined with the rest of theirs; *names* are words that begin a directive, so never a rest."""
    lines = raw_lines(text)
    at = 0
    while at < len(lines):
        line = lines[at]
        count = 1
        if "," in line.text and _MACRO.match(line.text):
            line, count = _list(lines, at, names)
        elif "/" in line.text and _PATTERN.match(line.text):
            line, count = _pattern(lines, at, names)
        yield line
        at += count


def _list(lines: Sequence[Raw], at: int, names: Container[str]) -> tuple[Raw, int]:
    """The macro in line *at* with the lines that continue its values, and how many lines that is."""
    text = without_comment(lines[at].text).rstrip()
    joints: list[tuple[int, int]] = []
    count = 1
    while text.endswith(",") and at + count < len(lines) and len(text) <= MAX_LINE:
        rest = without_comment(lines[at + count].text).rstrip()
        if not _LIST.fullmatch(rest.lstrip()) or _begins(rest, names):
            break
        joints.append((len(text), lines[at + count].number))
        text += rest
        count += 1
    return (Raw(lines[at].number, text, tuple(joints)), count) if joints else (lines[at], 1)


def _pattern(lines: Sequence[Raw], at: int, names: Container[str]) -> tuple[Raw, int]:
    """The pattern in line *at* with what of it stands in the next lines, and how many lines that is."""
    text = lines[at].text
    opening = _PATTERN.match(text)
    assert opening is not None
    if _closes(text, opening.end()) or "#" in text:  # cut by a comment, not by the end of the line
        return lines[at], 1
    joints: list[tuple[int, int]] = []
    for rest in lines[at + 1 : at + MAX_PATTERN_LINES]:
        if not rest.text.strip() or _TAG.match(rest.text) or _PATTERN.match(rest.text) or _begins(rest.text, names):
            break
        joints.append((len(text), rest.number))
        text += rest.text
        if _closes(text, opening.end()):
            return Raw(lines[at].number, text, tuple(joints)), len(joints) + 1
    return lines[at], 1


def _begins(text: str, names: Container[str]) -> bool:
    """Whether *text* begins as a directive or a comment does."""
    words = text.split(None, 1)
    return not words or words[0].lower() in names or words[0].startswith("#")


def _closes(text: str, at: int) -> bool:
    """Whether a slash that no backslash protects stands in *text* from *at* on."""
    while at < len(text):
        if text[at] == "/":
            return True
        at += 2 if text[at] == "\\" else 1
    return False
