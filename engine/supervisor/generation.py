"""A configuration in force, the children that it wants, and who of those that live may stay.  Pure but for the memory file that children read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from engine.config import Config, Snapshot
from engine.config.diff import Facts, facts, of_accounting, of_delivery, of_listeners, of_sink
from engine.config.settings import ServerSettings, SpoolSettings
from engine.supervisor import sockets
from engine.supervisor.configuration import Options
from engine.supervisor.slots import Slot
from engine.supervisor.spawn import memory_file


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """One configuration, and what its children are born with."""

    number: int
    config: Config
    facts: Facts
    first: str  # path of the spool that mail is delivered from, for as long as the engine runs
    config_fd: int  # the snapshot, for children
    listeners: int  # processes
    delivery_workers: int  # what config.slots() is asked with
    where: list[tuple[str, int, str]]  # address, port, source to listen on
    sink: list[tuple[str, int, str]]  # likewise of the sink: no addresses of ours for the loop check, since delivering to it is its purpose
    shadow: tuple[str, int] | None  # the sink that all mail goes to instead of the world

    @property
    def listening(self) -> list[tuple[str, int]]:
        """Every address and port that the engine listens on."""
        return [(address, port) for address, port, _ in self.where]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A child that a configuration wants; *basis* is all that it lives by: a process of the same basis need not be replaced."""

    role: str
    index: int
    basis: tuple[object, ...]
    title: str = ""
    source: str = ""  # the spool, not the first one, that it serves or empties


class Succession(NamedTuple):
    """Who stays, who goes, and what is to be started instead."""

    stay: list[Slot]
    go: list[Slot]
    come: list[Wanted]


def generation(
    number: int, config: Config, snapshot: Snapshot, options: Options, workers: Callable[[int, int], tuple[int, int]], first: str = ""
) -> Generation:
    """The Generation of *config*; *first*: the spool that an engine which runs already delivers from.  StartError if it cannot run with it."""
    listeners, deliveries = workers(config.server.listener_workers, config.server.delivery_workers)
    instead = (sockets.LOOPBACK, options.sink_port) if options.shadow else None
    return Generation(
        number=number,
        config=config,
        facts=facts(config),
        first=first or config.spool.path,
        where=sockets.addresses([(each.network, each.port, each.source) for each in config.server.smtp_listener], options.port_offset),
        sink=sockets.addresses(_sink(config.server), options.port_offset) + ([(*instead, "")] if instead else []),
        shadow=instead,
        config_fd=memory_file("config", snapshot.encode()),
        listeners=listeners,
        delivery_workers=deliveries,
    )


def shadow(now: Generation) -> str:
    """Where a shadow sends all mail, `127.0.0.1:40123`; "" for an engine that is none."""
    return "{}:{}".format(*now.shadow) if now.shadow else ""


def wanted(now: Generation) -> list[Wanted]:
    """Every child that *now* wants, in start order."""
    found = [Wanted("spool", 0, ())]
    others = other_spools(now)
    for index, spool in enumerate([spool for spool in others if not spool.deliver_only], 1):
        found.append(Wanted("spool", index, (spool.path,), f"spool/{index} {spool.path}", spool.path))
    found.append(Wanted("accounting", 0, (of_accounting(now.facts),)))
    owned = now.config.slots(now.delivery_workers)
    everybody = tuple(sorted(now.config.virtual_mtas))
    for index, slot in enumerate(owned):
        if slot.virtual_mtas:
            basis = (index, slot, everybody if index == 0 else (), now.listening, of_delivery(now.facts, now.config, slot.virtual_mtas, index == 0))
            found.append(Wanted("delivery", index, basis, " ".join([f"delivery/{index}", *slot.source_ips[:8]])))
    kept = [spool.min_free_space_bytes for spool in now.config.spools if spool.path == now.first]
    found += [Wanted("mover", index, (spool.path, *kept), f"mover/{index} {spool.path}", spool.path) for index, spool in enumerate(others)]
    of_each = (now.listeners, now.where, of_listeners(now.facts))
    found += [Wanted("listener", index, of_each) for index in range(now.listeners)]
    return found + ([Wanted("sink", 0, (now.sink, of_sink(now.facts)))] if now.sink else [])


def other_spools(now: Generation) -> list[SpoolSettings]:
    """All but the first, each with a mover.  What lies in a deliver-only spool is real: a shadow leaves it there."""
    return [spool for spool in now.config.spools if spool.path != now.first and not (spool.deliver_only and now.shadow)]


def _sink(server: ServerSettings) -> list[tuple[sockets.Network, int, str]]:
    return [(ip_network(server.dummy_smtp_ip or "0.0.0.0/0"), server.dummy_smtp_port, "")] if server.dummy_smtp_port else []


def succession(living: Iterable[Slot], now: Generation) -> Succession:
    """Who of *living* stays under *now*.

    Whose basis changed goes, and the new ones of a role come beside them (listeners) or after them.
    """
    current = [slot for slot in living if not slot.retiring]
    stay, come = [], []
    for each in wanted(now):
        found = next((slot for slot in current if slot.role == each.role and slot.basis == each.basis and slot not in stay), None)
        if found is None:
            come.append(each)
        else:
            stay.append(found)
    return Succession(stay, [slot for slot in current if slot not in stay], come)


def free(taken: Iterable[int]) -> int:
    """The smallest number that is not *taken*."""
    used = set(taken)
    return next(number for number in range(len(used) + 1) if number not in used)
