"""`engine resolve` against a DNS server on loopback: what DNS says, what would be tried from where, and every verdict."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from tests.dns_server import DnsServer

ZONE = {
    "good.example": {"MX": ["10 mx1.example", "20 mx2.example", "30 gone.example"]},
    "mx1.example": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "mx2.example": {"A": ["192.0.2.2", "192.0.2.3"]},
    "null.example": {"MX": ["0 ."]},
    "loop.example": {"MX": ["10 us.example"]},
    "us.example": {"A": ["127.0.0.1"]},
    "implicit.example": {"A": ["192.0.2.9"]},
    "broken.example": {"!": ["servfail"]},
    "private.example": {"MX": ["10 us2.example"]},
    "us2.example": {"A": ["127.0.0.9"]},
}
CONF = """log-file /l
name-server {server}
smtp-listener 127.0.0.1:25
host-name engine.example
<virtual-mta two>
    smtp-source-host 127.0.0.1 one.example
    smtp-source-host ::1 six.example
</virtual-mta>
<virtual-mta away>
    smtp-source-host 198.51.100.0/24 away.example
</virtual-mta>
<domain routed.example>
    smtp-hosts [192.0.2.77]:2525
</domain>
"""


@pytest.fixture
def conf(tmp_path: Path) -> Iterator[str]:
    with DnsServer(ZONE) as dns:
        path = tmp_path / "engine.conf"
        path.write_text(CONF.format(server=f"{dns.address}:{dns.port}"))
        yield str(path)


def resolved(conf: str, capsys: pytest.CaptureFixture[str], domain: str, *words: str, code: int = os.EX_OK) -> dict[str, Any]:
    assert main(["resolve", domain, "-c", conf, "--json", *words]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_mail_hosts_and_what_each_source_would_try(conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = resolved(conf, capsys, "Good.Example.", "--vmta", "two")
    assert [(mx["preference"], mx["host"], mx["addresses"]) for mx in found["mx"]] == [
        (10, "mx1.example", ["192.0.2.1", "2001:db8::1"]),
        (20, "mx2.example", ["192.0.2.2", "192.0.2.3"]),
        (30, "gone.example", []),
    ]
    assert 0 < found["mx"][0]["ttl_s"] <= 300
    assert found["mx"][2]["trouble"] == "the name does not exist"
    four, six = found["ways"]
    assert (four["source"], four["ehlo"], four["verdict"]) == ("127.0.0.1", "one.example", "ok")
    assert four["targets"][0] == {"host": "mx1.example", "address": "192.0.2.1", "port": 25, "preference": 10}
    assert {target["address"] for target in four["targets"]} == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
    assert [target["address"] for target in six["targets"]] == ["2001:db8::1"]


@pytest.mark.parametrize(
    ("domain", "verdict"),
    [
        ("null.example", "null-mx"),
        ("loop.example", "loop"),
        ("never.example", "nxdomain"),
        ("broken.example", "temporary"),
        ("private.example", "no-mx"),
    ],
)
def test_verdicts(conf: str, capsys: pytest.CaptureFixture[str], domain: str, verdict: str) -> None:
    (way,) = resolved(conf, capsys, domain, code=os.EX_NOHOST)["ways"]
    assert (way["verdict"], way["targets"]) == (verdict, [])
    assert main(["resolve", domain, "-c", conf]) == os.EX_NOHOST
    assert f"{verdict}: mail " in capsys.readouterr().out


def test_no_mx_means_the_domain_itself_and_a_route_needs_no_dns(conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = resolved(conf, capsys, "implicit.example")
    assert (found["says"], found["mx"]) == ("no such records", [])
    assert found["ways"][0]["targets"] == [{"host": "implicit.example", "address": "192.0.2.9", "port": 25, "preference": 0}]
    assert found["ways"][0]["source"] == ""
    (target,) = resolved(conf, capsys, "routed.example")["ways"][0]["targets"]
    assert (target["address"], target["port"]) == ("192.0.2.77", 2525)
    (target,) = resolved(conf, capsys, "[192.0.2.50]")["ways"][0]["targets"]
    assert target["address"] == "192.0.2.50"


def test_a_virtual_mta_that_cannot_send(conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert resolved(conf, capsys, "good.example", "--vmta", "away", code=os.EX_NOHOST)["ways"] == []
    assert main(["resolve", "good.example", "-c", conf, "--vmta", "away"]) == os.EX_NOHOST
    assert "no smtp-source-host of this virtual MTA is an address of this host" in capsys.readouterr().out
    assert main(["resolve", "good.example", "-c", conf, "--vmta", "none"]) == os.EX_DATAERR
    assert "no virtual MTA none" in capsys.readouterr().err
