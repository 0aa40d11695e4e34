"""The addresses that a virtual MTA sends from: by name, by network, in turns, and when there are none."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from engine.config import build, from_text
from engine.delivery.sources import Source, Sources, local_addresses

CONF = """
host-name mail.example.com
log-file /log
<spool /spool>
</spool>
<virtual-mta two>
    smtp-source-host 192.0.2.1 one.example.com
    smtp-source-host 192.0.2.2 two.example.com
</virtual-mta>
<virtual-mta other>
    smtp-source-host 192.0.2.3
</virtual-mta>
<virtual-mta net>
    smtp-source-host 198.51.100.0/24 net.example.com
</virtual-mta>
"""


def sources(local: list[IPv4Address | IPv6Address]) -> Sources:
    config = build(from_text(CONF)).config
    assert config is not None
    return Sources(config, lambda: local)


def test_each_virtual_mta_takes_its_own_turns() -> None:
    made = sources([])
    taken = []
    for _ in range(4):
        taken.append(made.next("two"))
        made.next("other")
    assert [source.ip for source in taken if source] == ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"]
    assert made.next("other") == Source("192.0.2.3", "mail.example.com")


def test_a_network_means_the_addresses_that_are_here_now() -> None:
    local: list[IPv4Address | IPv6Address] = [ip_address("127.0.0.1"), ip_address("203.0.113.9")]
    made = sources(local)
    assert made.next("net") is None
    assert made.known("net")
    local.append(ip_address("198.51.100.7"))  # the interface came up
    assert made.next("net") == Source("198.51.100.7", "net.example.com")


def test_no_source_host_leaves_the_choice_to_the_kernel() -> None:
    assert sources([]).next("{default}") == Source("", "mail.example.com")
    assert Source("", "x").families == {4, 6}
    assert Source("192.0.2.1", "x").families == {4}
    assert Source("2001:db8::1", "x").families == {6}


def test_a_virtual_mta_that_is_gone_is_not_known() -> None:
    made = sources([])
    assert made.next("gone") is None
    assert not made.known("gone")


def test_this_host_has_loopback() -> None:
    assert ip_address("127.0.0.1") in local_addresses()
