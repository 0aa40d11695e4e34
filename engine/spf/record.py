"""SPF records read (RFC 7208 sections 4.5, 5, 6 and 12): text to terms.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal, NamedTuple, TypeAlias

from engine.spf.macro import MacroString, SpfError, read_domain, read_macros

__all__ = ["Mechanism", "Record", "Result", "SpfError", "find_record", "parse_record"]

Result: TypeAlias = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"]

QUALIFIERS: Final[dict[str, Result]] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}

MAX_RECORD_BYTES: Final = 4_096  # section 3.4 asks for less than 512; reading so much takes about 2 ms, and peers choose the record

_VERSION = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)\Z", re.IGNORECASE | re.DOTALL)
_MECHANISM = re.compile(r"([-+?~]?)([a-z][a-z0-9_.-]*)(?:([:/])(.*))?\Z", re.IGNORECASE | re.DOTALL)
_DUAL_CIDR = re.compile(r"(?:/(0|[1-9]\d?))?(?://(0|[1-9]\d{0,2}))?\Z")
_ADDRESS_ONLY = {"ip4": re.compile(r"[0-9.]+(?:/(?:0|[1-9]\d?))?\Z"), "ip6": re.compile(r"[0-9a-f:.]+(?:/(?:0|[1-9]\d{0,2}))?\Z", re.IGNORECASE)}
_WITH_CIDR = frozenset({"a", "mx"})
_DOMAIN_NEEDED = frozenset({"include", "exists"})


class Mechanism(NamedTuple):
    """One directive.  *domain* is None where the current one is meant; *network* for ip4 and ip6; prefix lengths for a and mx."""

    result: Result
    name: str
    text: str  # as published
    domain: MacroString | None = None
    network: IPv4Network | IPv6Network | None = None
    prefix4: int = 32
    prefix6: int = 128


class Record(NamedTuple):
    """One record: what to try in order, and where to go on if nothing of it matches."""

    mechanisms: tuple[Mechanism, ...]
    redirect: MacroString | None = None


def find_record(texts: Iterable[bytes]) -> bytes | None:
    """The one of *texts*, the TXT records of a name, that is an SPF record; None without one.  SpfError where there are several."""
    found = [text for text in texts if _VERSION.match(text)]
    if len(found) > 1:
        raise SpfError(f"{len(found)} SPF records: there may be one")
    return found[0] if found else None


def parse_record(record: bytes) -> Record:
    """The terms of *record*, which begins with v=spf1; raises SpfError, also where it has more than MAX_RECORD_BYTES."""
    if len(record) > MAX_RECORD_BYTES:
        raise SpfError(f"the record has {len(record)} octets, more than {MAX_RECORD_BYTES}")
    try:
        text = record.decode("ascii")
    except UnicodeDecodeError:
        raise SpfError("the record is not ASCII") from None
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, MacroString] = {}
    for term in text[len("v=spf1") :].split(" "):
        if not term:
            continue
        modifier = _MODIFIER.match(term)
        if modifier is None:
            mechanisms.append(_mechanism(term))
            continue
        name, value = modifier[1].lower(), modifier[2]
        if name not in ("redirect", "exp"):
            read_macros(value)  # unknown ones are ignored, wrong ones are not
            continue
        if name in modifiers:
            raise SpfError(f"{name}= stands twice")
        modifiers[name] = read_domain(value)
    return Record(tuple(mechanisms), modifiers.get("redirect"))


def _mechanism(term: str) -> Mechanism:
    match = _MECHANISM.match(term)
    if match is None:
        raise SpfError(f"{term[:80]!r} is no term")
    result, name, separator, value = QUALIFIERS[match[1] or "+"], match[2].lower(), match[3], match[4] or ""
    if name == "all" and separator is None:
        return Mechanism(result, name, term)
    if name in _ADDRESS_ONLY and separator == ":":
        return Mechanism(result, name, term, network=_network(name, value))
    if name in _DOMAIN_NEEDED and separator == ":":
        return Mechanism(result, name, term, read_domain(value))
    if name == "ptr" and separator != "/":
        return Mechanism(result, name, term, read_domain(value) if separator else None)
    if name in _WITH_CIDR:
        return _with_cidr(result, name, term, separator, value)
    raise SpfError(f"{term[:80]!r} is no term of SPF")


def _network(name: str, value: str) -> IPv4Network | IPv6Network:
    try:
        if not _ADDRESS_ONLY[name].match(value):
            raise ValueError
        network = ip_network(value, strict=False)
    except ValueError:
        raise SpfError(f"{name}:{value[:60]} has no such address or prefix") from None
    if network.version != int(name[2]):
        raise SpfError(f"{name}:{value[:60]} is of the other family")
    return network


def _with_cidr(result: Result, name: str, term: str, separator: str | None, value: str) -> Mechanism:
    whole = f"/{value}" if separator == "/" else value
    cidr = _DUAL_CIDR.search(whole)  # a slash further left belongs to the domain
    if cidr is None or int(cidr[1] or 0) > 32 or int(cidr[2] or 0) > 128 or (separator != ":" and cidr.start()):
        raise SpfError(f"{term[:80]!r}: no such prefix")
    domain = read_domain(whole[: cidr.start()]) if separator == ":" else None
    return Mechanism(result, name, term, domain, None, 32 if cidr[1] is None else int(cidr[1]), 128 if cidr[2] is None else int(cidr[2]))
