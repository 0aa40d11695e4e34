"""source-group: how many connections clients get together, and what is kept for whom; smtp-max-auth-failure-rate."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import SourceGroup
from engine.door import Door
from engine.listener.groups import Groups
from engine.process import SharedCount
from tests.listener.live import Live
from tests.listener.test_auth import CLEAR, configured, living, login, plain


def take_of(total: int, *groups: SourceGroup) -> Callable[[str], bool]:
    door = Door.alone(group.name for group in groups)
    return Groups(groups, door, SharedCount(memoryview(bytearray(4)), 0, total)).take


def test_a_group_has_no_more_than_its_limit() -> None:
    take = take_of(10, SourceGroup(name="g", max_smtp_in=2))
    assert [take("g") for _ in range(3)] == [True, True, False]
    assert [take("") for _ in range(9)] == [True] * 8 + [False]


def test_what_is_reserved_is_kept_from_the_others() -> None:
    take = take_of(5, SourceGroup(name="g", reserved_smtp_in=2), SourceGroup(name="h", reserved_smtp_in=1))
    assert [take("") for _ in range(3)] == [True, True, False]
    assert [take("g") for _ in range(3)] == [True, True, False]
    assert [take("h"), take("h"), take("")] == [True, False, False]


@given(st.lists(st.sampled_from(["", "g", "h"]), max_size=40), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4))
def test_every_group_can_have_what_is_reserved_for_it_whoever_came_before(names: list[str], g: int, h: int, most: int) -> None:
    take = take_of(8, SourceGroup(name="g", reserved_smtp_in=g, max_smtp_in=most), SourceGroup(name="h", reserved_smtp_in=h))
    held = {"": 0, "g": 0, "h": 0}
    for name in names:
        held[name] += take(name)
    assert sum(held.values()) <= 8 and (not most or held["g"] <= most)
    for name, reserved in (("g", min(g, most) if most else g), ("h", h)):
        for _ in range(reserved - held[name]):
            assert take(name)


def test_connections_count_in_the_group_of_their_source() -> None:
    config = configured("source-group g", users="<source-group g>\nmax-smtp-in 1\n</source-group>\n")
    with Live(config) as live:
        with live.client() as first:
            assert first.reply().startswith("220 ")
            with live.client() as second:
                assert second.reply() == "421 4.3.2 too many connections, try again later"
        live.until(lambda: not live.listener._connections)
        with live.client() as third:
            assert third.reply().startswith("220 ")
        live.until(lambda: live.count.mine() == 0)


def test_who_waits_for_its_group_lets_others_pass() -> None:
    groups = "".join(f"<source-group {name}>\nmax-smtp-in {most}\n</source-group>\n" for name, most in (("g", 1), ("h", 5)))
    groups += "<source 127.0.0.2>\nsource-group h\n</source>\n"
    with Live(configured("source-group g", users=groups, server="smtp-await-slot yes"), total=3) as live:
        with live.client() as first, live.client() as second, live.client("127.0.0.2") as third:
            assert first.reply().startswith("220 ")
            live.do(live.listener._admit_waiting)
            assert third.reply().startswith("220 ")
            assert live.do(lambda: len(live.listener._waiting)) == 1
            first.say("QUIT")
            assert second.reply().startswith("220 ")
        live.until(lambda: live.count.mine() == 0)


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5"])
def test_who_fails_too_often_is_locked_out(mechanism: str) -> None:
    with living(configured(CLEAR, "smtp-max-auth-failure-rate 2/1h")) as live:
        with live.client() as open_before, live.client() as peer:
            assert login(open_before, password="wrong").startswith("535 ")
            peer.reply()
            peer.say("EHLO c")
            if mechanism == "PLAIN":
                assert plain(peer, password="wrong").startswith("535 ")
            else:
                peer.say("AUTH CRAM-MD5")
                assert peer.say(base64.b64encode(b"foo " + b"0" * 32).decode()).startswith("535 ")
            assert plain(open_before) == "421 4.7.0 Too many authentication failures, try again later"  # though the password is right
            said = live.log.text("locked-out")
            assert said.startswith("client=127.0.0.1 for 3") and "s after 2 failures of AUTH (smtp-max-auth-failure-rate)" in said
        with live.client() as again:
            assert again.reply() == "421 4.7.0 Too many authentication failures, try again later"
        with live.client("127.0.0.2") as other:
            assert login(other).startswith("235 ")
