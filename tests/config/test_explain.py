"""Which line is in effect: `show settings` against what the engine itself looks up, and places that were read from the text."""

from __future__ import annotations

import pytest

from engine.config import build, from_text
from engine.config.explain import HIDDEN, Explainer, Setting

TEXT = """\
log-file /l
postmaster a@example.org
smtp-source-host 192.0.2.1 all.example.org
always-allow-relaying no
<source 0/0>
    log-data yes
    max-message-size 1M
</source>
<source 10.0.0.0/8>
    max-message-size 5M
    always-allow-relaying yes
</source>
<source feed>
    max-message-size 7M
</source>
<virtual-mta-pool p>
    virtual-mta v
    max-smtp-out 30
    domain-key s, *, pool.pem
    <domain *>
        max-smtp-out 5
    </domain>
</virtual-mta-pool>
<virtual-mta-pool q>
    virtual-mta v
    max-smtp-out 20
</virtual-mta-pool>
<virtual-mta v>
    domain-key s, *, own.pem
    <domain gmail.com>
        retry-after 1h
    </domain>
</virtual-mta>
<virtual-mta w>
    smtp-source-ip 192.0.2.9
    max-smtp-out 4
</virtual-mta>
<domain *>
    max-smtp-out 10
    bounce-after 1d
    auth-password "secret word"
</domain>
domain-macro big gmail.com
<domain $big>
    max-smtp-out 11
    route [192.0.2.7]
    max-msg-rate 100/h
</domain>
<domain gmail.com>
    max-rcpt-per-transaction 3
</domain>
<acct-file a.csv>
    records d
</acct-file>
<acct-file a.csv>
    iso-times no
</acct-file>
"""
EXPLAINER = Explainer(build(from_text(TEXT)))


def shown(settings: list[Setting], *names: str) -> dict[str, list[tuple[str, int]]]:
    """(value, line) of each of *names*; line 0: the default."""
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in names}
    for setting in settings:
        if setting.name in found:
            found[setting.name].append((setting.value, setting.place.line if setting.place else 0))
    return found


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        (
            ("gmail.com", "{default}"),
            {
                "max-smtp-out": ("11", 45),
                "smtp-hosts": ("[192.0.2.7]", 46),
                "max-msg-rate": ("100/h", 47),
                "bounce-after": ("1d", 40),
                "max-rcpt-per-message": ("3", 50),
                "retry-after": ("10m", 0),
                "auth-password": (HIDDEN, 41),
            },
        ),
        (("gmail.com", "v"), {"max-smtp-out": ("5", 21), "retry-after": ("1h", 31), "max-msg-rate": ("100/h", 47)}),
        (("x.example", "v"), {"max-smtp-out": ("5", 21), "retry-after": ("10m", 0), "bounce-after": ("1d", 40)}),
        (("x.example", "w"), {"max-smtp-out": ("10", 39)}),
    ],
)
def test_a_queue(queue: tuple[str, str], expected: dict[str, tuple[str, int]]) -> None:
    assert shown(EXPLAINER.domain(*queue), *expected) == {name: [value] for name, value in expected.items()}


def test_what_does_not_work_yet_is_marked() -> None:
    statuses = {setting.name: setting.status for setting in EXPLAINER.domain("gmail.com", "v")}
    assert (statuses["max-smtp-out"], statuses["auth-password"]) == ("working", "later")


def test_no_secret_is_shown() -> None:
    secrets = "http-api-key 0123456789abcdef0123456789abcdef\nsmtp-server-tls-certificate a.pem geheim\n"
    loaded = build(from_text(f"log-file /l\n{secrets}<domain *>\nauth-password geheim\nsmtp-client-certificate b.pem\n</domain>\n"))
    explainer = Explainer(loaded)
    assert shown(explainer.server(), "http-api-key", "smtp-server-tls-certificate") == {
        "http-api-key": [(HIDDEN, 2)],
        "smtp-server-tls-certificate": [(f"a.pem {HIDDEN}", 3)],
    }
    found = shown(explainer.domain("a.example", "{default}"), "auth-password", "smtp-client-certificate")
    assert found == {"auth-password": [(HIDDEN, 5)], "smtp-client-certificate": [("b.pem", 6)]}


