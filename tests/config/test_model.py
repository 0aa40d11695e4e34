"""What is in force for whom: inheritance, patterns, slots, values and the look-ups' cost."""

from __future__ import annotations

import time
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Config, DomainPattern, DomainSet, HostSpec, SourceHost, build, describe, from_text
from engine.config.lexer import ValueProblem
from engine.config.pattern import parse_network
from engine.config.slot import assign
from engine.config.values import listener, parse_value, seconds, smtp_hosts

BASE = "log-file /l\n<spool /s>\n</spool>\n"


def config(text: str) -> Config:
    loaded = build(from_text(BASE + text))
    assert loaded.config is not None, describe(loaded.problems)
    return loaded.config


def domain(pattern: str, *lines: str) -> str:
    return f"<domain {pattern}>\n" + "".join(f"{line}\n" for line in lines) + "</domain>\n"


def test_defaults_are_powermtas() -> None:
    c = config("")
    d, s = c.domain("example.com", "{default}"), c.client("192.0.2.1")
    assert (d.max_smtp_out, d.retry_after, d.bounce_after_s, d.smtp_hosts, d.type) == (20, (600.0,), 388_800.0, (), "smtp")
    assert (s.smtp_service, s.always_allow_relaying, s.default_virtual_mta, s.max_message_size_bytes) == (True, False, "{default}", 0)
    assert [str(item.network) for item in c.server.smtp_listener] == ["0.0.0.0/32"]
    assert c.virtual_mtas["{default}"].source_hosts == ()


SPECIFIC = (
    domain("a.example.com", "max-smtp-out 6")
    + domain("*", "max-smtp-out 1", "bounce-after 1h")
    + domain("[*.]example.com", "max-smtp-out 4", "connect-timeout 9s")
    + domain("*.com", "max-smtp-out 2")
    + domain("*.x.example.com", "max-smtp-out 5")
    + domain("[0/0]", "max-smtp-out 7")
    + domain("[10/8]", "max-smtp-out 8")
)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("a.example.com", 6),
        ("A.Example.COM", 6),
        ("example.com", 4),
        ("b.example.com", 4),
        ("x.example.com", 4),
        ("y.x.example.com", 5),
        ("other.com", 2),
        ("com", 1),
        ("example.org", 1),
        ("[192.0.2.1]", 7),
        ("[10.1.2.3]", 8),
        ("[IPv6:2001:db8::1]", 1),
    ],
)
def test_the_most_specific_domain_wins(name: str, want: int) -> None:
    settings = config(SPECIFIC).domain(name, "{default}")
    assert (settings.max_smtp_out, settings.bounce_after_s) == (want, 3600.0)


@pytest.mark.parametrize(("said", "size"), [("0", 0), ("1", 512), ("512", 512), ("1400", 1400), ("65535", 2048)])
def test_an_edns_length_out_of_range_is_moved_into_it(said: str, size: int) -> None:
    loaded = build(from_text(f"log-file /l\nedns-udp-length {said}\n"))
    assert loaded.config is not None and loaded.config.server.edns_udp_length == size


def test_each_directive_is_inherited_for_itself() -> None:
    assert config(SPECIFIC).domain("a.example.com", "").connect_timeout_s == 9.0


SCOPES = (
    domain("*", "max-smtp-out 1", "connect-timeout 1s", "bounce-after 1h")
    + domain("gmail.com", "max-smtp-out 2", "mx-connection-attempts 2")
    + "<virtual-mta-pool p>\nvirtual-mta m\nvirtual-mta n\nmax-smtp-out 50\n"
    + domain("*", "max-smtp-out 3", "connect-timeout 3s")
    + "</virtual-mta-pool>\n<virtual-mta m>\nmax-smtp-out 5\n"
    + domain("*", "max-smtp-out 4")
    + "</virtual-mta>\n<virtual-mta n>\n</virtual-mta>\n<virtual-mta o>\n</virtual-mta>\n"
)


