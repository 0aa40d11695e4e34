"""Which delivery slot owns which virtual MTAs and source addresses.

A slot owns whole connected components of the graph virtual MTA - source address, so that no queue and no address has two owners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.config.pattern import Network


@dataclass(frozen=True, slots=True)
class Slot:
    """What one delivery process owns; nothing at all is possible."""

    virtual_mtas: tuple[str, ...] = ()
    source_ips: tuple[str, ...] = ()  # addresses and CIDRs


def assign(virtual_mtas: Mapping[str, Sequence[Network]], workers: int) -> tuple[Slot, ...]:
    """At most *workers* slots (at least one) that together own every virtual MTA exactly once.

    Where a component goes depends on nothing but its own smallest address and *workers*: adding an address or a virtual MTA moves
    nothing that it does not touch.  Neighbouring addresses go to different slots.  Virtual MTAs without addresses share one component, in slot 0.
    """
    workers = max(1, workers)
    owned: list[list[tuple[list[str], list[Network]]]] = [[] for _ in range(workers)]
    for names, networks in components(virtual_mtas):
        owned[_preferred(networks) % workers].append((names, networks))
    slots = [
        Slot(
            tuple(sorted(name for names, _ in group for name in names)),
            tuple(
                str(n.network_address) if n.prefixlen == n.max_prefixlen else str(n) for n in sorted((n for _, ns in group for n in ns), key=_order)
            ),
        )
        for group in owned
    ]
    while len(slots) > 1 and not slots[-1].virtual_mtas:
        slots.pop()
    return tuple(slots)


def components(virtual_mtas: Mapping[str, Sequence[Network]]) -> list[tuple[list[str], list[Network]]]:
    """(virtual MTAs, their networks) for each set that shares addresses, CIDRs that overlap included; networks in order, each once."""
    parent: dict[object, object] = {}

    def root(node: object) -> object:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    anywhere = object()  # the node that virtual MTAs without addresses share
    for name, networks in virtual_mtas.items():
        for node in networks or (anywhere,):
            parent[root(name)] = root(node)
    every = sorted({network for networks in virtual_mtas.values() for network in networks}, key=_order)
    around: list[Network] = []  # networks that hold the one looked at, widest first
    for network in every:
        while around and not (around[-1].version == network.version and network.network_address in around[-1]):
            around.pop()
        if around:
            parent[root(network)] = root(around[-1])
        around.append(network)
    found: dict[object, tuple[list[str], list[Network]]] = {}
    for name in virtual_mtas:
        found.setdefault(root(name), ([], []))[0].append(name)
    for network in every:
        found[root(network)][1].append(network)
    return list(found.values())


def _order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _preferred(networks: list[Network]) -> int:
    """A number for a component.

    The sum of an address's bytes tells neighbours apart, whichever byte they differ in; a hash would put half of them together.
    """
    return sum(networks[0].network_address.packed) if networks else 0
