"""Who may send to whom: the rules, and the tricks that must find no way round them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import build, from_text
from engine.mail.reply import Reply
from engine.policy.access import DENIED, Access, Admitted, Rule, Target

RULES = r"""
host-name mx.engine.example
host-name Alias.Engine.Example
relay-domain relay.example
relay-domain *.wild.example
relay-domain bücher.example
relay-domain [10.0.0.0/8]
relay-address only@partner.example
relay-address /@foo(bar)?\.example$/
log-file /tmp/log
<spool /tmp/spool>
</spool>
"""


def access(postmasters: str = "postmaster ops@corp.example", rules: str = RULES) -> Access:
    loaded = build(from_text(rules + postmasters + "\n"))
    assert loaded.config is not None, loaded.problems
    return Access(loaded.config)


RELAY = access()

TRICKS = [
    # plain
    "victim@evil.example",
    # source routes, should one ever reach us unstripped
    "@relay.example:victim@evil.example",
    "@relay.example,@mx.engine.example:victim@evil.example",
    "@evil.example:victim@relay.example",
    # percent hack
    "victim%evil.example@relay.example",
    "victim%evil.example%relay.example@relay.example",
    "victim%evil.example@mx.engine.example",
    "victim%evil.example@[192.0.2.25]",
    '"victim%evil.example"@relay.example',
    r'"victim\%evil.example"@relay.example',
    "victim%evil.example@foo.example",
    "victim%evil.example@sub.wild.example",
    # quoted local parts
    '"victim@evil.example"@relay.example',
    r'"victim\@evil.example"@relay.example',
    '"victim@evil.example"@mx.engine.example',
    '"victim@evil.example"@[192.0.2.25]',
    '"postmaster@evil.example"@mx.engine.example',
    '"a b"@relay.example',
    '"a\r\nRCPT TO:<x@evil.example>"@relay.example',
    '""@relay.example',
    '"victim@evil.example"',
    # bang paths
    "evil.example!victim@relay.example",
    "evil.example!victim@mx.engine.example",
    '"evil.example!victim"@relay.example',
    "relay.example!victim@evil.example",
    "evil.example!victim",
    # nested addresses
    "victim@evil.example@relay.example",
    "user@relay.example@evil.example",
    "<victim@evil.example>@relay.example",
    "user@relay.example,victim@evil.example",
    "user@relay.example;victim@evil.example",
    "victim@evil.example,user@relay.example",
    # look-alike relay domains
    "victim@relay.example.evil.example",
    "victim@evilrelay.example",
    "victim@evil-relay.example",
    "victim@relay-example",
    "victim@sub.relay.example",
    "victim@relay.exampl",
    "victim@relay.example.evil.example.",
    "victim@.relay.example",
    "victim@relay..example",
    "victim@relay.example..",
    "victim@wild.example",
    "victim@evilwild.example",
    "victim@evil.example/.wild.example",
    "victim@evil.example .wild.example",
    "victim@evil.example>.wild.example",
    "victim@evil.example\x00.wild.example",
    "victim@evil.example\n.wild.example",
    "only@partner.example\n",
    "xonly@partner.example",
    "only@partner.example.evil.example",
    "victim@foo.example.evil.example",
    "victim@xfoo.example",
    # IDNA: other forms of other names, full-width dots and letters
    "victim@xn--bcher-kva.example.evil.example",
    "victim@bucher.example",
    "victim@xn--bucher-kva.example",
    "victim@relay.example\u3002evil.example",
    "victim@evil\uff0eexample",
    "victim@re\u0406ay.example",
    "victim@r\u0435lay.example",
    "victim@\uff52elay.example",
    "vict\u00edm@r\uff45lay.example",
    "v\uff05ictim%evil.example@relay.example",
    "evil.example\uff01vict\u00edm@relay.example",
    "victim\uff20evil.example@relay.example",
    "victim\uff05evil.example@relay.example",
    # address literals
    "victim@[198.51.100.7]",
    "victim@[IPv6:2001:db8::7]",
    "victim@[relay.example]",
    "victim@[192.0.2.25].relay.example",
    "victim@[192.0.2.25",
    "victim@[127.0.0.1]",
    "victim%evil.example@[10.1.2.3]",
    "victim@[11.1.2.3]",
    "postmaster@[198.51.100.7]",
    "victim@[192.0.2.25]",
    # nothing where something should be
    "@relay.example",
    "victim@",
    "victim",
    "@",
    "",
    '"postmaster"@',
]  # fmt: skip


@pytest.mark.parametrize("address", TRICKS)
def test_relaying_denied_to_strangers(address: str) -> None:
    assert RELAY.admit(address, may_relay=False, local_ip="192.0.2.25") == DENIED
    assert DENIED.text.startswith("550 5.7.1")


@pytest.mark.parametrize(
    ("address", "rule", "domain"),
    [
        ("user@relay.example", Rule.RELAY_DOMAIN, "relay.example"),
        ("User@RELAY.Example", Rule.RELAY_DOMAIN, "relay.example"),
        ("user@relay.example.", Rule.RELAY_DOMAIN, "relay.example"),
        ("user+tag@a.b.wild.example", Rule.RELAY_DOMAIN, "a.b.wild.example"),
        ("user@xn--bcher-kva.example", Rule.RELAY_DOMAIN, "xn--bcher-kva.example"),
        ("user@B\u00fccher.example", Rule.RELAY_DOMAIN, "xn--bcher-kva.example"),
        ("j\u00fcrgen@relay.example", Rule.RELAY_DOMAIN, "relay.example"),
        ("user@[10.1.2.3]", Rule.RELAY_DOMAIN, "[10.1.2.3]"),
        ("Only@partner.example", Rule.RELAY_ADDRESS, "partner.example"),
        ("only@partner.example", Rule.RELAY_ADDRESS, "partner.example"),
        ("a.b@foobar.example", Rule.RELAY_ADDRESS, "foobar.example"),
    ],
)
def test_relay_rules(address: str, rule: Rule, domain: str) -> None:
    verdict = RELAY.admit(address, may_relay=False)
    assert isinstance(verdict, Admitted)
    assert verdict.rule is rule
    assert [(t.address.partition("@")[0], t.domain) for t in verdict.targets] == [(address.partition("@")[0], domain)]


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("anybody@elsewhere.example", "elsewhere.example"),
        ("odd%but@elsewhere.example", "elsewhere.example"),
        ('"x y"@elsewhere.example', "elsewhere.example"),
        ("anybody@[198.51.100.7]", "[198.51.100.7]"),
        ("anybody@[IPv6:2001:DB8::7]", "[ipv6:2001:db8::7]"),
        ("nobody@mx.engine.example", "550 5.1.1"),
        ("nobody@[192.0.2.25]", "550 5.1.1"),
        ("anybody@[elsewhere]", "501 5.1.3"),
        ("anybody@[2001:db8::7]", "501 5.1.3"),
        ("anybody", "501 5.1.3"),
        ("anybody@else..where", "501 5.1.3"),
        ("anybody@-elsewhere.example", "501 5.1.3"),
        ("anybody@" + "x" * 64 + ".example", "501 5.1.3"),
        ("anybody@b\u00fccher.example", "xn--bcher-kva.example"),
    ],
)
def test_clients_that_may_relay(address: str, answer: str) -> None:
    verdict = RELAY.admit(address, may_relay=True, local_ip="192.0.2.25")
    if isinstance(verdict, Reply):
        assert verdict.text.startswith(answer)
    else:
        assert verdict == Admitted(Rule.CLIENT, (Target(address, answer),))


@pytest.mark.parametrize("may_relay", [True, False])
@pytest.mark.parametrize(
    ("address", "orcpt"),
    [
        ("postmaster", "postmaster@mx.engine.example"),
        ("PostMaster", "postmaster@mx.engine.example"),
        ("Postmaster@MX.engine.example", "Postmaster@mx.engine.example"),
        ('"postmaster"@mx.engine.example', "postmaster@mx.engine.example"),
        ("postmaster@alias.engine.example", "postmaster@alias.engine.example"),
        ("abuse@mx.engine.example", "abuse@mx.engine.example"),
        ("postmaster@[192.0.2.25]", "postmaster@[192.0.2.25]"),
    ],
)
def test_postmaster_is_always_accepted_and_forwarded(address: str, orcpt: str, may_relay: bool) -> None:
    verdict = access("postmaster ops@corp.example\npostmaster second@mx.engine.example").admit(address, may_relay, local_ip="192.0.2.25")
    assert isinstance(verdict, Admitted)
    assert verdict.rule is Rule.LOCAL
    assert [(t.address, t.domain, t.orcpt.lower()) for t in verdict.targets] == [
        ("ops@corp.example", "corp.example", f"rfc822;{orcpt}".lower()),
        ("second@mx.engine.example", "mx.engine.example", f"rfc822;{orcpt}".lower()),
    ]


def test_postmaster_without_the_directive_is_queued_for_our_own_name() -> None:
    verdict = access("").admit("postmaster", may_relay=False)
    assert verdict == Admitted(Rule.LOCAL, (Target("postmaster@mx.engine.example", "mx.engine.example", "rfc822;postmaster@mx.engine.example"),))


def test_the_name_of_ours_that_is_a_relay_domain_relays() -> None:
    verdict = access(rules=RULES + "relay-domain mx.engine.example\n").admit("user@mx.engine.example", may_relay=False)
    assert verdict == Admitted(Rule.RELAY_DOMAIN, (Target("user@mx.engine.example", "mx.engine.example"),))


PIECES = [*'ab%!@"\\.<>[]: ,;\x00\r\n\u3002\uff0e\u00fc', "relay.example", "evil.example", "@relay.example", "@[10.1.2.3]", ".wild.example"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_whatever_is_admitted_to_strangers_goes_to_an_allowed_domain(address: str) -> None:
    verdict = RELAY.admit(address, may_relay=False, local_ip="192.0.2.25")
    if isinstance(verdict, Admitted):
        for target in verdict.targets:
            local, _, domain = target.address.rpartition("@")
            assert domain in {"relay.example", "corp.example", "[10.1.2.3]"} or domain.endswith(".wild.example")
            assert not re.search(r"[%!@<>\s]", local)


ALIASES = """
alias joe joe@corp.example, ops@corp.example
alias info@mx.engine.example joe
alias *@old.example all@new.example
alias sales@old.example sales@new.example
alias keep@local keep, copy@corp.example
alias postmaster pm@corp.example
alias ring1 ring2
alias ring2 ring1
alias far@else.example near@corp.example
"""


@pytest.mark.parametrize(
    ("address", "relays", "targets"),
    [
        ("joe@mx.engine.example", False, ["joe@corp.example", "ops@corp.example"]),
        ("JOE@MX.engine.example", True, ["joe@corp.example", "ops@corp.example"]),
        ("joe@local", False, ["joe@corp.example", "ops@corp.example"]),
        ("info@mx.engine.example", False, ["joe@corp.example", "ops@corp.example"]),
        ("any@old.example", True, ["all@new.example"]),
        ("sales@old.example", True, ["sales@new.example"]),
        ("any@old.example", False, None),  # an alias of a foreign domain lets no stranger in
        ("far@else.example", False, None),
        ("far@else.example", True, ["near@corp.example"]),
        ("keep@mx.engine.example", False, ["keep@mx.engine.example", "copy@corp.example"]),
        ("postmaster", False, ["pm@corp.example"]),
        ("abuse@mx.engine.example", False, ["abuse@mx.engine.example"]),
        ("ring1@mx.engine.example", False, ["ring1@mx.engine.example"]),
        ("nobody@mx.engine.example", True, None),
        ("joe@other.example", True, ["joe@other.example"]),
    ],
)
def test_aliases(address: str, relays: bool, targets: list[str] | None) -> None:
    loaded = build(from_text(f"log-file /l\nhost-name mx.engine.example\n{ALIASES}"))
    assert loaded.config is not None, loaded.problems
    verdict = Access(loaded.config).admit(address, relays)
    if targets is None:
        assert isinstance(verdict, Reply)
    else:
        assert isinstance(verdict, Admitted)
        assert [target.address for target in verdict.targets] == targets


def test_aliases_of_a_stanza_and_outside_add_up() -> None:
    loaded = build(from_text("log-file /l\nhost-name mx.engine.example\nalias a x@corp.example\n<aliases>\nalias a y@corp.example\n</aliases>\n"))
    assert loaded.config is not None, loaded.problems
    verdict = Access(loaded.config).admit("a@mx.engine.example", False)
    assert isinstance(verdict, Admitted)
    assert [(t.address, t.orcpt) for t in verdict.targets] == [
        ("x@corp.example", "rfc822;a@mx.engine.example"),
        ("y@corp.example", "rfc822;a@mx.engine.example"),
    ]
