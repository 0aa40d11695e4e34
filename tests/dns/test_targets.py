"""Selection of targets, RFC 5321 section 5.1, as tables: a domain's records in, targets or a verdict out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dns.answer import Answer, Found, NoData, NxDomain, TemporaryFailure
from engine.dns.codec import Mx
from engine.dns.targets import MAX_HOSTS, Candidate, NoTargets, Plan, Target, exchanges, make_plan, may_be_remote, order, parse_literal

BOTH = frozenset({4, 6})
TIMEOUT = TemporaryFailure("timeout", "no answer within 2 s")
D = "d.example"


def mx(*hosts: tuple[int, str]) -> Found:
    return Found(D, 300, exchanges=tuple(Mx(preference, host) for preference, host in hosts))


def at(*addresses: str) -> list[Answer]:
    four = tuple(address for address in addresses if ":" not in address)
    six = tuple(address for address in addresses if ":" in address)
    return [Found("", 300, addresses=four) if four else NoData(60), Found("", 300, addresses=six) if six else NoData(60)]


def choose(
    answer: Answer,
    addresses: Mapping[str, list[Answer]],
    *,
    families: frozenset[int] = BOTH,
    own: frozenset[tuple[str, int]] = frozenset(),
    allow_private: bool = False,
) -> Plan | NoTargets:
    found = exchanges(D, answer, 25, rng=random.Random(1))
    if isinstance(found, NoTargets):
        return found
    return make_plan(D, found, addresses, families=families, own=own, allow_private=allow_private)


def addresses_of(plan: Plan | NoTargets) -> list[set[str]]:
    """The addresses of each rank, best rank first."""
    assert not isinstance(plan, NoTargets), plan
    return [{target.address for six, four in group for target in (*six, *four)} for group in plan]


@pytest.mark.parametrize(
    ("answer", "hosts", "ranks"),
    [
        pytest.param(mx((10, "a")), {"a": at("192.0.2.1")}, [{"192.0.2.1"}], id="one"),
        pytest.param(mx((20, "b"), (10, "a")), {"a": at("192.0.2.1"), "b": at("192.0.2.2")}, [{"192.0.2.1"}, {"192.0.2.2"}], id="ascending"),
        pytest.param(mx((10, "b"), (10, "a")), {"a": at("192.0.2.1"), "b": at("192.0.2.2")}, [{"192.0.2.1", "192.0.2.2"}], id="one preference"),
        pytest.param(mx((10, "a")), {"a": at("192.0.2.1", "2001:db8::1")}, [{"192.0.2.1", "2001:db8::1"}], id="both families"),
        pytest.param(mx((10, "a"), (20, "a")), {"a": at("192.0.2.1")}, [{"192.0.2.1"}], id="a host named twice counts once"),
        pytest.param(mx((0, "."), (20, "a")), {"a": at("192.0.2.1")}, [{"192.0.2.1"}], id="a dot among others is ignored"),
        pytest.param(NoData(60), {D: at("192.0.2.1")}, [{"192.0.2.1"}], id="implicit MX"),
        pytest.param(NoData(60), {D: at("2001:db8::1")}, [{"2001:db8::1"}], id="implicit MX over IPv6"),
        pytest.param(mx((10, "a"), (20, "b")), {"a": [TIMEOUT], "b": at("192.0.2.2")}, [{"192.0.2.2"}], id="what is known is tried"),
        pytest.param(mx((10, "a"), (20, "b")), {"a": [NxDomain(60)], "b": at("192.0.2.2")}, [{"192.0.2.2"}], id="a host that is not"),
        pytest.param(mx((10, "a")), {"a": at("127.0.0.1", "192.0.2.1")}, [{"192.0.2.1"}], id="loopback left out"),
        pytest.param(mx((10, "a")), {"a": at("::ffff:192.0.2.1")}, [{"192.0.2.1"}], id="a mapped address is IPv4"),
        pytest.param(mx((10, "a")), {"a": at("10.1.2.3")}, [{"10.1.2.3"}], id="private networks are reachable somewhere"),
    ],
)
def test_ranks(answer: Answer, hosts: Mapping[str, list[Answer]], ranks: list[set[str]]) -> None:
    assert addresses_of(choose(answer, hosts)) == ranks


@pytest.mark.parametrize(
    ("answer", "hosts", "kind", "status"),
    [
        pytest.param(NxDomain(60), {}, "nxdomain", "5.1.2", id="NXDOMAIN"),
        pytest.param(TIMEOUT, {}, "temporary", "4.4.3", id="MX timeout"),
        pytest.param(mx((0, ".")), {}, "null-mx", "5.1.10", id="null MX"),
        pytest.param(mx((0, "."), (10, ".")), {}, "null-mx", "5.1.10", id="null MX twice"),
        pytest.param(NoData(60), {D: at()}, "no-mx", "5.4.4", id="neither MX nor address"),
        pytest.param(NoData(60), {D: [NxDomain(60), NxDomain(60)]}, "nxdomain", "5.1.2", id="NXDOMAIN only for addresses"),
        pytest.param(NoData(60), {D: [NxDomain(60), TIMEOUT]}, "temporary", "4.4.3", id="implicit MX timeout"),
        pytest.param(mx((10, "a")), {"a": [NxDomain(60), NxDomain(60)]}, "no-mx", "5.4.4", id="MX host that is not"),
        pytest.param(mx((10, "a"), (20, "b")), {"a": at(), "b": [TIMEOUT]}, "temporary", "4.4.3", id="one MX host timeout"),
        pytest.param(mx((10, "a")), {"a": at("127.0.0.1")}, "no-mx", "5.4.4", id="only loopback"),
    ],
)
def test_verdicts(answer: Answer, hosts: Mapping[str, list[Answer]], kind: str, status: str) -> None:
    verdict = choose(answer, hosts)
    assert isinstance(verdict, NoTargets)
    assert (verdict.kind, verdict.status) == (kind, status)
    assert (verdict.kind == "temporary") == verdict.status.startswith("4")


@pytest.mark.parametrize(
    ("hosts", "ranks"),
    [
        pytest.param([(10, "a"), (20, "us"), (30, "c")], [{"192.0.2.1"}], id="we and those behind us"),
        pytest.param([(10, "a"), (20, "us"), (20, "c")], [{"192.0.2.1"}], id="and those beside us"),
        pytest.param([(10, "a"), (20, "c"), (30, "us")], [{"192.0.2.1"}, {"192.0.2.3"}], id="those before us stay"),
        pytest.param([(10, "us"), (20, "a")], None, id="we are the best"),
        pytest.param([(10, "us")], None, id="only us"),
    ],
)
@pytest.mark.parametrize("ours", ["192.0.2.99", "::ffff:192.0.2.99", "127.0.0.1"])
def test_loops(hosts: list[tuple[int, str]], ranks: list[set[str]] | None, ours: str) -> None:
    own = frozenset({("192.0.2.99", 25), ("127.0.0.1", 25)})
    addresses = {"a": at("192.0.2.1"), "us": at(ours), "c": at("192.0.2.3")}
    plan = choose(mx(*hosts), addresses, own=own)
    if ranks is None:
        assert isinstance(plan, NoTargets)
        assert (plan.kind, plan.status) == ("loop", "5.4.6")
    else:
        assert addresses_of(plan) == ranks


def test_another_port_of_our_address_is_no_loop() -> None:
    plan = choose(mx((10, "a")), {"a": at("192.0.2.1")}, own=frozenset({("192.0.2.1", 2525)}))
    assert addresses_of(plan) == [{"192.0.2.1"}]


def test_a_failing_host_before_us_is_waited_for() -> None:
    verdict = choose(mx((10, "a"), (20, "us")), {"a": [TIMEOUT], "us": at("192.0.2.99")}, own=frozenset({("192.0.2.99", 25)}))
    assert isinstance(verdict, NoTargets)
    assert verdict.kind == "temporary"


@pytest.mark.parametrize(("family", "address"), [(4, "192.0.2.1"), (6, "2001:db8::1")])
def test_only_families_that_we_have_sources_for(family: int, address: str) -> None:
    hosts = {"a": at("192.0.2.1", "2001:db8::1")}
    assert addresses_of(choose(mx((10, "a")), hosts, families=frozenset({family}))) == [{address}]


def test_allowed_loopback_and_trusted_hosts() -> None:
    assert addresses_of(choose(mx((10, "a")), {"a": at("127.0.0.1", "::1")}, allow_private=True)) == [{"127.0.0.1", "::1"}]
    trusted = [Candidate("relay", 2525, 0, (0, 0), 0, trusted=True), Candidate("[127.0.0.2]", 25, 0, (0, 0), 1, trusted=True, address="127.0.0.2")]
    plan = make_plan("", trusted, {"relay": at("127.0.0.1")}, families=BOTH, own=frozenset(), allow_private=False)
    assert addresses_of(plan) == [{"127.0.0.1", "127.0.0.2"}]


def test_a_looping_route_takes_only_itself_away() -> None:
    routes = [Candidate("us", 25, 0, (0, 0), 0, trusted=True), Candidate("relay", 25, 1, (1, 0), 1, trusted=True)]
    hosts = {"us": at("192.0.2.99"), "relay": at("192.0.2.1")}
    assert addresses_of(make_plan("", routes, hosts, families=BOTH, own={("192.0.2.99", 25)}, allow_private=False)) == [{"192.0.2.1"}]


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        ("192.0.2.1", True),
        ("10.0.0.1", True),
        ("192.168.1.1", True),
        ("2001:db8::1", True),
        ("fd00::1", True),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("169.254.1.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:0.0.0.0", False),
        ("::ffff:169.254.1.1", False),
        ("::127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::127.0.0.1", False),
        ("64:ff9b::192.0.2.1", True),
    ],
)
def test_addresses_that_another_host_can_have(address: str, remote: bool) -> None:
    assert may_be_remote(ip_address(address)) is remote


@pytest.mark.parametrize(
    ("domain", "address"),
    [
        ("d.example", None),
        ("192.0.2.1", None),
        ("[192.0.2.1]", "192.0.2.1"),
        ("[ipv6:2001:db8::1]", "2001:db8::1"),
        ("[IPv6:2001:DB8:0::1]", "2001:db8::1"),
        ("[ipv6:fe80::1%eth0]", ""),
        ("[2001:db8::1]", ""),
        ("[192.0.2]", ""),
        ("[192.0.2.1", ""),
        ("[192.0.2.01]", ""),
        ("[d.example]", ""),
        ("[]", ""),
        ("[", ""),
    ],
)
def test_literals(domain: str, address: str | None) -> None:
    assert parse_literal(domain) == address


def test_a_crowd_of_hosts_is_cut_to_the_best() -> None:
    found = exchanges(D, mx(*((n, f"mx{n}") for n in reversed(range(100)))), 25, rng=random.Random(1))
    assert not isinstance(found, NoTargets)
    assert [candidate.host for candidate in found] == [f"mx{n}" for n in range(MAX_HOSTS)]


def test_hosts_of_one_preference_take_turns_in_being_first() -> None:
    plan = choose(mx((10, "a"), (10, "b"), (20, "c")), {"a": at("192.0.2.1"), "b": at("192.0.2.2"), "c": at("192.0.2.3")})
    assert not isinstance(plan, NoTargets)
    rng = random.Random(7)
    orders = [order(plan, 10, rng) for _ in range(1_000)]
    assert all(targets[-1] == Target("c", "192.0.2.3", 25, 20) for targets in orders)
    first = Counter(targets[0].host for targets in orders)
    assert set(first) == {"a", "b"}
    assert min(first.values()) > 400


def test_families_of_a_host_take_turns() -> None:
    plan = choose(mx((10, "a")), {"a": at("192.0.2.1", "192.0.2.2", "2001:db8::1")})
    assert not isinstance(plan, NoTargets)
    rng = random.Random(7)
    orders = [[":" in target.address for target in order(plan, 10, rng)] for _ in range(200)]
    assert {tuple(families) for families in orders} == {(True, False, False), (False, True, False)}


some_addresses = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "127.0.0.1"]), max_size=3, unique=True)
hosts_strategy = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 3), some_addresses), min_size=1)


@given(hosts_strategy, st.integers(1, 12), st.integers(), st.sampled_from([frozenset({4}), frozenset({6}), BOTH]))
def test_properties_of_every_order(hosts: dict[str, tuple[int, list[str]]], attempts: int, seed: int, families: frozenset[int]) -> None:
    own = frozenset({("192.0.2.3", 25)})
    answer = mx(*((preference, host) for host, (preference, _) in hosts.items()))
    plan = choose(answer, {host: at(*addresses) for host, (_, addresses) in hosts.items()}, families=families, own=own)
    ours = min((preference for preference, addresses in hosts.values() if "192.0.2.3" in addresses), default=99)
    expected = {
        Target(host, address, 25, preference)
        for host, (preference, addresses) in hosts.items()
        for address in addresses
        if preference < ours and address != "127.0.0.1" and ip_address(address).version in families
    }
    if isinstance(plan, NoTargets):
        assert not expected
        return
    targets = order(plan, attempts, random.Random(seed))
    assert set(order(plan, 1_000, random.Random(seed))) == expected
    assert len(targets) == min(attempts, len(expected))
    assert [target.preference for target in targets] == sorted(target.preference for target in targets)
    hosts_in_turn = [target.host for before, target in zip([None, *targets], targets, strict=False) if before is None or before.host != target.host]
    assert len(hosts_in_turn) == len(set(hosts_in_turn))  # the addresses of one host stand together
