"""The resolver against a server on loopback that answers, lies, keeps silent and loops; time for the cache is an argument."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import pytest
import uvloop

from engine.dns import Found, NoData, NoTargets, NxDomain, Resolver, Targets, TemporaryFailure
from engine.dns.codec import Mx
from tests.dns_server import DnsServer, Zone, parse_zone

T = TypeVar("T")

ZONE = """
d.example           MX     10 mx1.example
d.example           MX     20 mx2.example
mx1.example         A      192.0.2.1
mx1.example         AAAA   2001:db8::1
mx2.example         A      192.0.2.2
a-only.example      A      192.0.2.3
null.example        MX     0 .
alias.example       CNAME  d.example
alias2.example      CNAME  alias.example
dangling.example    CNAME  gone.test
loop.example        CNAME  loop2.example
loop2.example       CNAME  loop.example
step.example        CNAME  d.example
step.example        !      no-chase
steploop.example    CNAME  steploop.example
steploop.example    !      no-chase
self.example        MX     10 self.example
self.example        A      127.0.0.1
txt.example         TXT    "nothing else"
servfail.example    !      servfail
refused.example     !      refused
garbage.example     !      garbage
wrong-id.example    !      wrong-id
wrong-q.example     !      wrong-question
silent.example      !      silence
referral.example    !      referral
big.example         MX     10 mx1.example
big.example         !      truncate
twice.example       !      empty-truncate
hangup.example      !      hang-up
liar.example        MX     10 mx1.example
liar.example        !      lie-first
old.example         MX     10 mx1.example
old.example         !      no-edns
nosoa.test          !      nxdomain
nosoa.test          !      no-soa
*.wild.example      MX     10 mx1.example
*.held.example      MX     10 mx1.example
*.held.example      !      hold
silent-mx.example   MX     10 silent.example
half.example        MX     10 silent.example
half.example        MX     10 mx2.example
"""
FAST_S = 0.05  # for questions that nobody answers
BOTH = frozenset({4, 6})


class Call(NamedTuple):
    port: int = 25
    families: frozenset[int] = BOTH
    own: frozenset[tuple[str, int]] = frozenset()
    allow_private: bool = False
    attempts: int = 10


class Host(NamedTuple):
    host: str
    port: int | None = None
    literal: bool = False
    lookup_mx: bool = False


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def run(loop_factory: Any) -> Callable[..., Any]:
    """Run a scenario with a resolver for *servers*."""

    def run_scenario(scenario: Callable[[Resolver], Awaitable[T]], *servers: tuple[str, int], **options: Any) -> T:
        async def whole() -> T:
            resolver = Resolver(servers, rng=random.Random(1), **options)
            try:
                return await asyncio.wait_for(scenario(resolver), 20)
            finally:
                await resolver.close()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(whole())

    return run_scenario


@pytest.fixture(scope="module")
def running_server() -> Any:
    with DnsServer(parse_zone(ZONE)) as running:
        yield running


@pytest.fixture
def server(running_server: DnsServer) -> Any:
    """One server for all tests, as if new: it has heard nothing and holds nothing."""
    running_server.queries.clear()
    yield running_server
    running_server.release()


def lookup(domain: str, call: Call | None = None) -> Callable[[Resolver], Awaitable[Targets | NoTargets]]:
    async def scenario(resolver: Resolver) -> Targets | NoTargets:
        return await resolver.targets(domain, **(call or Call())._asdict())

    return scenario


def addresses(result: Targets | NoTargets) -> list[str]:
    assert isinstance(result, Targets), result
    return [target.address for target in result.targets]


@pytest.mark.parametrize("domain", ["d.example", "alias.example", "alias2.example", "step.example"])
def test_mx_by_preference_through_aliases(run: Any, server: DnsServer, domain: str) -> None:
    found = addresses(run(lookup(domain), server.server))
    assert set(found[:2]) == {"192.0.2.1", "2001:db8::1"}
    assert found[2:] == ["192.0.2.2"]


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("a-only.example", ["192.0.2.3"]),
        ("x.y.wild.example", ["192.0.2.1"]),
        ("[192.0.2.7]", ["192.0.2.7"]),
        ("big.example", ["192.0.2.1"]),
        ("old.example", ["192.0.2.1"]),
        ("liar.example", ["192.0.2.1"]),
        ("half.example", ["192.0.2.2"]),
    ],
)
def test_targets(run: Any, server: DnsServer, domain: str, expected: list[str]) -> None:
    assert addresses(run(lookup(domain, Call(families=frozenset({4}))), server.server, timeout_s=0.5, rounds=2)) == expected


@pytest.mark.parametrize(
    ("domain", "kind", "status"),
    [
        ("gone.test", "nxdomain", "5.1.2"),
        ("nosoa.test", "nxdomain", "5.1.2"),
        ("dangling.example", "nxdomain", "5.1.2"),
        ("a..b", "nxdomain", "5.1.2"),
        ("x" * 64 + ".example", "nxdomain", "5.1.2"),
        ("[192.0.2.256]", "nxdomain", "5.1.2"),
        ("[127.0.0.1]", "nxdomain", "5.1.2"),
        ("null.example", "null-mx", "5.1.10"),
        ("txt.example", "no-mx", "5.4.4"),
        ("self.example", "no-mx", "5.4.4"),
        ("localhost", "no-mx", "5.4.4"),
        ("servfail.example", "temporary", "4.4.3"),
        ("refused.example", "temporary", "4.4.3"),
        ("referral.example", "temporary", "4.4.3"),
        ("loop.example", "temporary", "4.4.3"),
        ("steploop.example", "temporary", "4.4.3"),
        ("twice.example", "temporary", "4.4.3"),
        ("hangup.example", "temporary", "4.4.3"),
    ],
)
def test_verdicts(run: Any, server: DnsServer, domain: str, kind: str, status: str) -> None:
    result = run(lookup(domain), server.server)
    assert isinstance(result, NoTargets)
    assert (result.kind, result.status) == (kind, status), result


@pytest.mark.parametrize("domain", ["silent.example", "garbage.example", "wrong-id.example", "wrong-q.example", "silent-mx.example"])
def test_silence_and_lies_are_temporary(run: Any, server: DnsServer, domain: str) -> None:
    result = run(lookup(domain), server.server, timeout_s=FAST_S, rounds=2)
    assert isinstance(result, NoTargets)
    assert (result.kind, result.status) == ("temporary", "4.4.3")
    assert "no answer within" in result.text


def test_our_own_listener_is_a_loop_unless_on_another_port(run: Any, server: DnsServer) -> None:
    own = frozenset({("127.0.0.1", 25)})
    result = run(lookup("self.example", Call(own=own, allow_private=True)), server.server)
    assert isinstance(result, NoTargets)
    assert (result.kind, result.status) == ("loop", "5.4.6")
    assert addresses(run(lookup("self.example", Call(own=own, allow_private=True, port=2525)), server.server)) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent.example", "timeout"),
        ("servfail.example", "servfail"),
        ("refused.example", "refused"),
        ("loop.example", "loop"),
        ("hangup.example", "network"),
    ],
)
def test_failures_carry_their_reason(run: Any, server: DnsServer, name: str, reason: str) -> None:
    async def scenario(resolver: Resolver) -> None:
        answer = await resolver.mx(name)
        assert isinstance(answer, TemporaryFailure)
        assert answer.reason == reason, answer

    run(scenario, server.server, **({"timeout_s": FAST_S} if reason == "timeout" else {}))


def test_mx_and_addresses(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        answer = await resolver.mx("D.Example.")
        assert isinstance(answer, Found)
        assert answer.exchanges == (Mx(10, "mx1.example"), Mx(20, "mx2.example"))
        four, six = await resolver.addresses("mx1.example")
        assert isinstance(four, Found)
        assert isinstance(six, Found)
        assert (four.addresses, six.addresses) == (("192.0.2.1",), ("2001:db8::1",))
        assert isinstance((await resolver.addresses("mx2.example", frozenset({6})))[0], NoData)
        assert isinstance(await resolver.mx("gone.test"), NxDomain)
        assert isinstance(await resolver.mx("sub.localhost"), NoData)

    run(scenario, server.server)


def test_truncation_goes_over_tcp(run: Any) -> None:
    with DnsServer({"many.example": {"A": [f"192.0.2.{n}" for n in range(1, 200)]}}) as server:

        async def scenario(resolver: Resolver) -> None:
            (answer,) = await resolver.addresses("many.example", frozenset({4}))
            assert isinstance(answer, Found)
            assert len(answer.addresses) == 199

        run(scenario, server.server)
        assert [transport for *_, transport in server.queries] == ["udp", "tcp"]


def test_a_server_without_edns_is_remembered(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        assert isinstance(await resolver.mx("old.example"), Found)
        assert server.count("old.example", "MX") == 2
        assert isinstance(await resolver.mx("d.example"), Found)
        assert server.count("d.example", "MX") == 1

    run(scenario, server.server)


def test_without_edns_nobody_is_asked_for_it(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        assert isinstance(await resolver.mx("old.example"), Found)
        assert server.count("old.example", "MX") == 1  # one that refuses EDNS answers at once

    run(scenario, server.server, edns_bytes=0)


def test_the_next_server_is_asked_after_silence_or_failure(run: Any, server: DnsServer) -> None:
    deaf: Zone = {"*": {"!": ["silence"]}}
    broken: Zone = {"*": {"!": ["servfail"]}}
    with DnsServer(deaf) as silent, DnsServer(broken) as failing:

        async def scenario(resolver: Resolver) -> None:
            for n in range(6):
                assert isinstance(await resolver.mx(f"n{n}.wild.example"), Found)

        run(scenario, silent.server, failing.server, server.server, timeout_s=0.3)
        assert len(silent.queries) == 1  # then it rests
        assert len(failing.queries) >= 2


def test_a_port_where_nobody_listens_is_left_at_once(run: Any, server: DnsServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()

    async def scenario(resolver: Resolver) -> None:
        started_s = asyncio.get_running_loop().time()
        for n in range(4):
            assert isinstance(await resolver.mx(f"n{n}.wild.example"), Found)
        assert asyncio.get_running_loop().time() - started_s < 10  # the timeout is 30

    run(scenario, dead, server.server, timeout_s=30, deadline_s=60)


def test_no_server_at_all(run: Any) -> None:
    result = run(lookup("d.example"))
    assert isinstance(result, NoTargets)
    assert result.kind == "temporary"


def test_one_question_flies_once_for_all(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        asked = [asyncio.create_task(resolver.mx("one.held.example")) for _ in range(50)]
        assert await asyncio.to_thread(server.wait_held, 1)
        assert resolver.names_pending == 1
        asked[0].cancel()  # one who gives up does not take the answer from the others
        await asyncio.to_thread(server.release)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert all(isinstance(answer, Found) for answer in answers[1:])
        assert server.count("one.held.example", "MX") == 1

    run(scenario, server.server, timeout_s=10)


def test_parallel_questions_are_bounded_and_so_is_the_line(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        asked = [asyncio.create_task(resolver.mx(f"n{n}.held.example")) for n in range(12)]
        assert await asyncio.to_thread(server.wait_held, 4)
        assert len(server.queries) == 4
        assert resolver.names_pending == 10
        refused = [task.result() for task in asked if task.done()]
        assert [answer.reason for answer in refused if isinstance(answer, TemporaryFailure)] == ["overload"] * 2
        while not all(task.done() for task in asked):
            await asyncio.to_thread(server.wait_held, 1, 0.1)
            server.release()
        assert sum(isinstance(task.result(), Found) for task in asked) == 10

    run(scenario, server.server, parallel=4, waiting=6, timeout_s=10, deadline_s=15)


def test_who_waits_in_line_waits_no_longer_than_the_deadline(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        answers = await asyncio.gather(*(resolver.mx(f"n{n}.held.example") for n in range(3)))
        assert [answer.reason for answer in answers if isinstance(answer, TemporaryFailure)] == ["timeout"] * 3
        assert resolver.names_pending == 0

    run(scenario, server.server, parallel=1, timeout_s=10, deadline_s=0.2)


def test_close_ends_what_is_under_way(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        asked = [asyncio.create_task(resolver.mx(f"n{n}.held.example")) for n in range(5)]
        assert await asyncio.to_thread(server.wait_held, 5)
        await resolver.close()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
        assert resolver.names_pending == 0

    run(scenario, server.server, timeout_s=10)


def test_the_cache_answers_until_the_ttl_has_passed(run: Any, server: DnsServer) -> None:
    clock = Clock()

    async def scenario(resolver: Resolver) -> None:
        call = Call()._asdict()
        assert resolver.cached_targets("d.example", **call) is None
        first = await resolver.targets("d.example", **call)
        assert isinstance(first, Targets)
        assert first.ttl_s == 60  # of the negative answer to mx2's AAAA
        clock.now_s += 59
        cached = resolver.cached_targets("d.example", **call)
        assert isinstance(cached, Targets)
        assert cached.ttl_s == 1
        assert set(cached.targets) == set(first.targets)
        assert resolver.cached_targets("d.example", **(call | {"port": 26})) is None
        assert resolver.cached_targets("d.example", **(call | {"own": frozenset({("192.0.2.1", 25)})})) is None
        few = resolver.cached_targets("d.example", **(call | {"attempts": 1}))
        assert isinstance(few, Targets)
        assert len(few.targets) == 1
        clock.now_s += 1
        assert resolver.cached_targets("d.example", **call) is None
        await resolver.targets("d.example", **call)
        assert (server.count("d.example", "MX"), server.count("mx2.example", "AAAA")) == (1, 2)
        clock.now_s += 300
        await resolver.targets("d.example", **call)
        assert server.count("d.example", "MX") == 2

    run(scenario, server.server, clock=clock)


@pytest.mark.parametrize(("domain", "lifetime_s"), [("gone.test", 60), ("nosoa.test", 5), ("servfail.example", 10)])
def test_negative_answers_and_failures_are_cached(run: Any, server: DnsServer, domain: str, lifetime_s: float) -> None:
    clock = Clock()

    async def scenario(resolver: Resolver) -> None:
        first = await resolver.targets(domain, **Call()._asdict())
        clock.now_s += lifetime_s - 0.1
        assert await resolver.targets(domain, **Call()._asdict()) == first
        assert server.count(domain, "MX") == 1
        clock.now_s += 0.1
        assert await resolver.targets(domain, **Call()._asdict()) == first
        assert server.count(domain, "MX") == 2

    run(scenario, server.server, clock=clock)


def test_stale_answers_cover_a_failure_for_an_hour(run: Any) -> None:
    clock = Clock()
    zone = {"d.example": {"MX": ["10 mx.example"], "TTL": ["300"]}, "mx.example": {"A": ["192.0.2.1"], "TTL": ["300"]}}
    with DnsServer(zone) as server:

        async def scenario(resolver: Resolver) -> None:
            call = Call(families=frozenset({4}))._asdict()
            first = await resolver.targets("d.example", **call)
            zone["d.example"]["!"] = zone["mx.example"]["!"] = ["servfail"]
            server.forget()
            clock.now_s += 301
            stale = await resolver.targets("d.example", **call)
            assert isinstance(stale, Targets)
            assert (stale.targets, stale.ttl_s) == (addresses_only(first), 30)
            asked = server.count("d.example", "MX")
            await resolver.targets("d.example", **call)
            assert server.count("d.example", "MX") == asked  # the servers have their rest
            clock.now_s += 31
            assert isinstance(await resolver.targets("d.example", **call), Targets)
            assert server.count("d.example", "MX") == asked + 1
            clock.now_s += 3_600
            gone = await resolver.targets("d.example", **call)
            assert isinstance(gone, NoTargets)
            assert gone.kind == "temporary"

        run(scenario, server.server, clock=clock)


def addresses_only(result: Targets | NoTargets) -> Any:
    assert isinstance(result, Targets)
    return result.targets


def test_nxdomain_ends_a_stale_answer_and_is_itself_never_served_stale(run: Any) -> None:
    clock = Clock()
    zone: dict[str, dict[str, list[str]]] = {"d.example": {"MX": ["10 mx.example"]}, "mx.example": {"A": ["192.0.2.1"]}}
    with DnsServer(zone) as server:

        async def kind(resolver: Resolver) -> str:
            clock.now_s += 3_700
            server.forget()
            result = await resolver.targets("d.example", **Call(families=frozenset({4}))._asdict())
            return result.kind if isinstance(result, NoTargets) else "found"

        async def scenario(resolver: Resolver) -> None:
            assert await kind(resolver) == "found"
            zone["d.example"]["!"] = ["nxdomain"]
            assert await kind(resolver) == "nxdomain"
            zone["d.example"]["!"] = ["servfail"]
            assert await kind(resolver) == "temporary"

        run(scenario, server.server, clock=clock)


def test_the_cache_is_bounded(run: Any, server: DnsServer) -> None:
    async def scenario(resolver: Resolver) -> None:
        for n in range(30):
            await resolver.targets(f"n{n}.wild.example", **Call()._asdict())
        assert resolver.names_cached == 10

    run(scenario, server.server, cache_size=10)


Groups = tuple[tuple[Host, ...], ...]


def route(groups: Groups, call: Call | None = None) -> Callable[[Resolver], Awaitable[Targets | NoTargets]]:
    async def scenario(resolver: Resolver) -> Targets | NoTargets:
        result = await resolver.hosts(groups, **(call or Call(families=frozenset({4})))._asdict())
        cached = resolver.cached_hosts(groups, **(call or Call(families=frozenset({4})))._asdict())
        assert cached is not None
        assert type(cached) is type(result)
        return result

    return scenario


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        pytest.param(((Host("127.0.0.1", 2526, literal=True),),), [{("127.0.0.1", 2526)}], id="literal"),
        pytest.param(((Host("[127.0.0.1]", None, literal=True),),), [{("127.0.0.1", 25)}], id="literal in brackets"),
        pytest.param(((Host("localhost", 2526),),), [{("127.0.0.1", 2526)}], id="localhost"),
        pytest.param(((Host("self.example", 2526),),), [{("127.0.0.1", 2526)}], id="loopback is right"),
        pytest.param(((Host("d.example"), Host("mx1.example")), (Host("mx2.example"),)), [{("192.0.2.1", 25)}, {("192.0.2.2", 25)}], id="groups"),
        pytest.param(((Host("MX2.Example."),), (Host("mx1.example"),)), [{("192.0.2.2", 25)}, {("192.0.2.1", 25)}], id="as written"),
        pytest.param(
            ((Host("d.example", None, lookup_mx=True), Host("a-only.example")),),
            [{("192.0.2.1", 25), ("192.0.2.3", 25)}, {("192.0.2.2", 25)}],
            id="the best MXs beside a host",
        ),
        pytest.param(((Host("gone.test"),), (Host("mx1.example"),)), [{("192.0.2.1", 25)}], id="one does not exist"),
        pytest.param(((Host("gone.test", None, lookup_mx=True),), (Host("mx1.example"),)), [{("192.0.2.1", 25)}], id="one has no MX"),
    ],
)
def test_routes(run: Any, server: DnsServer, groups: Groups, expected: list[set[tuple[str, int]]]) -> None:
    result = run(route(groups), server.server)
    assert isinstance(result, Targets)
    found = [(target.address, target.port) for target in result.targets]
    for group in expected:
        assert set(found[: len(group)]) == group
        found = found[len(group) :]
    assert not found


@pytest.mark.parametrize(
    ("groups", "kind", "status"),
    [
        (((Host("gone.test"),),), "temporary", "4.4.4"),
        (((Host("gone.test", None, lookup_mx=True),),), "temporary", "4.4.4"),
        (((Host("null.example", None, lookup_mx=True),),), "temporary", "4.4.4"),
        (((Host("self.example", None, lookup_mx=True),),), "temporary", "4.4.4"),
        (((Host("servfail.example"),),), "temporary", "4.4.3"),
        (((Host("servfail.example", None, lookup_mx=True),),), "temporary", "4.4.3"),
        (((Host("192.0.2.99", None, literal=True),),), "loop", "5.4.6"),
    ],
)
def test_routes_that_lead_nowhere(run: Any, server: DnsServer, groups: Groups, kind: str, status: str) -> None:
    result = run(route(groups, Call(own=frozenset({("192.0.2.99", 25)}))), server.server)
    assert isinstance(result, NoTargets)
    assert (result.kind, result.status) == (kind, status), result


def test_sockets_are_few_and_replaced(run: Any, server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.dns.exchange._QUERIES_PER_SOCKET", 5)
    made: list[socket.socket] = []
    create = socket.socket

    def remember(*arguments: Any, **options: Any) -> socket.socket:
        made.append(create(*arguments, **options))
        return made[-1]

    async def scenario(resolver: Resolver) -> None:
        monkeypatch.setattr("engine.dns.exchange.socket.socket", remember)
        for n in range(60):
            await resolver.mx(f"n{n}.wild.example")
        monkeypatch.undo()
        assert 60 // 5 <= len(made) <= 60 // 5 + 4
        assert sum(sock.fileno() >= 0 for sock in made) <= 4

    run(scenario, server.server)
    assert all(sock.fileno() < 0 for sock in made)
