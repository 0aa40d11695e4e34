"""Which hosts to try for a domain, and in which order (RFC 5321 section 5.1).  Pure: answers in, a plan or a verdict out.

First `exchanges` turns the answer to the MX question into candidates, then `make_plan` joins them with their addresses, and `order` makes of the plan
the list for one connection, shuffled anew each time.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import groupby
from typing import Literal, NamedTuple, Protocol, TypeAlias

from engine.dns.answer import Answer, Found, NoData, NxDomain, TemporaryFailure
from engine.dns.codec import Mx

MAX_HOSTS = 32  # of one domain; further ones are never looked up

Kind: TypeAlias = Literal["nxdomain", "no-mx", "null-mx", "loop", "temporary"]
Address: TypeAlias = IPv4Address | IPv6Address


class HostSpec(Protocol):
    """One host of smtp-hosts, as configuration has it."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...
    @property
    def literal(self) -> bool: ...
    @property
    def lookup_mx(self) -> bool: ...


class Target(NamedTuple):
    """One connection to try; *preference* as in the MX record, or the number of the preference group in smtp-hosts."""

    host: str
    address: str
    port: int
    preference: int


class Targets(NamedTuple):
    """Where to connect, best first: never empty, addresses of one host together; good for *ttl_s* seconds."""

    targets: tuple[Target, ...]
    ttl_s: float


class NoTargets(NamedTuple):
    """Why there is nowhere to connect.  *status* (RFC 3463) begins with 4 for "temporary" alone; "no-mx" is subject to bounce-upon-no-mx."""

    kind: Kind
    status: str
    text: str


class Candidate(NamedTuple):
    """A host before its addresses are known.

    Lower *rank* first, equal ranks shuffled.  *scope*: what a loop casts out, namely those of the same scope whose rank is not better than ours.
    *trusted*: named by our configuration, so that any address is right.  *address* is set where the host is an address literal.
    """

    host: str
    port: int
    preference: int
    rank: tuple[int, int]
    scope: int
    trusted: bool = False
    address: str = ""
    implicit: bool = False


HostPlan: TypeAlias = tuple[tuple[Target, ...], tuple[Target, ...]]  # IPv6, IPv4: at least one of them not empty
Plan: TypeAlias = tuple[tuple[HostPlan, ...], ...]  # by rank, best first
Addresses: TypeAlias = Mapping[str, Sequence[Answer]]  # host -> its answers, one per family asked


def parse_literal(domain: str) -> str | None:
    """The address in the address literal `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3); '' if bad; None: *domain* is a name."""
    if not domain.startswith("["):
        return None
    inner = domain[1:-1] if domain.endswith("]") else ""
    try:
        if inner[:5].lower() == "ipv6:":
            return str(IPv6Address(inner[5:])) if "%" not in inner else ""
        return str(IPv4Address(inner))
    except ValueError:
        return ""


def exchanges(domain: str, answer: Answer, port: int, *, group: int = 0, scope: int = 0, rng: random.Random) -> tuple[Candidate, ...] | NoTargets:
    """The hosts that *answer*, to the MX question for *domain*, names, at most MAX_HOSTS (the domain itself if it has no MX); or the verdict."""
    if isinstance(answer, TemporaryFailure):
        return NoTargets("temporary", "4.4.3", f"MX look-up of {domain} failed: {answer.text}")
    if isinstance(answer, NxDomain):
        return NoTargets("nxdomain", "5.1.2", f"domain {domain} does not exist")
    if isinstance(answer, NoData):
        return (Candidate(domain, port, 0, (group, 0), scope, implicit=True),)
    if {mx.host for mx in answer.exchanges} == {"."}:
        return NoTargets("null-mx", "5.1.10", f"domain {domain} accepts no mail (null MX)")
    best: dict[str, Mx] = {}
    for mx in sorted(answer.exchanges, key=lambda mx: (mx.preference, rng.random())):
        if mx.host != ".":
            best.setdefault(mx.host, mx)
    chosen = list(best.values())[:MAX_HOSTS]
    ranks = {preference: rank for rank, preference in enumerate(dict.fromkeys(mx.preference for mx in chosen))}
    return tuple(Candidate(mx.host, port, mx.preference, (group, ranks[mx.preference]), scope) for mx in chosen)