def test_scope_beats_specificity_unless_told_otherwise() -> None:
    c = config(SCOPES)
    assert [c.domain("gmail.com", v).max_smtp_out for v in ("m", "n", "o", "{default}", "gone")] == [4, 3, 2, 2, 2]
    assert [c.domain("gmail.com", v).connect_timeout_s for v in ("m", "n", "o")] == [3.0, 3.0, 1.0]
    assert c.domain("gmail.com", "m").mx_connection_attempts == 2
    assert [c.virtual_mtas[v].max_smtp_out for v in ("m", "n", "o")] == [5, 50, 0]
    assert c.members("p") == ("m", "n") and c.members("o") == ("o",) and c.members("x") == ()
    c = config("domain-precedence specific\n" + SCOPES)
    assert [c.domain("gmail.com", v).max_smtp_out for v in ("m", "n", "o")] == [2, 2, 2]
    assert [c.domain("aol.com", v).max_smtp_out for v in ("m", "n", "o")] == [4, 3, 1]


def test_scope_against_specificity_is_warned_of_with_both_lines() -> None:
    found = [str(p) for p in build(from_text(BASE + SCOPES)).problems]
    assert len(found) == 2 and all("warning: max-smtp-out of <domain *>: this wins over <domain gmail.com> in /engine.conf:10" in p for p in found)
    assert [int(p.split(":")[1]) for p in found] == [18, 25]


def test_a_virtual_mta_in_two_pools_with_domains_is_an_error() -> None:
    pool = "<virtual-mta-pool {}>\nvirtual-mta m\n{}</virtual-mta-pool>\n"
    text = "<virtual-mta m>\n</virtual-mta>\n"
    assert build(from_text(BASE + text + pool.format("p", domain("*", "max-smtp-out 1")) + pool.format("q", ""))).config is not None
    loaded = build(from_text(BASE + text + pool.format("p", domain("*", "max-smtp-out 1")) + pool.format("q", domain("a.b", "max-smtp-out 1"))))
    assert [p.text for p in loaded.problems] == ["the virtual MTA 'm' is in the pools 'p' and 'q', which both have <domain> sections"]


def test_sources_merge_by_network_then_by_name() -> None:
    c = config(
        "always-allow-relaying no\nsmtp-listener 0/0:25\nsmtp-listener 10.0.0.1:587 source={submission}\n"
        "<source 10.0.0.5>\nalways-allow-relaying yes\n</source>\n<source 0/0>\nmax-message-size 5M\n</source>\n"
        "<source 10/8>\nmax-message-size 1G\nmax-message-hops 5\n</source>\n<source {submission}>\nmax-message-hops 7\n</source>\n"
        "<source 2001:db8::/32>\nsmtp-service no\n</source>\n"
    )
    a = c.client("10.0.0.5")
    assert (a.always_allow_relaying, a.max_message_size_bytes, a.max_message_hops) == (True, 1 << 30, 5)
    assert c.client("::ffff:10.0.0.5") == a
    assert c.client("10.0.0.5", "{submission}").max_message_hops == 7
    assert c.client("192.0.2.1").max_message_size_bytes == 5 << 20
    assert not c.client("2001:db8::7").smtp_service and c.client("2001:db9::7").smtp_service


def test_relay_patterns() -> None:
    c = config(
        "relay-domain some.domain\nrelay-domain *.sub.example, [*.]both.example\n"
        "relay-address bounce@bounce.example\nrelay-address /@foo(bar)?\\.com$/\n"
    )
    assert [d in c.relay_domains for d in ("some.domain", "x.some.domain", "a.sub.example", "sub.example", "both.example", "a.b.both.example")] == [
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    matches = [
        any(p.matches(a) for p in c.server.relay_address)
        for a in ("Bounce@bounce.example", "x@FOOBAR.com", "x@foobar.com.evil", "bounce@bounce.example.evil")
    ]
    assert matches == [True, True, False, False]


_LABELS = st.sampled_from(["a", "b", "com", "example", "x-y"])
_NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
_PATTERNS = st.one_of(_NAMES, _NAMES.map("*.{}".format), _NAMES.map("[*.]{}".format), st.just("*"), st.just("[10/8]"))


@settings(deadline=None)
@given(st.lists(_PATTERNS, max_size=8), st.one_of(_NAMES, st.sampled_from(["[10.1.1.1]", "[11.1.1.1]"])))
def test_a_domain_set_is_its_patterns(texts: list[str], name: str) -> None:
    patterns = [DomainPattern.parse(text) for text in texts]
    assert (name in DomainSet(patterns)) is any(pattern.matches(name) for pattern in patterns)
    assert [DomainPattern.parse(str(pattern)) for pattern in patterns] == patterns


def test_unicode_domains_become_a_labels() -> None:
    assert DomainPattern.parse("Bücher.example").name == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0/0", "0.0.0.0/0"),
        ("10/8", "10.0.0.0/8"),
        ("173.194/16", "173.194.0.0/16"),
        ("10.1.0/24", "10.1.0.0/24"),
        ("1.2.3.4", "1.2.3.4/32"),
        ("::/0", "::/0"),
        ("::1", "::1/128"),
    ],
)
def test_networks(text: str, want: str) -> None:
    assert str(parse_network(text)) == want


