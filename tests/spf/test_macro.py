"""Macros: the examples of RFC 7208 section 7.4, and what is none."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from engine.spf.macro import MAX_NAME, SpfError, dotted, expand, read_domain, read_macros

SENDER = "strong-bad@email.example.com"
DOMAIN = "email.example.com"
VALUES = {
    "s": SENDER, "l": "strong-bad", "o": DOMAIN, "d": DOMAIN, "i": "192.0.2.3", "h": "mail.example.com", "v": "in-addr", "p": "unknown",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("%{s}", SENDER),
        ("%{o}", DOMAIN),
        ("%{d}", DOMAIN),
        ("%{d4}", DOMAIN),
        ("%{d3}", DOMAIN),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("100%%.%{h}", "100%.mail.example.com"),
        ("%{p}.x.example.", "unknown.x.example"),
    ],
)
def test_examples(text: str, expanded: str) -> None:
    assert expand(read_domain(text), VALUES) == expanded


def test_the_nibbles_of_an_ipv6_address() -> None:
    values = VALUES | {"i": dotted(ip_address("2001:db8::cb01")), "v": "ip6"}
    expected = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"
    assert expand(read_domain("%{ir}.%{v}._spf.%{d2}"), values) == expected


def test_a_name_that_is_too_long_loses_labels_from_the_left() -> None:
    expanded = expand(read_domain("%{l}.example.com"), VALUES | {"l": ".".join(["a" * 60] * 6)})
    assert expanded == ".".join(["a" * 60] * 3) + ".example.com"
    assert len(expanded) <= MAX_NAME


@pytest.mark.parametrize("text", ["%", "%{", "%{}", "%{x}", "%{c}", "%{t}", "%{d0}", "%{d1x}", "%x", "a b", "a\x7f", "%(d)"])
def test_what_is_no_macro(text: str) -> None:
    with pytest.raises(SpfError):
        read_macros(text)


@pytest.mark.parametrize("text", ["", "com", "example.com-", "example.123", "a..", "example.c_m", ".com", "%{d}com"])
def test_what_is_no_domain(text: str) -> None:
    with pytest.raises(SpfError):
        read_domain(text)
