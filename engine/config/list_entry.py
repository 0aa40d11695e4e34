"""The lines of lists: patterns over replies, mail and names, and what each asks for when it matches."""

from __future__ import annotations

import re
from typing import Any

from engine.config.lexer import Arguments, ValueProblem
from engine.config.pattern import DomainPattern, Network, domain_name, parse_network
from engine.config.regex import Regex
from engine.config.values import (
    ValueType,
    compile_regex,
    did_you_mean,
    mail_address,
    mail_addresses,
    name,
    one,
    parse_value,
    percent,
    positive_seconds,
    slashed,
)

Asked = tuple[tuple[str, Any], ...]  # (name, value or None) of each action or result, in order

_LITERAL = re.compile(r"(?<!\\)\[[A-Z]{2,}[0-9]+\]")
_WITH_VALUE: dict[str, ValueType[Any]] = {"backoff-to-normal-after": positive_seconds, "reenable-after": positive_seconds}
_ACTIONS = ("mode=normal", "mode=backoff", "skip-mx", "bounce-queue", "bounce-rcpt", "disable-source-ip", "defer-queue")
_NEEDS = {"backoff-to-normal-after": "mode=backoff", "reenable-after": "disable-source-ip"}
_NEVER_TOGETHER = (("mode=normal", "mode=backoff"), ("skip-mx", "bounce-queue"))
_RESULTS: dict[str, ValueType[Any]] = {"virtual-mta": name, "recipient-priority": percent}
_ACCESS = ("none", "monitor", "monitor,deny-logs", "operator", "admin")
_MAILBOX = re.compile(r"<>|[^\s@<>]+@[^\s@<>]+")


def _pattern(arguments: Arguments) -> Regex:
    """The next pattern, compiled, with notes on what it hardly means."""
    text, start = slashed(arguments)
    end = arguments.position
    regex = compile_regex(text, start)
    if text and regex.search("") and regex.search("~"):
        arguments.notes.append((f"/{text[:40]}/ matches every text", start))
    if literal := _LITERAL.search(text):
        inner = literal[0][1:-1]
        arguments.notes.append((f"[{inner}] is any one of these characters; the text itself is written \\[{inner}\\]", start + literal.start()))
    if foreign := next((at for at, char in enumerate(text) if not char.isascii()), None):
        arguments.notes.append((f"{text[foreign]!r} in a pattern is not ASCII, as mail servers' replies are", start + foreign))
    if not arguments.at_end and arguments.position == end:
        arguments.notes.append(("no blank stands behind the pattern's /: one that belongs to the pattern is written \\/", end))
    return regex


def _reply(arguments: Arguments) -> tuple[Regex, Asked]:
    regex = _pattern(arguments)
    if arguments.at_end:
        arguments.notes.append(("no action follows the pattern: it changes nothing", arguments.position))
        return regex, ()
    asked: list[tuple[str, Any]] = []
    for item, offset, _ in arguments.list(","):
        asked.append(_action(item.lower(), offset, [each for each, _ in asked]))
    return regex, tuple(asked)


def _action(item: str, offset: int, before: list[str]) -> tuple[str, Any]:
    word, equals, value = item.partition("=")
    if equals and word in _WITH_VALUE:
        if _NEEDS[word] not in before:
            raise ValueProblem(f"{word} comes after {_NEEDS[word]}", offset)
        return word, _value(_WITH_VALUE[word], value, offset + len(word) + 1)
    if item not in _ACTIONS:
        known = [*_ACTIONS, *(f"{each}=TIME" for each in _WITH_VALUE)]
        raise ValueProblem(f"{item[:60]!r} is no action{did_you_mean(item, known) or '; there are ' + ', '.join(known)}", offset)
    for pair in _NEVER_TOGETHER:
        if item in pair and (other := pair[pair[0] == item]) in before:
            raise ValueProblem(f"{other} and {item} exclude each other", offset)
    return item, None


