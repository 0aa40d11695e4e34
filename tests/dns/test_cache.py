"""The cache: bounded, expiring by the time it is told, and able to serve an expired value once more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dns.answer import Answer, Found, NoData, NxDomain, TemporaryFailure
from engine.dns.cache import Cache, lifetime_s


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Found("a", 0), 5),
        (Found("a", 300), 300),
        (Found("a", 2**31 - 1), 86_400),
        (NoData(0), 5),
        (NoData(900), 900),
        (NxDomain(86_400), 3_600),
        (TemporaryFailure("timeout", ""), 10),
    ],
)
def test_lifetime(answer: Answer, seconds: float) -> None:
    assert lifetime_s(answer) == seconds


def test_values_expire() -> None:
    cache: Cache[str, int] = Cache(10)
    cache.put("a", 1, 100.0)
    assert cache.get("a", 99.9) == (1, 100.0)
    assert cache.get("a", 100.0) is None
    assert cache.get("b", 0.0) is None


def test_the_least_recently_used_leaves() -> None:
    cache: Cache[str, int] = Cache(2)
    cache.put("a", 1, 100.0)
    cache.put("b", 2, 100.0)
    assert cache.get("a", 0.0)
    cache.put("c", 3, 100.0)
    assert [key for key in "abc" if cache.get(key, 0.0)] == ["a", "c"]


def test_an_expired_value_is_revived_until_its_afterlife_ends() -> None:
    cache: Cache[str, int] = Cache(2)
    cache.put("a", 1, 100.0, 150.0)
    assert cache.get("a", 110.0) is None
    assert cache.revive("a", 30.0, 110.0) == (1, 140.0)
    assert cache.get("a", 139.0) == (1, 140.0)
    assert cache.revive("a", 30.0, 141.0) == (1, 150.0)
    assert cache.revive("a", 30.0, 150.0) is None


def test_a_value_without_afterlife_is_not_revived() -> None:
    cache: Cache[str, int] = Cache(2)
    cache.put("a", 1, 100.0)
    assert cache.revive("a", 30.0, 101.0) is None
    assert cache.revive("b", 30.0, 101.0) is None


@given(st.integers(1, 8), st.lists(st.integers(0, 20)))
def test_it_never_grows_past_its_size(size: int, keys: list[int]) -> None:
    cache: Cache[int, int] = Cache(size)
    for key in keys:
        cache.put(key, key, 1.0)
        assert len(cache) <= size
        assert cache.get(key, 0.0) == (key, 1.0)
