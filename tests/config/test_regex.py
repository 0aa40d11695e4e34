"""The bounded matcher against Python's own, and against patterns that make a backtracking one explode."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config.regex import MAX_STATES, Regex, RegexProblem


@pytest.mark.parametrize(
    ("pattern", "text", "want"),
    [
        (r"@foo(bar)?\.com$", "x@FOO.com", True),
        (r"@foo(bar)?\.com$", "x@foobar.com.evil", False),
        (r"^[45]\.1\.[1346];", "5.1.3;unknown", True),
        (r"\x23", "a#b", True),
        (r"\d+\.\d+\.\d+\.\d+ blocked", "ip 10.2.3.4 blocked", True),
        (r"(?-i)ABC", "abc", False),
        (r"(?-i:A)b", "AB", True),
        (r"a(?i)B|C", "ac", True),
        (r"[^@]+@[^@]+", "@", False),
        (r"[[:digit:]]", "a1", True),
        (r"[a\-z]", "-", True),
        (r"[]]", "]", True),
        (r"\bvirus\b", "a virus.", True),
        (r"\bvirus\b", "antivirus", False),
        (r"a{2,3}$", "baaa", True),
        (r"^a{2,3}$", "aaaa", False),
        (r"a{,2}", "a{,2}", True),
        (r"x{", "x{", True),
        (r"(?<user>a)(?:b|c)", "ac", True),
        (r"\Qa.b\E+$", "xa.bb", True),
        (r"\Qa.b\E", "axb", False),
        (r"\Q[x", "a[x", True),
        ("a(?#a comment)b", "ab", True),
        ("(?s)a.b", "a\nb", True),
        ("a.b", "a\nb", False),
        ("(?m)^b$", "a\nb\nc", True),
        ("^b$", "a\nb\nc", False),
        ("(?m)^$", "a\n", False),
        ("(?i-i)A", "a", False),
        (r"a\vb", "a\nb", True),
        (r"a[\v]b", "a\x0bb", True),
        (r"a\Vb", "a\nb", False),
        (r"a\Vb", "axb", True),
        ("[[:blank:]]x", "\tx", True),
        ("", "", True),
        ("é", "É", True),
    ],
)
def test_matches(pattern: str, text: str, want: bool) -> None:
    assert Regex(pattern).search(text) is want


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "[",
        "[z-a]",
        "*a",
        "a**",
        "a++",
        "(?=a)",
        "(?!a)",
        "(?<=a)b",
        "(?>a)",
        r"(a)\1",
        r"\G",
        "\\",
        "a{3,2}",
        "[[:no:]]",
        "(?#c",
        "(?R)",
        "(?(1)a|b)",
        "(?<!a)b",
        "(" * 100 + ")" * 100,
        "(a{1000})",
        "((a{40}){40}){40}",
    ],
)
def test_what_is_not_regular_or_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(RegexProblem):
        Regex(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){12}$", "(a?){25}a{25}$", r"^(\w+\s?)*$", "([a-z]+)*@"])
def test_no_text_takes_long(pattern: str) -> None:
    regex = Regex(pattern)
    start = time.process_time()
    regex.search("a" * 319 + "!")
    regex.search("ab" * 2000)
    assert time.process_time() - start < 2


def test_memory_is_bounded_whatever_the_texts() -> None:
    regex = Regex("(a|b)*a(a|b){12}c")
    for number in range(300):
        regex.search(f"{number:b}".replace("0", "a").replace("1", "b") * 10)
    assert len(regex._cache) <= 256
    assert len(regex._states) <= MAX_STATES


_ATOMS = [
    "a",
    "b",
    "A",
    ".",
    r"\d",
    r"\w",
    r"\s",
    r"\D",
    "[ab]",
    "[^a]",
    "[a-c1]",
    "^",
    "$",
    r"\b",
    r"\B",
    "(a|b)",
    "(ab)",
    "(?:a|)",
    "1",
    " ",
    r"\.",
    "(?:a{2}|b+)",
]
_TIMES = ["", "", "*", "+", "?", "{1,2}", "{2}", "{0,1}", "{1,}", "*?"]
_PATTERNS = st.lists(st.tuples(st.sampled_from(_ATOMS), st.sampled_from(_TIMES), st.sampled_from(["", "", "", "|"])), max_size=5)


@settings(deadline=None)
@given(_PATTERNS, st.text("abAB1 .\n", min_size=1, max_size=7))  # of empty text Python's \\B and PCRE's say different things
def test_agrees_with_re(parts: list[tuple[str, str, str]], text: str) -> None:
    pattern = "".join(a + t + j for a, t, j in parts)
    try:
        want = re.search(pattern, text, re.I | re.A)
    except re.error:
        return
    try:
        regex = Regex(pattern)
    except RegexProblem:
        return
    assert regex.search(text) is (want is not None)
    assert regex.search(text) is (want is not None)  # again, from the automaton that the first built


@settings(deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_pattern_raises_anything_else(pattern: str, text: str) -> None:
    try:
        Regex(pattern).search(text)
    except RegexProblem as problem:
        assert 0 <= problem.offset <= len(pattern)
