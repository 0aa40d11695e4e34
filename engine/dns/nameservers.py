"""Whom to ask when the configuration names no name-server."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

DNS_PORT = 53
_MAX_SERVERS = 3  # as the C library does


def parse_resolv_conf(text: str) -> tuple[tuple[str, int], ...]:
    """(address, 53) of the first three nameserver lines of a resolv.conf(5); lines that make no sense are skipped, as the C library does."""
    servers: list[tuple[str, int]] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            address = words[1]
            try:
                ip_address(address)
            except ValueError:
                continue
            servers.append((address, DNS_PORT))
    return tuple(servers[:_MAX_SERVERS])


def system_servers(path: Path = Path("/etc/resolv.conf")) -> tuple[tuple[str, int], ...]:
    """The system's name servers; the one on this host when the file is missing or names none (resolv.conf(5))."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_resolv_conf(text) or (("127.0.0.1", DNS_PORT),)