@pytest.mark.parametrize("text", ["10", "10.1", "1.2.3.4/33", "1.2.3.4/", "a/8", "1.2.3.4/255.0.0.0", "fe80::1%eth0", "", "1.2.3.4/-1"])
def test_no_networks(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0/0:2525", ("0.0.0.0/0", 2525, "")),
        ("1.2.3.4:25 source=x", ("1.2.3.4/32", 25, "x")),
        ("1.2.3.4", ("1.2.3.4/32", 25, "")),
        ("[::1]:587", ("::1/128", 587, "")),
        ("[::]/0:25", ("::/0", 25, "")),
        ("::/0:25", ("::/0", 25, "")),
        ("::1", ("::1/128", 25, "")),
    ],
)
def test_listeners(text: str, want: tuple[str, int, str]) -> None:
    got = parse_value(listener, text)
    assert (str(got.network), got.port, got.source) == want


@pytest.mark.parametrize("text", ["0/0:0", "0/0:65536", "0/0:x", "1.2.3.4:25 name=x", "[::1:25", "[::1]x"])
def test_no_listeners(text: str) -> None:
    with pytest.raises(ValueProblem):
        parse_value(listener, text)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('""', ()),
        ("mx.example", ((HostSpec("mx.example"),),)),
        (
            "a.example:26, [10.0.0.1]:2525; lookup-mx:b.example",
            ((HostSpec("a.example", 26), HostSpec("10.0.0.1", 2525, literal=True)), (HostSpec("b.example", lookup_mx=True),)),
        ),
        ("[IPv6:2001::1]", ((HostSpec("2001::1", literal=True),),)),
        ("10.0.0.1", ((HostSpec("10.0.0.1", literal=True),),)),
    ],
)
def test_smtp_hosts(text: str, want: object) -> None:
    assert parse_value(smtp_hosts, text) == want


@pytest.mark.parametrize(("text", "want"), [("1w2d12h", 820_800.0), ("300s", 300.0), ("4D12h", 388_800.0), ("0", 0.0)])
def test_times(text: str, want: float) -> None:
    assert parse_value(seconds, text) == want


def test_server_values() -> None:
    c = config(
        "host-name a.example\nhost-name b.example\nname-server 127.0.0.1\nname-server 127.0.0.1:5353\nname-server [::1]:54\npostmaster p@a.example\n"
        "smtp-source-host 192.0.2.7 out.example\nrun-as-root no\nlistener-workers 3\nshutdown-timeout 5s\n<acct-file /a.csv>\nrecords d, bounce, tq\n"
        "record-fields d *, !ORCPT\nrecord-fields b rcpt\niso-times no\n</acct-file>\n"
        "<virtual-mta m>\nsmtp-source-ip 192.0.2.8\nsmtp-source-host 10.0.0.0/30\nhost-name m.example\n</virtual-mta>\n"
    )
    assert c.server.host_name == ("a.example", "b.example")
    assert c.server.name_server == (("127.0.0.1", 53), ("127.0.0.1", 5353), ("::1", 54))
    assert (c.server.run_as_root, c.server.listener_workers, c.server.shutdown_timeout_s) == (False, 3, 5.0)
    (acct,) = c.acct_files
    assert (acct.path, acct.records, dict(acct.fields), acct.iso_times) == ("/a.csv", ("d", "b", "tq"), {"d": ("*", "!orcpt"), "b": ("rcpt",)}, False)
    assert c.virtual_mtas["{default}"].source_hosts == (SourceHost(ip_network("192.0.2.7"), "out.example"),)
    assert c.virtual_mtas["m"].source_hosts == (SourceHost(ip_network("192.0.2.8")), SourceHost(ip_network("10.0.0.0/30")))


# --- slots ---

_NETWORKS = st.lists(
    st.sampled_from([f"10.0.0.{n}" for n in range(12)] + ["10.0.0.0/30", "10.0.0.8/29", "2001:db8::1", "0.0.0.0/0"]).map(ip_network), max_size=3
)
_VMTAS = st.dictionaries(st.sampled_from([f"m{n}" for n in range(10)]), _NETWORKS)


