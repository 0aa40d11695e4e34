"""Macros in SPF records (RFC 7208 section 7): read once, expanded with what is known of the client.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

from engine.errors import EngineError

MAX_NAME = 253  # of an expanded name (section 7.3); labels leave it from the left

_EXPANSION = re.compile(r"%(?:\{([a-zA-Z])(\d*)([rR]?)([.\-+,/_=]*)\}|([%_-]))")
_LETTERS = frozenset("slodiphv")  # those that only an explanation may use - c, r, t - name no domain
_LITERAL = re.compile(r"[!-$&-~]*\Z")
_ESCAPES = {"%": "%", "_": " ", "-": "%20"}
_TOP_LABEL = re.compile(r"(?=.{1,63}\Z)(?=.*[a-z-])[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z", re.IGNORECASE)


class SpfError(EngineError):
    """A record that breaks the grammar, or a limit: permerror."""


class Expansion(NamedTuple):
    """`%{letter digits r delimiters}`: *keep* labels from the right (0: all), after turning them round if *reverse*."""

    letter: str
    keep: int
    reverse: bool
    delimiters: str
    escape: bool


MacroString: TypeAlias = tuple[str | Expansion, ...]


def read_macros(text: str) -> MacroString:
    """*text* as literals and expansions; raises SpfError."""
    parts: list[str | Expansion] = []
    position = 0
    for match in _EXPANSION.finditer(text):
        parts.append(_literal(text[position : match.start()], text))
        position = match.end()
        letter, digits, reverse, delimiters, escaped = match.groups()
        if escaped is not None:
            parts.append(_ESCAPES[escaped])
            continue
        if letter.lower() not in _LETTERS or (digits and not 0 < int(digits[:4]) < 1000):
            raise SpfError(f"{match.group()} in {text[:80]!r} is no macro")
        parts.append(Expansion(letter.lower(), int(digits or 0), bool(reverse), delimiters or ".", letter.isupper()))
    parts.append(_literal(text[position:], text))
    return tuple(part for part in parts if part)


def read_domain(text: str) -> MacroString:
    """A domain-spec: macros, ending in a top label or an expansion; raises SpfError."""
    parts = read_macros(text)
    if not parts:
        raise SpfError("a domain is missing")
    if isinstance(parts[-1], str):
        below, dot, top = parts[-1].removesuffix(".").rpartition(".")
        if not dot or not _TOP_LABEL.match(top) or not (below or len(parts) > 1):
            raise SpfError(f"{text[:80]!r} is no domain name")
    return parts


def needs_name(parts: MacroString) -> bool:
    """Whether *parts* hold %{p}, which has to be asked for."""
    return any(isinstance(part, Expansion) and part.letter == "p" for part in parts)


def expand(parts: MacroString, values: Mapping[str, str]) -> str:
    """*parts* with *values* by letter, as a domain name of at most MAX_NAME characters."""
    text = "".join(part if isinstance(part, str) else _expanded(part, values[part.letter]) for part in parts)
    text = text.removesuffix(".")
    while len(text) > MAX_NAME:
        _, dot, text = text.partition(".")
        if not dot:
            return ""
    return text


def dotted(ip: IPv4Address | IPv6Address) -> str:
    """%{i}: an IPv4 address as it is, an IPv6 address as 32 nibbles."""
    return str(ip) if ip.version == 4 else ".".join(ip.packed.hex())


def _literal(text: str, whole: str) -> str:
    if not _LITERAL.match(text):
        raise SpfError(f"{whole[:80]!r}: a % begins no macro, or a character that no record may have")
    return text


def _expanded(part: Expansion, value: str) -> str:
    labels = re.split("[" + re.escape(part.delimiters) + "]", value)
    if part.reverse:
        labels.reverse()
    text = ".".join(labels[-part.keep :] if part.keep else labels)
    return quote(text, safe="-._~") if part.escape else text
