"""Asks DNS about a client and its sender while the reply to MAIL waits: SPF and iprev, for a `<source>` that wants them.

Bounds: MAX_CHECKS under way in one process, each CHECK_S long at most; what is beyond is a temperror.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.config.pattern import domain_name
from engine.dns import Found, Resolver, reverse, system_servers
from engine.dns.answer import Answer, NoData, NxDomain
from engine.dns.codec import TYPE_NAMES, Question
from engine.log import EventLog, escape
from engine.mail.reply import Reply
from engine.policy.origin import Checked, refusal, results_field
from engine.spf import answered, check_host

if TYPE_CHECKING:
    from engine.config import ClientSettings, ServerSettings

MAX_CHECKS: Final = 500
CHECK_S: Final = 20.0  # RFC 7208 section 4.6.4 asks for so much at least
_CACHED_NAMES: Final = 20_000
_SHOWN_CHARS: Final = 300  # of one answer

Tell = Callable[["Judged"], None]


class Judged(NamedTuple):
    """What came of the checks: why MAIL is refused, or the field that the message gets."""

    refusal: Reply | None
    field: bytes


class OriginChecks:
    """For one listener process; made when the first client needs it."""

    def __init__(self, server: ServerSettings, host_name: str, log: EventLog) -> None:
        """*host_name* signs the verdicts."""
        self._host_name = host_name
        self._log = log
        self._resolver = Resolver(
            server.name_server or system_servers(), deadline_s=CHECK_S, cache_size=_CACHED_NAMES, edns_bytes=server.edns_udp_length
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, client: ClientSettings, ip: str, helo: str, sender: str, tell: Tell) -> None:
        """Have *tell* called, later but within CHECK_S, with what there is to say of a *sender* ("": nobody) at *ip* that calls itself *helo*."""
        task = asyncio.get_running_loop().create_task(self._check(client, ip, helo, sender, tell, busy=len(self._tasks) >= MAX_CHECKS))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check(self, client: ClientSettings, ip: str, helo: str, sender: str, tell: Tell, *, busy: bool) -> None:
        domain = _ascii(sender.rpartition("@")[2] if sender else helo)
        wanted: list[tuple[Checked, Callable[[], Awaitable[str]]]] = []
        if client.check_iprev_inbound:
            wanted.append((Checked("iprev", "temperror", "policy.iprev", ip), partial(self._iprev, client, ip)))
        if client.check_spf_inbound:
            about = "smtp.mailfrom" if sender else "smtp.helo"
            wanted.append((Checked("spf", "temperror", about, domain), partial(self._spf, client, ip, helo, sender, domain)))
        checks = tuple(checked for checked, _ in wanted)
        if not busy:  # side by side: one after the other they could outlast the connection's patience
            results = await asyncio.gather(*(self._within(check()) for _, check in wanted))
            checks = tuple(checked._replace(result=result) for checked, result in zip(checks, results, strict=True))
        tell(Judged(refusal(client, checks), results_field(self._host_name, checks)))

    @staticmethod
    async def _within(check: Awaitable[str]) -> str:
        try:
            async with asyncio.timeout(CHECK_S):
                return await check
        except TimeoutError:
            return "temperror"

    async def _iprev(self, client: ClientSettings, ip: str) -> str:
        found = await reverse(self._resolver, ip)
        if client.trace_iprev_check:
            names = "; ".join(f"{name} has {', '.join(addresses) or 'no address'}" for name, addresses in found.names) or found.trouble or "no name"
            self._say(f"client={ip} iprev={found.result} {escape(names[:_SHOWN_CHARS])}")
        return found.result

    async def _spf(self, client: ClientSettings, ip: str, helo: str, sender: str, domain: str) -> str:
        async def ask(question: Question) -> Answer:
            await asyncio.sleep(0)  # answers that are known come at once: other clients get their turn between two records
            answer = await self._resolver.ask(question)
            if client.trace_spf_check:
                self._say(f"client={ip} spf: {TYPE_NAMES[question.type]} {escape(question.name)}: {escape(_words(answer)[:_SHOWN_CHARS])}")
            return answer

        check = check_host(ip_address(ip), domain, sender=sender, helo=helo, max_void_lookups=client.check_spf_inbound_max_void_lookups)
        verdict = await answered(check, ask)
        if client.trace_spf_check:
            why = f"{verdict.term} {verdict.text}".strip()
            self._say(f"client={ip} spf={verdict.result} domain={escape(domain)} decided={escape(verdict.domain)} {escape(why[:_SHOWN_CHARS])}")
        return verdict.result

    def _say(self, text: str) -> None:
        self._log.event("origin", text)


def _ascii(domain: str) -> str:
    """*domain* in A-labels (RFC 8616), if it can be one: what cannot has no SPF record."""
    try:
        return domain if domain.isascii() else domain_name(domain)
    except ValueError:
        return ""


def _words(answer: Answer) -> str:
    if isinstance(answer, Found):
        texts = [text.decode("latin-1") for text in answer.texts]
        return ", ".join([*texts, *answer.addresses, *answer.names, *(f"{mx.preference} {mx.host}" for mx in answer.exchanges)])
    return "no such name" if isinstance(answer, NxDomain) else "no such records" if isinstance(answer, NoData) else answer.text
