"""The settings of a domain that no section singles out are had without a look at every section: never other ones than the sections say."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config, build, from_text
from tests.config.test_model import BASE

PATTERNS = ("*", "a.example", "*.b.example", "[*.]c.example", "[192.0.2.0/24]", "example", "{q}")
LABELS = st.lists(st.sampled_from(["a", "b", "c", "x", "example", "EXAMPLE", "C"]), min_size=1, max_size=4).map(".".join)
DOMAINS = st.one_of(LABELS, st.sampled_from(["[192.0.2.7]", "[198.51.100.1]", "{q}", "{r}", "", "."]))


@cache
def config(patterns: tuple[str, ...], scope: str, precedence: str) -> Config:
    sections = "".join(f"<domain {each}>\n max-smtp-out {7 + PATTERNS.index(each)}\n</domain>\n" for each in patterns)
    placed = {"top": sections, "virtual-mta": f"<virtual-mta v>\nsmtp-source-host 127.0.0.1 v.example\n{sections}</virtual-mta>\n"}[scope]
    loaded = build(from_text(f"{BASE}domain-precedence {precedence}\n<domain *>\n max-smtp-out 3\n</domain>\n{placed}"))
    assert loaded.config is not None, loaded.problems
    return loaded.config


@given(
    st.sets(st.sampled_from(PATTERNS)).map(lambda found: tuple(sorted(found))),
    st.sampled_from(["top", "virtual-mta"]),
    st.sampled_from(["scope", "specific"]),
    DOMAINS,
    st.sampled_from(["v", "{default}"]),
)
def test_the_short_way_finds_what_the_sections_say(patterns: tuple[str, ...], scope: str, precedence: str, domain: str, vmta: str) -> None:
    found = config(patterns, scope, precedence)
    wanted = 0
    for entry in found.domain_entries(domain, vmta):
        wanted = entry.values.get("max_smtp_out", wanted)
    assert found.domain(domain, vmta).max_smtp_out == wanted
