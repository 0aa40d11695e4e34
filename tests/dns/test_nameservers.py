"""resolv.conf(5), as the C library reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.dns.nameservers import parse_resolv_conf, system_servers


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", ()),
        ("# nameserver 192.0.2.1\nsearch example\noptions ndots:1\n", ()),
        ("nameserver 192.0.2.1\n", (("192.0.2.1", 53),)),
        ("nameserver\t192.0.2.1 # first\nnameserver ::1\n", (("192.0.2.1", 53), ("::1", 53))),
        ("nameserver fe80::1%eth0\n", (("fe80::1%eth0", 53),)),
        ("nameserver ns.example\nnameserver\nnameservers 192.0.2.1\n", ()),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)), tuple((f"192.0.2.{n}", 53) for n in range(1, 4))),
    ],
)
def test_parse(text: str, servers: tuple[tuple[str, int], ...]) -> None:
    assert parse_resolv_conf(text) == servers


def test_a_missing_or_empty_file_means_this_host(tmp_path: Path) -> None:
    assert system_servers(tmp_path / "none") == (("127.0.0.1", 53),)
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.7\n")
    assert system_servers(tmp_path / "resolv.conf") == (("192.0.2.7", 53),)
