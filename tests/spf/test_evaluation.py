"""check_host() over a table of records: RFC 7208's own examples (appendix A), results of every kind, and the limits of section 4.6.4."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from engine.dns.answer import Answer, Found, NoData, NxDomain, TemporaryFailure
from engine.dns.codec import TYPE_NAMES, Mx, Question
from engine.spf import Verdict, answered, check_host

Zone = Mapping[str, Mapping[str, list[str]]]

APPENDIX_A: dict[str, dict[str, list[str]]] = {
    "example.com": {"MX": ["10 mail-a.example.com", "20 mail-b.example.com"], "A": ["192.0.2.10", "192.0.2.11"]},
    "amy.example.com": {"A": ["192.0.2.65"]},
    "bob.example.com": {"A": ["192.0.2.66"]},
    "mail-a.example.com": {"A": ["192.0.2.129"]},
    "mail-b.example.com": {"A": ["192.0.2.130"]},
    "example.org": {"MX": ["10 mail-c.example.org"]},
    "mail-c.example.org": {"A": ["192.0.2.140"]},
    "10.2.0.192.in-addr.arpa": {"PTR": ["example.com"]},
    "65.2.0.192.in-addr.arpa": {"PTR": ["amy.example.com"]},
    "140.2.0.192.in-addr.arpa": {"PTR": ["mail-c.example.org"]},
    "4.0.0.10.in-addr.arpa": {"PTR": ["bob.example.com"]},
    "mary.mobile-users._spf.example.com": {"A": ["127.0.0.2"]},
    "fred.mobile-users._spf.example.com": {"A": ["127.0.0.2"]},
    "15.15.168.192.joel.remote-users._spf.example.com": {"A": ["127.0.0.2"]},
}


def answer(zone: Zone, question: Question) -> Answer:
    records = zone.get(question.name)
    if records is None:
        return NxDomain(60)
    values = records.get(TYPE_NAMES[question.type], [])
    if "!" in records or values == ["!"]:
        return TemporaryFailure("timeout", "no answer")
    if not values:
        return NoData(60)
    kind = TYPE_NAMES[question.type]
    if kind == "MX":
        return Found(question.name, 60, exchanges=tuple(Mx(int(each.split()[0]), each.split()[1]) for each in values))
    if kind == "TXT":
        return Found(question.name, 60, texts=tuple(each.encode() for each in values))
    return Found(question.name, 60, names=tuple(values)) if kind == "PTR" else Found(question.name, 60, addresses=tuple(values))


def check(zone: Zone, client: str, domain: str, sender: str = "", helo: str = "", **options: int) -> Verdict:
    asked: list[Question] = []

    async def ask(question: Question) -> Answer:
        asked.append(question)
        assert len(asked) <= 200
        return answer(zone, question)

    return asyncio.run(answered(check_host(ip_address(client), domain, sender=sender, helo=helo, **options), ask))


def with_record(record: str, more: Zone | None = None) -> Zone:
    return {**APPENDIX_A, "example.com": {**APPENDIX_A["example.com"], "TXT": [record]}, **(more or {})}


@pytest.mark.parametrize(
    ("record", "passing", "failing"),
    [
        ("v=spf1 +all", ["192.0.2.1", "2001:db8::1"], []),
        ("v=spf1 a -all", ["192.0.2.10", "192.0.2.11"], ["192.0.2.129"]),
        ("v=spf1 a:example.org -all", [], ["192.0.2.10", "192.0.2.140"]),
        ("v=spf1 mx -all", ["192.0.2.129", "192.0.2.130"], ["192.0.2.10"]),
        ("v=spf1 mx:example.org -all", ["192.0.2.140"], ["192.0.2.129"]),
        ("v=spf1 mx mx:example.org -all", ["192.0.2.129", "192.0.2.130", "192.0.2.140"], ["192.0.2.141"]),
        ("v=spf1 mx/30 mx:example.org/30 -all", ["192.0.2.128", "192.0.2.131", "192.0.2.143"], ["192.0.2.132", "192.0.2.144"]),
        ("v=spf1 ptr -all", ["192.0.2.65", "192.0.2.10"], ["192.0.2.140", "10.0.0.4"]),
        ("v=spf1 ip4:192.0.2.128/28 -all", ["192.0.2.129"], ["192.0.2.65"]),
        ("v=spf1 ip6:2001:db8::/32 -all", ["2001:db8::7"], ["2001:db9::7", "192.0.2.1"]),
        ("v=spf1 ip4:192.0.2.0/24 -all", ["::ffff:192.0.2.7"], ["::192.0.2.7"]),
        ("v=spf1 exists:%{l1r+}.mobile-users._spf.%{d} -all", ["192.0.2.1"], []),
        ("v=spf1 exists:%{ir}.%{l1r+}.remote-users._spf.%{d} -all", [], ["192.0.2.1"]),
        ("v=spf1 a:%{p} -all", ["192.0.2.65"], ["192.0.2.66"]),
    ],
)
def test_the_examples_of_the_rfc(record: str, passing: list[str], failing: list[str]) -> None:
    zone = with_record(record)
    assert {client: check(zone, client, "example.com", "mary@example.com").result for client in passing} == dict.fromkeys(passing, "pass")
    assert {client: check(zone, client, "example.com", "mary@example.com").result for client in failing} == dict.fromkeys(failing, "fail")


def test_include_and_redirect() -> None:
    more: Zone = {
        "one.example": {"TXT": ["v=spf1 include:example.com include:two.example -all"]},
        "two.example": {"TXT": ["v=spf1 ip4:198.51.100.0/24 ~all"]},
        "la.example": {"TXT": ["v=spf1 redirect=two.example"]},
        "both.example": {"TXT": ["v=spf1 redirect=gone.example ?all"]},
    }
    zone = with_record("v=spf1 mx -all", more)
    assert check(zone, "192.0.2.129", "one.example")[:3] == ("pass", "one.example", "include:example.com")
    assert check(zone, "198.51.100.7", "one.example")[:3] == ("pass", "one.example", "include:two.example")
    assert check(zone, "203.0.113.1", "one.example")[:3] == ("fail", "one.example", "-all")
    assert check(zone, "198.51.100.7", "la.example")[:3] == ("pass", "two.example", "ip4:198.51.100.0/24")
    assert check(zone, "203.0.113.1", "la.example").result == "softfail"
    assert check(zone, "203.0.113.1", "la.example").record == "v=spf1 redirect=two.example"
    assert check(zone, "203.0.113.1", "both.example").result == "neutral"


@pytest.mark.parametrize(
    ("zone", "result", "text"),
    [
        ({}, "none", "no such domain"),
        ({"d.example": {"A": ["192.0.2.1"]}}, "none", "no SPF record"),
        ({"d.example": {"TXT": ["v=spf1"]}}, "neutral", "nothing in the record matches"),
        ({"d.example": {"TXT": ["v=spf1 ?all"]}}, "neutral", ""),
        ({"d.example": {"TXT": ["v=spf1 -all", "v=spf1 +all"]}}, "permerror", "2 SPF records"),
        ({"d.example": {"TXT": ["v=spf1 a foo -all"]}}, "permerror", "'foo' is no term"),
        ({"d.example": {"TXT": ["v=spf1 include:no.example -all"]}}, "permerror", "include:no.example: no such domain"),
        ({"d.example": {"TXT": ["v=spf1 redirect=no.example"]}}, "permerror", "leads to no SPF record"),
        ({"d.example": {"!": []}}, "temperror", "d.example: no answer"),
        ({"d.example": {"TXT": ["v=spf1 mx -all"], "MX": ["!"]}}, "temperror", "d.example: no answer"),
        ({"d.example": {"TXT": ["v=spf1 include:slow.example -all"]}, "slow.example": {"!": []}}, "temperror", "slow.example"),
        ({"d.example": {"TXT": ["v=spf1 mx -all"], "MX": [f"{n} mx{n}.example" for n in range(11)]}}, "permerror", "more than 10 MX"),
    ],
)
def test_every_result(zone: Zone, result: str, text: str) -> None:
    verdict = check(zone, "192.0.2.1", "d.example")
    assert verdict.result == result
    assert text in verdict.text


@pytest.mark.parametrize("domain", ["localhost", "a..example", "a" * 64 + ".example", "[192.0.2.1]", "", "x" * 250 + ".com"])
def test_what_is_no_domain_has_no_policy(domain: str) -> None:
    assert check({}, "192.0.2.1", domain).result == "none"


def test_ten_lookups_and_no_more() -> None:
    def zone(count: int) -> Zone:
        return {
            "d.example": {"TXT": ["v=spf1 " + " ".join(f"a:h{n}.example" for n in range(count)) + " -all"]},
            **{f"h{n}.example": {"A": ["198.51.100.1"]} for n in range(count)},
        }

    assert check(zone(10), "192.0.2.1", "d.example")[0::4] == ("fail", 10)
    verdict = check(zone(11), "192.0.2.1", "d.example")
    assert verdict.result == "permerror"
    assert "a:h10.example of d.example" in verdict.text
    loop: Zone = {"d.example": {"TXT": ["v=spf1 include:d.example -all"]}}
    assert check(loop, "192.0.2.1", "d.example").result == "permerror"


def test_two_void_lookups_and_no_more() -> None:
    def zone(count: int) -> Zone:
        return {"d.example": {"TXT": ["v=spf1 " + " ".join(f"exists:h{n}.example" for n in range(count)) + " -all"]}}

    assert check(zone(2), "192.0.2.1", "d.example").result == "fail"
    assert "more than 2 look-ups found nothing" in check(zone(3), "192.0.2.1", "d.example").text
    assert check(zone(3), "192.0.2.1", "d.example", max_void_lookups=3).result == "fail"


def test_the_name_of_a_client_is_not_trusted_and_its_failure_is_no_failure_of_ours() -> None:
    zone = {**with_record("v=spf1 ptr -all"), "9.2.0.192.in-addr.arpa": {"!": []}}
    assert check(zone, "192.0.2.9", "example.com").result == "fail"


def test_the_null_sender_is_the_postmaster_of_the_helo_name() -> None:
    zone: Zone = {"mail.example": {"TXT": ["v=spf1 exists:%{l}.%{o}.%{h} -all"]}, "postmaster.mail.example.mail.example": {"A": ["127.0.0.2"]}}
    assert check(zone, "192.0.2.1", "mail.example", helo="mail.example").result == "pass"