@settings(deadline=None)
@given(_VMTAS, st.integers(1, 6))
def test_slots_are_total_and_share_nothing(vmtas: dict[str, list], workers: int) -> None:
    slots = assign(vmtas, workers)
    assert 1 <= len(slots) <= workers
    assert sorted(name for slot in slots for name in slot.virtual_mtas) == sorted(vmtas)
    owned = [[ip_network(text) for text in slot.source_ips] for slot in slots]
    for number, networks in enumerate(owned):
        for other in owned[number + 1 :]:
            assert not any(a.version == b.version and a.overlaps(b) for a in networks for b in other)
        assert {n for name in slots[number].virtual_mtas for n in vmtas[name]} == set(networks)
    assert len({number for number, slot in enumerate(slots) for name in slot.virtual_mtas if not vmtas[name]}) <= 1


@settings(deadline=None)
@given(_VMTAS, st.integers(1, 6), _NETWORKS)
def test_adding_a_virtual_mta_moves_no_other_component(vmtas: dict[str, list], workers: int, networks: list) -> None:
    def where(slots: tuple) -> dict[str, int]:
        return {name: number for number, slot in enumerate(slots) for name in slot.virtual_mtas}

    before, after = where(assign(vmtas, workers)), where(assign(vmtas | {"new": networks}, workers))
    touched = {"new"}
    while True:
        reached = {n for name in touched for n in (vmtas | {"new": networks})[name]}
        more = {name for name, own in vmtas.items() if any(a.version == b.version and a.overlaps(b) for a in own for b in reached)}
        if more <= touched:
            break
        touched |= more
    assert {name: before[name] for name in vmtas if name not in touched} == {name: after[name] for name in vmtas if name not in touched}


def test_neighbours_are_spread() -> None:
    slots = assign({f"m{n}": [ip_network(f"127.0.0.{11 + n}")] for n in range(4)}, 2)
    assert [len(slot.virtual_mtas) for slot in slots] == [2, 2]


def test_slots_of_a_configuration_include_the_default() -> None:
    c = config("<virtual-mta m>\nsmtp-source-host 127.0.0.11 a.example\n</virtual-mta>\n<virtual-mta n>\n</virtual-mta>\n")
    (only,) = c.slots(1)
    assert (only.virtual_mtas, only.source_ips) == (("m", "n", "{default}"), ("127.0.0.11",))


# --- cost ---


def test_thousands_of_domains_load_and_look_up_fast() -> None:
    long = "domain-macro big " + ", ".join(f"host{n}.example" for n in range(600)) + "\n" + domain("$big", "max-smtp-out 3")
    text = BASE + long + "".join(domain(f"d{n}.example", "max-smtp-out 2", f"retry-after {n % 50 + 1}m", "bounce-after 1d") for n in range(5000))
    start = time.process_time()
    loaded = build(from_text(text))
    assert time.process_time() - start < 2  # 0.15 s on an idle machine
    assert loaded.config is not None
    start = time.process_time()
    for n in range(5000):
        assert loaded.config.domain(f"d{n}.example", "{default}").max_smtp_out == 2
    assert time.process_time() - start < 1
    assert loaded.config.domain("d1.example", "") == loaded.config.domain("d51.example", "")


def test_places_name_the_line_that_gave_the_value() -> None:
    text = (
        "total-max-smtp-out 7\n<virtual-mta a>\nmax-smtp-out 3\n<domain x.example>\nmax-smtp-out 2\n</domain>\n</virtual-mta>\n"
        "<virtual-mta-pool p>\nvirtual-mta a\nmax-smtp-out 9\n</virtual-mta-pool>\n<domain *>\nmax-smtp-out 5\nretry-after 1m\n</domain>\n"
    )
    loaded = config(text)
    lines = [
        loaded.place("", "total_max_smtp_out"),
        loaded.place("virtual-mta a", "max_smtp_out"),
        loaded.place("virtual-mta-pool p", "max_smtp_out"),
    ]
    assert [place.line for place in lines if place] == [4, 6, 13]
    assert loaded.place("", "total_max_smtp_in") is None
    assert loaded.place("virtual-mta b", "max_smtp_out") is None
    limits = [loaded.domain_place("x.example", vmta, "max_smtp_out") for vmta in ("a", "b")]
    assert [place.line for place in limits if place] == [8, 16]
    assert loaded.domain_place("x.example", "a", "bounce_after_s") is None