def make_plan(
    name: str,
    candidates: Iterable[Candidate],
    answers: Addresses,
    *,
    families: frozenset[int],
    own: Container[tuple[str, int]],
    allow_private: bool,
) -> Plan | NoTargets:
    """The plan that *candidates* of *name* make with the *answers* to their address questions; or why nothing is left of them.

    *own*: (address, port) where we listen ourselves; such a host and those not better are left out (RFC 5321 section 5.1).
    """
    candidates = list(candidates)
    addresses = [_addresses(candidate, answers) for candidate in candidates]
    loops: dict[int, tuple[int, int]] = {}
    for candidate, found in zip(candidates, addresses, strict=True):
        if any((str(address), candidate.port) in own for address in found):
            loops[candidate.scope] = min(candidate.rank, loops.get(candidate.scope, candidate.rank))
    hosts: list[tuple[tuple[int, int], HostPlan]] = []
    refused: list[str] = []
    live: list[Candidate] = []
    for candidate, found in zip(candidates, addresses, strict=True):
        if candidate.scope in loops and candidate.rank >= loops[candidate.scope]:
            continue
        live.append(candidate)
        usable = [address for address in found if allow_private or candidate.trusted or may_be_remote(address)]
        refused += [f"{candidate.host} [{address}]" for address in found if address not in usable]
        host = _host_plan(candidate, usable, families)
        if host[0] or host[1]:
            hosts.append((candidate.rank, host))
    if not hosts:
        return _verdict(name, live, answers, refused, looped=bool(loops))
    hosts.sort(key=lambda ranked: ranked[0])
    return tuple(tuple(host for _, host in group) for _, group in groupby(hosts, key=lambda ranked: ranked[0]))


def order(plan: Plan, attempts: int, rng: random.Random) -> tuple[Target, ...]:
    """At most *attempts* targets (at least one), best rank first; hosts of one rank shuffled, a host's addresses too, its families taking turns."""
    chosen: list[Target] = []
    for group in plan:
        hosts: Sequence[HostPlan] = group
        if len(group) > 1:
            hosts = list(group)
            rng.shuffle(hosts)
        for six, four in hosts:
            if not six or not four:
                chosen += _shuffled(six or four, rng)
            else:
                first, second = (six, four) if rng.random() < 0.5 else (four, six)
                chosen += _alternating(_shuffled(first, rng), _shuffled(second, rng))
            if len(chosen) >= attempts:
                return tuple(chosen[: max(attempts, 1)])
    return tuple(chosen)


def may_be_remote(address: Address) -> bool:
    """Whether *address* can be another host's, so that an MX may name it: not loopback, unspecified, link-local, multicast, nor in disguise."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or _compatible(address)
        if inner is not None and not may_be_remote(inner):
            return False
    elif address.packed[0] == 0 or address.packed == b"\xff\xff\xff\xff":
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast)


def _compatible(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside ::/96 (RFC 4291 section 2.5.5.1) or 64:ff9b::/96 (RFC 6052)."""
    inside = address.packed[:12] in (bytes(12), b"\0\x64\xff\x9b" + bytes(8))
    return IPv4Address(address.packed[12:]) if inside else None


def _addresses(candidate: Candidate, answers: Addresses) -> list[Address]:
    """The addresses of a host; IPv4 ones in their own form even where they came mapped into IPv6."""
    texts = (
        [candidate.address]
        if candidate.address
        else [text for answer in answers.get(candidate.host, ()) if isinstance(answer, Found) for text in answer.addresses]
    )
    parsed: dict[Address, None] = {}
    for text in texts:
        address = ip_address(text)
        parsed[(address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address] = None
    return list(parsed)


def _host_plan(candidate: Candidate, addresses: list[Address], families: frozenset[int]) -> HostPlan:
    def of(version: int) -> tuple[Target, ...]:
        return tuple(Target(candidate.host, str(a), candidate.port, candidate.preference) for a in addresses if a.version == version)

    return of(6) if 6 in families else (), of(4) if 4 in families else ()


def _verdict(name: str, live: list[Candidate], answers: Addresses, refused: list[str], *, looped: bool) -> NoTargets:
    """Why no target is left; *live*: the candidates that no loop cast out."""
    if not live and looped:
        return NoTargets("loop", "5.4.6", f"mail for {name} loops back to this host")
    of_host = {candidate.host: answers.get(candidate.host, ()) for candidate in live if not candidate.address}
    for host, heard in of_host.items():
        for answer in heard:
            if isinstance(answer, TemporaryFailure):
                return NoTargets("temporary", "4.4.3", f"address look-up of {host} failed: {answer.text}")
    implicit = any(candidate.implicit for candidate in live)
    if implicit and all(heard and all(isinstance(answer, NxDomain) for answer in heard) for heard in of_host.values()):
        return NoTargets("nxdomain", "5.1.2", f"domain {name} does not exist")
    if refused:
        return NoTargets("no-mx", "5.4.4", f"{name} names only addresses that no mail host can have: {', '.join(refused[:5])}")
    if implicit:
        return NoTargets("no-mx", "5.4.4", f"domain {name} has neither an MX nor an address that we can reach")
    return NoTargets("no-mx", "5.4.4", f"no mail host of {name} has an address that we can reach")


def _shuffled(targets: tuple[Target, ...], rng: random.Random) -> Sequence[Target]:
    if len(targets) < 2:
        return targets
    shuffled = list(targets)
    rng.shuffle(shuffled)
    return shuffled


def _alternating(first: Sequence[Target], second: Sequence[Target]) -> list[Target]:
    both = min(len(first), len(second))
    mixed = [target for pair in zip(first, second, strict=False) for target in pair]
    return [*mixed, *first[both:], *second[both:]]
