"""The resolver of one process: questions to DNS answered from a cache, or asked once for everybody who waits; and targets for mail.

Bounds: at most *parallel* questions under way, *waiting* more in line (beyond that: a TemporaryFailure at once), *deadline_s* for each, and
*cache_size* names remembered.  Nothing here raises because of what DNS says or does not say; see `engine.dns.answer`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Container, Iterable, Sequence
from ipaddress import ip_address
from itertools import cycle, islice
from typing import TypeAlias

from engine.clock import monotonic_s
from engine.dns import codec
from engine.dns import targets as selection
from engine.dns.answer import Alias, Answer, Found, NoData, NxDomain, TemporaryFailure, conclude
from engine.dns.cache import STALE_S, STALE_TTL_S, Cache, lifetime_s
from engine.dns.codec import BadName, Question
from engine.dns.exchange import NameServer
from engine.dns.targets import Candidate, HostSpec, NoTargets, Plan, Targets

_MAX_ALIASES = 8  # CNAMEs followed by questions of our own; a recursive server follows them for us
_REST_S = 10.0  # a server that kept silent is asked last for so long
_GROWTH = 1.5  # of the timeout, from one round over the servers to the next
_LOCALHOST = {codec.A: "127.0.0.1", codec.AAAA: "::1"}
_LITERAL_TTL_S = 86_400.0

Groups: TypeAlias = tuple[tuple[HostSpec, ...], ...]
_PlanKey: TypeAlias = tuple[str | Groups, int, frozenset[int], bool]


class _Planned:
    """A plan or verdict, and the listening addresses it was made with."""

    __slots__ = ("own", "plan")

    def __init__(self, plan: Plan | NoTargets, own: Container[tuple[str, int]]) -> None:
        self.plan, self.own = plan, own


class Resolver:
    """Asks *servers* ((address, port), round robin).  To be used in one event loop; `close` when done."""

    def __init__(
        self,
        servers: Sequence[tuple[str, int]],
        *,
        timeout_s: float = 2.0,
        rounds: int = 3,
        deadline_s: float = 20.0,
        parallel: int = 500,
        waiting: int = 10_000,
        cache_size: int = 50_000,
        edns_bytes: int = codec.EDNS_SIZE_BYTES,
        rng: random.Random | None = None,
        clock: Callable[[], float] = monotonic_s,
    ) -> None:
        self._servers = [NameServer(address, port, edns_bytes) for address, port in servers]
        self._first = 0
        self._timeout_s, self._rounds, self._deadline_s = timeout_s, rounds, deadline_s
        self._slots = asyncio.Semaphore(parallel)
        self._max_flights = parallel + waiting
        self._flights: dict[Question, asyncio.Task[tuple[Answer, float]]] = {}
        self._answers: Cache[Question, Answer] = Cache(cache_size)
        self._plans: Cache[_PlanKey, _Planned] = Cache(cache_size)
        self._rng = rng or random.Random()
        self._clock = clock

    @property
    def names_cached(self) -> int:
        """Answers in the cache, expired ones included."""
        return len(self._answers)

    @property
    def names_pending(self) -> int:
        """Questions under way or in line."""
        return len(self._flights)

    async def close(self) -> None:
        """End every question under way and close the sockets."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        for server in self._servers:
            server.close()

    # --- where to connect -------------------------------------------------------------------------------------------------------------

    def cached_targets(
        self, domain: str, *, port: int, families: frozenset[int], own: Container[tuple[str, int]], allow_private: bool, attempts: int
    ) -> Targets | NoTargets | None:
        """What `targets` would return, if it is known without asking; None otherwise.  Cheap: for every connection."""
        return self._remembered((domain, port, families, allow_private), own, attempts)

    async def targets(
        self, domain: str, *, port: int, families: frozenset[int], own: Container[tuple[str, int]], allow_private: bool, attempts: int
    ) -> Targets | NoTargets:
        """Where mail for *domain* (A-labels, lower case; or an address literal) may be delivered, best first (RFC 5321 section 5.1).

        *families*: those that we have source addresses for, of 4 and 6.  *own*: (address, port) where we listen.  *allow_private*: loopback
        and its like are acceptable.  *attempts*: at most so many targets.
        """
        key: _PlanKey = (domain, port, families, allow_private)
        known = self._remembered(key, own, attempts)
        if known is not None:
            return known
        address = selection.parse_literal(domain)
        if address is None:
            found, expires_s = await self._exchanges(domain, port)
        else:
            found, expires_s = self._literal(domain, address, port, allow_private), self._clock() + _LITERAL_TTL_S
        plan: Plan | NoTargets
        if isinstance(found, NoTargets):
            plan = found
        else:
            plan, expires_s = await self._plan(domain, found, expires_s, families, own, allow_private)
        return self._remember(key, plan, own, expires_s, attempts)

    def cached_hosts(
        self, groups: Groups, *, port: int, families: frozenset[int], own: Container[tuple[str, int]], allow_private: bool, attempts: int
    ) -> Targets | NoTargets | None:
        """What `hosts` would return, if it is known without asking; None otherwise."""
        return self._remembered((groups, port, families, allow_private), own, attempts)

    async def hosts(
        self, groups: Groups, *, port: int, families: frozenset[int], own: Container[tuple[str, int]], allow_private: bool, attempts: int
    ) -> Targets | NoTargets:
        """Where mail goes that our configuration gives a route (smtp-hosts): *groups* in order of preference, the hosts of one group shuffled.

        *port* where the host names none.  Any address is right, except those that an MX of a lookup-mx names.  A host that does not exist is
        the fault of our configuration, not of the recipient's domain: it is "temporary".  Other arguments as for `targets`.
        """
        key: _PlanKey = (groups, port, families, allow_private)
        known = self._remembered(key, own, attempts)
        if known is not None:
            return known
        specs = [(group, spec) for group, members in enumerate(groups) for spec in members]
        routed = await asyncio.gather(*(self._route(spec, group, scope, port) for scope, (group, spec) in enumerate(specs)))
        candidates = [candidate for found, _ in routed if not isinstance(found, NoTargets) for candidate in found]
        verdicts = [found for found, _ in routed if isinstance(found, NoTargets)]
        expires_s = min((expires_s for _, expires_s in routed), default=self._clock())
        name = ", ".join(spec.host for _, spec in specs[:5])
        plan, expires_s = await self._plan(name, candidates, expires_s, families, own, allow_private)
        if isinstance(plan, NoTargets) and plan.kind != "loop":
            cause = verdicts[0] if verdicts and not candidates else plan
            plan = NoTargets("temporary", cause.status if cause.kind == "temporary" else "4.4.4", f"smtp-hosts: {cause.text}")
        return self._remember(key, plan, own, expires_s, attempts)

    async def _route(self, spec: HostSpec, group: int, scope: int, port: int) -> tuple[tuple[Candidate, ...] | NoTargets, float]:
        port = spec.port or port
        if spec.lookup_mx:
            return await self._exchanges(spec.host, port, group, scope)
        address = (selection.parse_literal(spec.host) or spec.host) if spec.literal else ""
        candidate = Candidate(spec.host, port, group, (group, 0), scope, trusted=True, address=address)
        return (candidate,), self._clock() + _LITERAL_TTL_S

    async def _exchanges(self, domain: str, port: int, group: int = 0, scope: int = 0) -> tuple[tuple[Candidate, ...] | NoTargets, float]:
        answer, expires_s = await self._lookup(Question(domain, codec.MX))
        return selection.exchanges(domain, answer, port, group=group, scope=scope, rng=self._rng), expires_s

    @staticmethod
    def _literal(domain: str, address: str, port: int, allow_private: bool) -> tuple[Candidate, ...] | NoTargets:
        if not address:
            return NoTargets("nxdomain", "5.1.2", f"{domain} is not an address literal")
        if not allow_private and not selection.may_be_remote(ip_address(address)):
            return NoTargets("nxdomain", "5.1.2", f"{domain} is an address that no mail host can have")
        return (Candidate(domain, port, 0, (0, 0), 0, trusted=True, address=address),)

    async def _plan(
        self,
        name: str,
        candidates: Iterable[Candidate],
        expires_s: float,
        families: frozenset[int],
        own: Container[tuple[str, int]],
        allow_private: bool,
    ) -> tuple[Plan | NoTargets, float]:
        """The plan, and when it expires: with the first of the answers that it was made of."""
        candidates = list(candidates)
        kinds = [kind for family, kind in ((4, codec.A), (6, codec.AAAA)) if family in families]
        questions = list(dict.fromkeys(Question(c.host, kind) for c in candidates if not c.address for kind in kinds))
        answers: dict[str, list[Answer]] = {}
        for question, (answer, until_s) in zip(questions, await self._lookup_all(questions), strict=True):
            answers.setdefault(question.name, []).append(answer)
            expires_s = min(expires_s, until_s)
        return selection.make_plan(name, candidates, answers, families=families, own=own, allow_private=allow_private), expires_s

    def _remembered(self, key: _PlanKey, own: Container[tuple[str, int]], attempts: int) -> Targets | NoTargets | None:
        now_s = self._clock()
        entry = self._plans.get(key, now_s)
        if entry is None:
            return None
        planned, expires_s = entry
        if planned.own is not own and planned.own != own:
            return None
        return self._ordered(planned.plan, attempts, expires_s - now_s)

    def _remember(
        self, key: _PlanKey, plan: Plan | NoTargets, own: Container[tuple[str, int]], expires_s: float, attempts: int
    ) -> Targets | NoTargets:
        self._plans.put(key, _Planned(plan, own), expires_s)
        return self._ordered(plan, attempts, max(expires_s - self._clock(), 0.0))

    def _ordered(self, plan: Plan | NoTargets, attempts: int, ttl_s: float) -> Targets | NoTargets:
        return plan if isinstance(plan, NoTargets) else Targets(selection.order(plan, attempts, self._rng), ttl_s)

    # --- questions --------------------------------------------------------------------------------------------------------------------

    async def ask(self, question: Question) -> Answer:
        """The answer to *question*; its TTL is what is left of it."""
        return self._aged(await self._lookup(question))

    async def mx(self, domain: str) -> Answer:
        """The answer to the MX question for *domain*."""
        return await self.ask(Question(domain, codec.MX))

    async def pointers(self, address: str) -> Answer:
        """The answer to the PTR question for *address*: the names that it says it has."""
        return await self.ask(Question(ip_address(address).reverse_pointer, codec.PTR))

    async def addresses(self, host: str, families: frozenset[int] = frozenset({4, 6})) -> list[Answer]:
        """The answers to the A and AAAA questions for *host*, as far as in *families*, in this order."""
        kinds = [kind for family, kind in ((4, codec.A), (6, codec.AAAA)) if family in families]
        return [self._aged(found) for found in await self._lookup_all([Question(host, kind) for kind in kinds])]

    def _aged(self, found: tuple[Answer, float]) -> Answer:
        answer, expires_s = found
        return answer if isinstance(answer, TemporaryFailure) else answer._replace(ttl_s=max(expires_s - self._clock(), 0.0))

    async def _lookup_all(self, questions: Sequence[Question]) -> list[tuple[Answer, float]]:
        now_s = self._clock()
        known = {question: entry for question in questions if (entry := self._answers.get(question, now_s)) is not None}
        missing = [question for question in questions if question not in known]
        known.update(zip(missing, await asyncio.gather(*map(self._lookup, missing)), strict=True))
        return [known[question] for question in questions]

    async def _lookup(self, question: Question) -> tuple[Answer, float]:
        """(answer, when it expires), from the cache or asked once for everybody (single flight)."""
        now_s = self._clock()
        entry = self._answers.get(question, now_s)
        if entry is not None:
            return entry
        flight = self._flights.get(question)
        if flight is None:
            if len(self._flights) >= self._max_flights:
                return TemporaryFailure("overload", "too many look-ups wait already"), now_s
            flight = self._flights[question] = asyncio.create_task(self._fly(question))
        return await asyncio.shield(flight)  # one caller's deadline does not end it for the others

    async def _fly(self, question: Question) -> tuple[Answer, float]:
        try:
            try:
                async with asyncio.timeout(self._deadline_s), self._slots:
                    answer = await self._ask(question)
            except TimeoutError:
                answer = TemporaryFailure("timeout", f"no answer within {self._deadline_s:g} s")
            return self._keep(question, answer)
        finally:
            del self._flights[question]

    def _keep(self, question: Question, answer: Answer) -> tuple[Answer, float]:
        """Into the cache; a failure is covered by an expired positive answer, if there is one (RFC 8767)."""
        now_s = self._clock()
        if isinstance(answer, TemporaryFailure):
            revived = self._answers.revive(question, STALE_TTL_S, now_s)
            if revived is not None:
                return revived
        expires_s = now_s + lifetime_s(answer)
        self._answers.put(question, answer, expires_s, expires_s + STALE_S if isinstance(answer, Found) else 0.0)
        return answer, expires_s

    async def _ask(self, question: Question) -> Answer:
        """The answer, aliases followed by further questions where the servers left that to us."""
        name, ttl_s = question.name.lower().removesuffix("."), float("inf")
        for _ in range(_MAX_ALIASES + 1):
            if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3: never asked for
                return Found(name, ttl_s, addresses=(_LOCALHOST[question.type],)) if question.type in _LOCALHOST else NoData(ttl_s)
            try:
                answer = await self._ask_servers(Question(name, question.type))
            except BadName:
                return NxDomain(ttl_s)  # what no query can name cannot exist
            if not isinstance(answer, Alias):
                return answer if isinstance(answer, TemporaryFailure) else answer._replace(ttl_s=min(answer.ttl_s, ttl_s))
            name, ttl_s = answer.name, min(ttl_s, answer.ttl_s)
        return TemporaryFailure("loop", f"CNAME loop, or a chain of more than {_MAX_ALIASES}, at {question.name}")

    async def _ask_servers(self, question: Question) -> Answer | Alias:
        """Ask one server after the other: silent ones again in the next round, those that answered with a failure not."""
        failure: TemporaryFailure | None = None
        refused: set[NameServer] = set()
        servers = self._in_turn()
        timeout_s = self._timeout_s
        for _ in range(self._rounds):
            for server in servers:
                if server in refused:
                    continue
                response = await server.ask(question, timeout_s * self._rng.uniform(0.9, 1.2))
                answer = response if isinstance(response, TemporaryFailure) else conclude(response, question)
                if not isinstance(answer, TemporaryFailure):
                    server.resting_until_s = 0.0
                    return answer
                if isinstance(response, TemporaryFailure):
                    server.resting_until_s = self._clock() + _REST_S
                else:
                    refused.add(server)
                if failure is None or isinstance(response, codec.Response):  # an answer says more than silence
                    failure = answer._replace(text=f"{server}: {answer.text}")
            timeout_s *= _GROWTH
        return failure or TemporaryFailure("network", "no name server is configured")

    def _in_turn(self) -> list[NameServer]:
        """The servers, beginning with the next in turn; those that kept silent lately last."""
        self._first = (self._first + 1) % max(len(self._servers), 1)
        now_s = self._clock()
        turn = islice(cycle(self._servers), self._first, self._first + len(self._servers))
        return sorted(turn, key=lambda server: server.resting_until_s > now_s)
