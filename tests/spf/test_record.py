"""Records: one of several texts, its terms, and what makes the whole record a permerror."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.spf.record import MAX_RECORD_BYTES, Mechanism, SpfError, find_record, parse_record


def test_one_record_is_found_among_texts() -> None:
    assert find_record([b"google-site-verification=x", b"v=spf10 +all", b"V=SPF1 -all", b"v=spf1x"]) == b"V=SPF1 -all"
    assert find_record([b"v=spf1"]) == b"v=spf1"
    assert find_record([b"v=spf2.0/pra -all", b" v=spf1 -all"]) is None
    with pytest.raises(SpfError, match="2 SPF records"):
        find_record([b"v=spf1 -all", b"v=spf1 ~all"])


def test_terms() -> None:
    record = parse_record(b"v=spf1  A:mail.example.com/28//64 -ip4:192.0.2.0/24 ?ip6:2001:db8::1 ~mx//48 a/0 x-new=%{d}/y redirect=_spf.%{d} ")
    assert record.mechanisms == (
        Mechanism("pass", "a", "A:mail.example.com/28//64", ("mail.example.com",), None, 28, 64),
        Mechanism("fail", "ip4", "-ip4:192.0.2.0/24", network=ip_network("192.0.2.0/24")),
        Mechanism("neutral", "ip6", "?ip6:2001:db8::1", network=ip_network("2001:db8::1/128")),
        Mechanism("softfail", "mx", "~mx//48", prefix6=48),
        Mechanism("pass", "a", "a/0", prefix4=0),
    )
    assert record.redirect is not None


@pytest.mark.parametrize(
    "terms",
    [
        *(b"ip4:192.0.2.1/33", b"ip4:192.0.2", b"ip4", b"ip4:2001:db8::1", b"ip6:192.0.2.1", b"ip6:2001:db8::1/129", b"ip4:192.0.2.1//32", b"ip4/24"),
        *(b"a:", b"a/33", b"a//129", b"a/024", b"a:example.com/24/64", b"mx:example.com//", b"axe:example.com", b"all:example.com", b"all/8"),
        *(b"include", b"include:", b"include/24", b"exists", b"exists:com", b"ptr/24", b"ptr:", b"include:%{c}.example.com"),
        *(b"redirect=a.example redirect=b.example", b"exp=a.example exp=a.example", b"redirect=", b"=x", b"1x=y", b"x=%", b"-", b"-\t-all"),
        *("a:bücher.example".encode(), b"++all", b"a :example.com"),
    ],
)  # fmt: skip
def test_wrong_terms(terms: bytes) -> None:
    with pytest.raises(SpfError):
        parse_record(b"v=spf1 " + terms)


def test_a_record_without_end_is_not_read() -> None:
    terms = b" ip4:192.0.2.1" * 400
    assert len(parse_record(b"v=spf1" + terms[: MAX_RECORD_BYTES // 14 * 14 - 14]).mechanisms) > 250
    with pytest.raises(SpfError, match="more than 4096"):
        parse_record(b"v=spf1" + terms)


@given(st.text("v=spf1+-~?:/%{}.,alincudemxptr46dr0 _AB\x7f\xe9", max_size=120).map(lambda text: b"v=spf1 " + text.encode()))
def test_any_record_is_read_or_refused(record: bytes) -> None:
    try:
        parse_record(record)
    except SpfError:
        return
