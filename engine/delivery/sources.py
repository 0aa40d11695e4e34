"""The addresses that a virtual MTA sends from, and the name it gives itself on each."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import NamedTuple

from engine.config.model import Config
from engine.config.values import SourceHost

IP_BIND_ADDRESS_NO_PORT = 24  # Linux: reserve no port at bind, so that the limit on ports holds per destination


class Source(NamedTuple):
    """One way to leave: the local address ('' lets the kernel choose) and the EHLO name."""

    ip: str
    ehlo: str

    @property
    def families(self) -> frozenset[int]:
        """Address families it can reach: 4, 6 or both."""
        if not self.ip:
            return frozenset((4, 6))
        return frozenset((6 if ":" in self.ip else 4,))


class Sources:
    """The sources of every virtual MTA of a slot, each virtual MTA's taken round robin."""

    def __init__(self, config: Config, local: Callable[[], Sequence[IPv4Address | IPv6Address]]) -> None:
        """*local* tells the addresses of this host, now."""
        self._config = config
        self._local = local
        self._of: dict[str, deque[Source]] = {}

    def next(self, vmta: str) -> Source | None:
        """The next source of *vmta* in its turn; None while none of its networks holds an address of this host."""
        line = self._of.get(vmta)
        if line is None:
            line = deque(self._expand(vmta))
            if not line:
                return None  # not remembered: an interface may come up
            self._of[vmta] = line
        line.rotate(-1)
        return line[-1]

    def every(self, vmta: str) -> tuple[Source, ...]:
        """All sources that *vmta* has now."""
        return self._expand(vmta)

    def known(self, vmta: str) -> bool:
        """Whether there is such a virtual MTA."""
        return vmta in self._config.virtual_mtas

    def _expand(self, vmta: str) -> tuple[Source, ...]:
        settings = self._config.virtual_mtas.get(vmta)
        if settings is None:
            return ()
        own_name = settings.host_name or self._config.server.host_name[0]
        hosts = settings.source_hosts or self._config.server.smtp_source_host
        if not hosts:
            return (Source("", own_name),)
        return tuple(Source(str(ip), host.host_name or own_name) for host in hosts for ip in addresses_in(host, self._local()))


def addresses_in(host: SourceHost, local: Iterable[IPv4Address | IPv6Address]) -> list[IPv4Address | IPv6Address]:
    """The address that *host* names, or every one of *local* within its network but 127.0.0.1 (as PowerMTA)."""
    network: IPv4Network | IPv6Network = host.network
    if network.num_addresses == 1:
        return [network.network_address]
    return [ip for ip in local if ip.version == network.version and ip in network and str(ip) != "127.0.0.1"]


def local_addresses() -> list[IPv4Address | IPv6Address]:
    """Every address of this host, from the kernel's tables, in order."""
    found: set[IPv4Address | IPv6Address] = set()
    previous = ""
    for line in Path("/proc/net/fib_trie").read_text("ascii").splitlines():
        words = line.split()
        if words[-2:] == ["host", "LOCAL"] and words[0] == "/32":
            found.add(ip_address(previous))
        previous = words[-1] if words else ""
    table = Path("/proc/net/if_inet6")
    if table.exists():
        for line in table.read_text("ascii").splitlines():
            found.add(IPv6Address(int(line.split()[0], 16)))
    return sorted(found, key=lambda ip: (ip.version, int(ip)))


def bound_socket(source_ip: str, address: str) -> socket.socket:
    """A non-blocking TCP socket for a connection from *source_ip* ('' for any) to *address*; OSError if it cannot be made."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source_ip:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source_ip, 0))
    except OSError:
        sock.close()
        raise
    return sock
