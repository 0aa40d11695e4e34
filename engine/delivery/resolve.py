"""Where mail for a domain would go now: what DNS says, and what each source of a virtual MTA would make of it.  Asks; changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from engine.config.model import Config
from engine.delivery.destination import Destinations
from engine.delivery.sources import Source, Sources
from engine.dns import Found, NoData, NoTargets, NxDomain, Resolver, Targets, TemporaryFailure
from engine.dns.answer import Answer
from engine.scheduler.queue import Queue

HOSTS_MOST = 32  # of one domain, as when mail is sent


class Exchange(NamedTuple):
    """One mail host that DNS names: its addresses, or why there are none; *ttl_s* of the MX record."""

    preference: int
    host: str
    addresses: tuple[str, ...]
    ttl_s: float
    trouble: str = ""


class Way(NamedTuple):
    """What would be tried from one source, best first; or why nothing."""

    source: Source
    found: Targets | NoTargets


class Resolution(NamedTuple):
    """All of it; *says* is what DNS answered where it named no mail host."""

    says: str
    exchanges: list[Exchange]
    ways: list[Way]


async def resolve(
    config: Config,
    resolver: Resolver,
    domain: str,
    vmta: str,
    listening: frozenset[tuple[str, int]],
    local: Callable[[], Sequence[IPv4Address | IPv6Address]],
) -> Resolution:
    """For *domain* (lower case, A-labels) in a queue of *vmta*; *listening*: where the engine would only reach itself."""
    queue = Queue(0, f"{domain}/{vmta}", config.domain(domain, vmta))
    destinations = Destinations(resolver, listening)
    says, exchanges = ("", []) if domain.startswith("[") else await _exchanges(resolver, domain)
    ways = [Way(source, await destinations.of(queue, source)) for source in Sources(config, local).every(vmta)]
    return Resolution(says, exchanges, ways)


async def _exchanges(resolver: Resolver, domain: str) -> tuple[str, list[Exchange]]:
    answer = await resolver.mx(domain)
    if not isinstance(answer, Found):
        return _words(answer), []
    chosen = sorted(answer.exchanges, key=lambda mx: mx.preference)[:HOSTS_MOST]
    heard = await asyncio.gather(*(resolver.addresses(mx.host) for mx in chosen if mx.host != "."))
    by_host = dict(zip([mx.host for mx in chosen if mx.host != "."], heard, strict=True))
    found = []
    for mx in chosen:
        answers = by_host.get(mx.host, [])
        addresses = tuple(address for each in answers if isinstance(each, Found) for address in each.addresses)
        trouble = "" if addresses else "null MX: takes no mail" if mx.host == "." else "; ".join(dict.fromkeys(_words(each) for each in answers))
        found.append(Exchange(mx.preference, mx.host, addresses, answer.ttl_s, trouble))
    return "", found


def _words(answer: Answer) -> str:
    if isinstance(answer, NxDomain):
        return "the name does not exist"
    if isinstance(answer, NoData):
        return "no such records"
    return answer.text if isinstance(answer, TemporaryFailure) else ""
