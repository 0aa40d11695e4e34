"""Binds the listening sockets: one with SO_REUSEPORT per listener slot and address, so that what waits in a dead worker's socket is served by
its successor."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.errors import StartError
from engine.process import ListenSocket

BACKLOG = 4096
LOOPBACK = "127.0.0.1"
EVERYWHERE = {4: "0.0.0.0", 6: "::"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def local_addresses() -> list[Address]:
    """Every address of this machine that a program can bind to, link-local ones left out."""
    found: list[Address] = []
    candidate = ""
    for line in Path("/proc/net/fib_trie").read_text().splitlines():
        words = line.split()
        if words and words[0] == "|--":
            candidate = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.append(ipaddress.IPv4Address(candidate))
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except FileNotFoundError:  # IPv6 is off
        lines = []
    found += [ipaddress.IPv6Address(int(line.split()[0], 16)) for line in lines]
    return [address for address in dict.fromkeys(found) if not address.is_link_local]


def expand(network: Network) -> list[str]:
    """The addresses to bind for a listener's CIDR: the wildcard for /0, the address itself for a single one, else every local address in it."""
    if network.prefixlen == 0:
        return [EVERYWHERE[network.version]]
    if network.num_addresses == 1:
        return [str(network.network_address)]
    inside = [str(address) for address in local_addresses() if address in network]
    if not inside:
        raise StartError(f"smtp-listener {network}: this machine has no address in it")
    return inside


def addresses(listeners: Iterable[tuple[Network, int, str]], port_offset: int) -> list[tuple[str, int, str]]:
    """(address, port, source) to listen on, each once; the most specific listener decides the source."""
    wanted: dict[tuple[str, int], str] = {}
    for network, port, source in sorted(listeners, key=lambda listener: -listener[0].prefixlen):
        if not 0 < port + port_offset < 65536:
            raise StartError(f"smtp-listener port {port} with offset {port_offset} is not a port: choose a smaller offset")
        for address in expand(network):
            wanted.setdefault((address, port + port_offset), source)
    return [(address, port, source) for (address, port), source in wanted.items()]


def bind(where: list[tuple[str, int, str]], slots: int, held: Sequence[ListenSocket] = ()) -> list[list[ListenSocket]]:
    """For each of *slots* listener slots its own listening sockets, one per place or more.

    Of the sockets *held* already, those of a place that stays are handed on whatever the number of slots: what waits in them is nobody's else.
    StartError says which port cannot be had, and what to do; then nothing has been bound.
    """
    rows: list[list[ListenSocket]] = [[] for _ in range(slots)]
    places = {(address, port) for address, port, _ in where}
    fresh: list[int] = []
    try:
        for address, port, source in where:
            ours = [old.fd for old in held if (old.address, old.port) == (address, port)]
            if not any(old.port == port for old in held):
                # alone, without SO_REUSEPORT, or another program with our uid would share the port unnoticed
                _open(address, port, shared=False).close()
            while len(ours) < slots:
                ours.append(_open(address, port, shared=True).detach())
                fresh.append(ours[-1])
            row = [ListenSocket(fd, address, port, source) for fd in ours]
            covered = [old for old in held if old.port == port and _within(old.address, address, places, port)]
            row += [ListenSocket(old.fd, old.address, port, source) for old in covered]
            for number, listening in enumerate(row):
                rows[number % slots].append(listening)
    except StartError:
        for fd in fresh:
            os.close(fd)
        raise
    return rows


def on_loopback() -> ListenSocket:
    """A listening socket on LOOPBACK, at a port that the kernel has chosen."""
    opened = _open(LOOPBACK, 0, shared=True)
    port: int = opened.getsockname()[1]
    return ListenSocket(opened.detach(), LOOPBACK, port)


def _within(old: str, everywhere: str, places: set[tuple[str, int]], port: int) -> bool:
    """Whether the address *old* is listened on no more by itself, but as part of *everywhere*: its socket stays, for those who wait in it."""
    return everywhere == EVERYWHERE[6 if ":" in old else 4] and (old, port) not in places


def _open(address: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((address, port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise StartError(why_not(address, port, error)) from error
    return opened


def why_not(address: str, port: int, error: OSError) -> str:
    """One sentence for an operator: which port, why, what to do."""
    place = f"cannot listen on {f'[{address}]' if ':' in address else address} port {port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place}: another program listens there (see `ss -ltnp sport = :{port}`); stop it, change smtp-listener, or use --port-offset"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{place}: ports below 1024 need privilege; start as root (the workers drop it), give the capability CAP_NET_BIND_SERVICE, "
            f"or try it with other ports: make start PORT_OFFSET=10000"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place}: this machine does not have that address; configure it or change smtp-listener"
    return f"{place}: {error.strerror}"
