"""The examination: what to look at, and all of it looked at side by side, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

from engine.dns import Found, NxDomain, Resolver, TemporaryFailure, reverse
from engine.dns.answer import Answer
from engine.doctor import door, probe
from engine.doctor.judgement import Examination
from engine.doctor.names import Named, translated
from engine.doctor.ports import Target, Try
from engine.doctor.senders import Checked
from engine.doctor.stranger import Door
from engine.spf import Verdict, answered, check_host

PARALLEL = 50  # probes at once
_SPF_TIMEOUT_S = 30.0  # of one evaluation; RFC 7208 section 4.6.4 asks for 20 at least

T = TypeVar("T")


class Plan(NamedTuple):
    """What to look at.  *sources*: (address, EHLO name), "" for whatever the kernel chooses."""

    sources: tuple[tuple[str, str], ...]
    targets: tuple[Target, ...]
    domains: tuple[str, ...] = ()
    doors: tuple[Door, ...] = ()


async def examine(plan: Plan, resolver: Resolver, timeout_s: float, on_progress: Callable[[str, int, int], None]) -> Examination:
    """Look at everything in *plan*; *timeout_s* is what each step of a conversation may take.  Raises nothing for what it meets."""
    run = _Side(on_progress)
    hosts = list(dict.fromkeys(target.host for target in plan.targets))
    found = await run.all("names of the targets", [addresses_of(resolver, host) for host in hosts])
    of_host = dict(zip(hosts, found, strict=True))
    sources = _settled(plan.sources, [address for addresses, _ in found for address in addresses])
    tries = [_try(source, target, of_host[target.host], timeout_s) for source in _origins(sources) for target in plan.targets]
    doors = [door.look_at(each, timeout_s) for each in plan.doors]
    named = [_name(resolver, source, ehlo) for source, ehlo in sources]
    seen_ports, seen_doors, seen_names = await asyncio.gather(run.all("ports", tries), run.all("listeners", doors), run.all("names", named))
    asked = [(domain, each, False) for domain in plan.domains for each in seen_names]
    asked += [(each.ehlo, each, True) for each in seen_names if each.ehlo not in plan.domains]
    checked = await run.all("SPF", [_check(resolver, domain, each, of_ehlo) for domain, each, of_ehlo in asked])
    return Examination(tuple(seen_ports), tuple(seen_names), tuple(checked), tuple(seen_doors))


class _Side:
    """Runs probes side by side, PARALLEL at most over all kinds, and tells how far each kind is."""

    def __init__(self, on_progress: Callable[[str, int, int], None]) -> None:
        self._slots = asyncio.Semaphore(PARALLEL)
        self._on_progress = on_progress

    async def all(self, what: str, probes: Sequence[Awaitable[T]]) -> list[T]:
        """The results, in the order of *probes*."""
        done = 0

        async def one(each: Awaitable[T]) -> T:
            nonlocal done
            async with self._slots:
                result = await each
            done += 1
            self._on_progress(what, done, len(probes))
            return result

        return list(await asyncio.gather(*map(one, probes)))


def _settled(sources: Sequence[tuple[str, str]], addresses: Sequence[str]) -> list[tuple[str, str]]:
    """*sources* with what the kernel chooses, towards *addresses*, in the place of ""."""
    settled: list[tuple[str, str]] = []
    for source, ehlo in sources:
        chosen = [source] if source else [probe.source_for(address) for address in addresses]
        settled += [(each, ehlo) for each in chosen if each]
    return list(dict.fromkeys(settled))


def _origins(sources: Sequence[tuple[str, str]]) -> list[str]:
    """The addresses to try ports from, each once; "" where no target is known well enough to choose one."""
    return list(dict.fromkeys(source for source, _ in sources)) or [""]


async def addresses_of(resolver: Resolver, host: str) -> tuple[list[str], str]:
    """(the addresses of *host*, why there are none)."""
    try:
        return [str(ip_address(host))], ""
    except ValueError:
        answers = await resolver.addresses(host)
    addresses = [address for answer in answers if isinstance(answer, Found) for address in answer.addresses]
    return addresses, "" if addresses else _no_address(answers)


def _no_address(answers: Sequence[Answer]) -> str:
    failed = next((answer for answer in answers if isinstance(answer, TemporaryFailure)), None)
    if failed is not None:
        return f"DNS could not say where it is: {failed.text}"
    return "there is no such name" if any(isinstance(answer, NxDomain) for answer in answers) else "the name has no address"


async def _try(source: str, target: Target, found: tuple[list[str], str], timeout_s: float) -> Try:
    addresses, trouble = found
    if trouble or not source:
        return Try(source or "this host", target, "", "no-name", trouble or "this host has no address to send from to it")
    version = ip_address(source).version
    address = next((each for each in addresses if ip_address(each).version == version), "")
    if not address:
        return Try(source, target, "", "no-family", f"it has no IPv{version} address")
    return await probe.try_port(source, target, address, timeout_s)


async def _name(resolver: Resolver, source: str, ehlo: str) -> Named:
    """What DNS says about *source*, or about the public address of its EHLO name where *source* is that of a private network."""
    answers = await resolver.addresses(ehlo)
    ours = tuple(address for answer in answers if isinstance(answer, Found) for address in answer.addresses)
    address, behind = source, ""
    if translated(source):
        version = ip_address(source).version
        public = next((each for each in ours if ip_address(each).version == version and not translated(each)), "")
        address, behind = (public, source) if public else (source, "")
    named = Named(address, ehlo, behind, ehlo_addresses=ours)
    found = await reverse(resolver, address)
    return named._replace(pointers=found.names, trouble="" if found.confirmed else found.trouble)


async def _check(resolver: Resolver, domain: str, named: Named, of_ehlo: bool) -> Checked:
    try:
        async with asyncio.timeout(_SPF_TIMEOUT_S):
            verdict = await answered(check_host(ip_address(named.address), domain, helo=named.ehlo), resolver.ask)
    except TimeoutError:
        verdict = Verdict("temperror", domain, text=f"not answered within {_SPF_TIMEOUT_S:g} s")
    return Checked(domain, named.address, verdict, of_ehlo)