def test_a_pool_without_a_bound_binds_nobody() -> None:
    pools = "<virtual-mta-pool {0}>\nvirtual-mta v\nmax-smtp-out {1}\n</virtual-mta-pool>\n"
    text = "<virtual-mta v>\n</virtual-mta>\n" + pools.format("a", "0") + pools.format("b", "unlimited") + pools.format("c", "30")
    assert shown(Explainer(build(from_text("log-file /l\n" + text))).virtual_mta("v"), "max-smtp-out") == {"max-smtp-out": [("30", 14)]}


def test_a_virtual_mta_has_what_pools_and_server_give_it() -> None:
    names = ("smtp-source-host", "max-smtp-out", "domain-key", "host-name")
    assert shown(EXPLAINER.virtual_mta("v"), *names) == {
        "smtp-source-host": [("192.0.2.1 all.example.org", 3)],
        "max-smtp-out": [("20", 26)],
        "domain-key": [("s, *, own.pem", 29), ("s, *, pool.pem", 19)],
        "host-name": [("the server's", 0)],
    }
    assert shown(EXPLAINER.virtual_mta("w"), *names[:2]) == {"smtp-source-host": [("192.0.2.9", 35)], "max-smtp-out": [("4", 36)]}


@pytest.mark.parametrize(
    ("client", "size", "relaying"),
    [("10.1.2.3", ("5M", 10), ("yes", 11)), ("8.8.8.8", ("1M", 7), ("no", 4)), ("feed", ("7M", 14), ("no", 4)), ("::1", ("unlimited", 0), ("no", 4))],
)
def test_a_client(client: str, size: tuple[str, int], relaying: tuple[str, int]) -> None:
    found = EXPLAINER.source(client)
    assert shown(found, "max-message-size", "always-allow-relaying") == {"max-message-size": [size], "always-allow-relaying": [relaying]}


def test_a_client_that_is_none() -> None:
    with pytest.raises(ValueError, match="nobody"):
        EXPLAINER.source("nobody")


def test_the_server_and_its_sections() -> None:
    assert shown(EXPLAINER.server(), "log-file", "smtp-listener", "postmaster") == {
        "log-file": [("/l", 1)],
        "smtp-listener": [("0.0.0.0:25", 0)],
        "postmaster": [("a@example.org", 2)],
    }
    ((name, settings),) = EXPLAINER.stanzas("acct-file")
    assert (name, shown(settings, "records", "iso-times")) == ("a.csv", {"records": [("d", 53)], "iso-times": [("no", 56)]})


def test_what_cannot_be_read_is_left_out() -> None:
    loaded = build(from_text("log-file /l\n<domain *>\nmax-smtp-out 3\nmax-smtp-out lots\nnonsense\nretry-after 5m\n</domain>\n"))
    assert loaded.config is None
    found = shown(Explainer(loaded).domain("a.example", "{default}"), "max-smtp-out", "retry-after")
    assert found == {"max-smtp-out": [("3", 3)], "retry-after": [("5m", 6)]}


@pytest.mark.parametrize("domain", ["gmail.com", "x.example"])
@pytest.mark.parametrize("vmta", ["{default}", "v", "w"])
def test_it_agrees_with_the_engine_on_every_place(domain: str, vmta: str) -> None:
    config = EXPLAINER.config
    for setting in EXPLAINER.domain(domain, vmta):
        field = next(
            (f for f in (setting.name.replace("-", "_"), setting.name.replace("-", "_") + "_s") if hasattr(config.domain(domain, vmta), f)), None
        )
        if field is not None:
            assert config.domain_place(domain, vmta, field) == setting.place, setting
