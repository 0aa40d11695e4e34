"""By which virtual MTA mail leaves."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import ClientSettings, Config, build, from_text
from engine.mail.reply import Reply
from engine.policy.routing import Assignment, Router

LOADED = build(
    from_text("""
host-name mx.engine.example
log-file /tmp/log
<spool /tmp/spool>
</spool>
<virtual-mta a>
  smtp-source-host 127.0.0.11 a-from.example
  host-name a.example
</virtual-mta>
<virtual-mta b>
  smtp-source-host 127.0.0.16/28 b.example
  smtp-source-host 2001:db8::/64 b.example
</virtual-mta>
<virtual-mta-pool p>
  virtual-mta a
  virtual-mta b
</virtual-mta-pool>
""")
)
assert LOADED.config is not None, LOADED.problems
CONFIG: Config = LOADED.config


def client(**changes: Any) -> ClientSettings:
    return ClientSettings(**changes)


def never() -> str:
    raise AssertionError("the local address was asked for")


@pytest.mark.parametrize(
    ("changes", "requested", "chosen"),
    [
        ({}, None, "{default}"),
        ({"default_virtual_mta": "a"}, None, "a"),
        ({"default_virtual_mta": "p"}, None, "p"),
        ({"default_virtual_mta": "gone"}, None, "{default}"),
        ({"default_virtual_mta": "a"}, "b", "b"),
        ({"default_virtual_mta": "a"}, "p", "p"),
        ({"default_virtual_mta": "a"}, "{default}", "{default}"),
        ({"default_virtual_mta": "a", "allow_empty_x_virtual_mta": True}, "", "{default}"),
        ({"default_virtual_mta": "a", "reject_invalid_virtual_mta": False}, "nope", "a"),
        ({"default_virtual_mta": "a", "reject_invalid_virtual_mta": False}, "", "a"),
    ],
)
def test_choice(changes: dict[str, Any], requested: str | None, chosen: str) -> None:
    assert Router(CONFIG).choose(client(**changes), requested, never) == chosen


@pytest.mark.parametrize(("requested", "shown"), [("nope", "nope"), ("", ""), ("x\r\n250 ok\xff", "x??250 ok?"), ("y" * 200, "y" * 100)])
def test_unknown_virtual_mta_is_refused(requested: str, shown: str) -> None:
    refusal = Router(CONFIG).choose(client(), requested, never)
    assert isinstance(refusal, Reply)
    assert refusal.text == f"550 5.5.0 specified Virtual MTA '{shown}' does not exist"


@pytest.mark.parametrize(
    ("local_ip", "chosen"),
    [("127.0.0.11", "a"), ("127.0.0.17", "b"), ("127.0.0.1", "{default}"), ("2001:db8::9", "b"), ("2001:db9::9", "{default}"), ("?", "{default}")],
)
def test_by_smtp_source_ip(local_ip: str, chosen: str) -> None:
    assert Router(CONFIG).choose(client(default_virtual_mta="by-smtp-source-ip"), None, lambda: local_ip) == chosen


def test_members_of_a_pool_take_turns() -> None:
    router = Router(CONFIG)
    assert [router.assign("p") for _ in range(3)] == [Assignment("a", "p"), Assignment("b", "p"), Assignment("a", "p")]
    assert router.assign("a") == Assignment("a", "")


def test_greeting_name_is_the_default_virtual_mtas() -> None:
    router = Router(CONFIG)
    assert router.greeting_name(client(default_virtual_mta="a"), never) == "a.example"
    assert router.greeting_name(client(default_virtual_mta="b"), never) == "mx.engine.example"
    assert router.greeting_name(client(default_virtual_mta="p"), never) == "mx.engine.example"
    assert router.greeting_name(client(), never) == "mx.engine.example"