def _result(arguments: Arguments) -> Asked:
    """What a <pattern-list> gives mail that matches; nothing where a nested list decides."""
    if arguments.at_end:
        return ()
    if arguments.starts_with("call-to:"):
        return (("call-to", arguments.word()),)
    asked: list[tuple[str, Any]] = []
    for item, offset, _ in arguments.list(","):
        word, equals, value = item.partition("=")
        if not equals or word.lower() not in _RESULTS:
            raise ValueProblem(f"{item[:60]!r}: virtual-mta=NAME, recipient-priority=0..100 or call-to: LIST is expected", offset)
        asked.append((word.lower(), _value(_RESULTS[word.lower()], value, offset + len(word) + 1)))
    return tuple(asked)


def _value(value_type: ValueType[Any], text: str, offset: int) -> Any:
    try:
        return parse_value(value_type, text)
    except ValueProblem as problem:
        raise ValueProblem(problem.text, offset + problem.offset) from None


def _category(arguments: Arguments) -> tuple[Regex, str]:
    regex = _pattern(arguments)
    category = arguments.word()
    if "/" in category:
        raise ValueProblem("a / inside a pattern is written \\/", arguments.position - len(category))
    return regex, category.lower()


def _mailboxes(arguments: Arguments) -> tuple[str, str]:
    pair: list[str] = []
    for _ in range(2):
        word = arguments.word()
        offset = arguments.position - len(word)
        if not _MAILBOX.fullmatch(word):
            raise ValueProblem(f"{word[:60]!r}: user@domain, with * for either, or <> is expected", offset)
        pair.append(word)
    if not pair[1].isascii() or (pair[0] == "<>" and "*" in pair[1]):
        raise ValueProblem("what replaces a sender is ASCII, and names a mailbox where <> is replaced", offset)
    return pair[0], pair[1]


def _domains(arguments: Arguments) -> tuple[DomainPattern, str]:
    found: list[Any] = []
    for read in (DomainPattern.parse, domain_name):
        word = arguments.word()
        try:
            found.append(read(word))
        except ValueError as error:
            raise ValueProblem(f"{word[:60]!r} is {error}", arguments.position - len(word)) from None
    return found[0], found[1]


def _mx(arguments: Arguments) -> tuple[str, str, bool]:
    host = arguments.word().lower()
    start = arguments.position - len(host)
    try:
        DomainPattern.parse(host)
    except ValueError as error:
        raise ValueProblem(f"{host[:60]!r} is {error}", start) from None
    rollup = arguments.word().lower()
    if not rollup.endswith(".rollup") or rollup == ".rollup":
        raise ValueProblem(f"{rollup[:60]!r}: a rollup's name ends in .rollup", arguments.position - len(rollup))
    by_ip = not arguments.at_end and arguments.starts_with("rollup-by-ip")
    return host, rollup, by_ip


def _access(arguments: Arguments) -> tuple[Network, str]:
    word = arguments.word()
    try:
        network = parse_network(word)
    except ValueError as error:
        raise ValueProblem(f"{word[:60]!r} is {error}", arguments.position - len(word)) from None
    level = "".join(arguments.rest().split()).lower() if not arguments.at_end else arguments.word().lower()
    if level not in _ACCESS:
        raise ValueProblem(f"{level[:60]!r}: one of {' '.join(_ACCESS)} is expected", arguments.position - len(level))
    return network, level


reply = ValueType("/regex/ actions", _reply)
header = ValueType("header /regex/ result", lambda a: (a.word(), _pattern(a), _result(a)))
sender_or_recipient = ValueType("/regex/ result", lambda a: (_pattern(a), _result(a)))
result = ValueType("result", _result)
category = ValueType("/regex/ category", _category)
mailboxes = ValueType("sender, new sender", _mailboxes)
domains = ValueType("domain pattern, new domain", _domains)
mx = ValueType("MX pattern, name.rollup [rollup-by-ip]", _mx)
access = ValueType("CIDR and level", _access)


def _parse_alias(arguments: Arguments) -> tuple[str, tuple[str, ...]]:
    source = _alias_source.parse(arguments)
    targets = mail_addresses.parse(arguments)
    if not targets:
        raise ValueProblem("an address to forward to is missing", arguments.position)
    return source, targets


_alias_source = one("address", lambda text: f"*@{domain_name(text[2:])}" if text.startswith("*@") else parse_value(mail_address, text).lower())
alias = ValueType("address and addresses", _parse_alias)
