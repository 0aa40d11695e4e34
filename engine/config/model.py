"""The configuration as the engine uses it: frozen, with look-ups whose cost does not grow with the number of sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from engine.config.lexer import Place
from engine.config.pattern import DomainMap, DomainSet, NetworkMap, client_address
from engine.config.settings import (
    AUTH_SOURCE,
    DEFAULT_VIRTUAL_MTA,
    AcctFileSettings,
    ClientSettings,
    DomainSettings,
    ServerSettings,
    SmtpUser,
    SourceGroup,
    SpoolSettings,
    VirtualMta,
    VirtualMtaPool,
)
from engine.config.slot import Slot, assign
from engine.config.values import HostSpec, ListenerSettings, SourceHost

__all__ = [
    "DEFAULT_VIRTUAL_MTA",
    "AcctFileSettings",
    "ClientSettings",
    "Config",
    "DomainScope",
    "DomainSettings",
    "Entry",
    "HostSpec",
    "ListenerSettings",
    "ServerSettings",
    "Slot",
    "SmtpUser",
    "SourceGroup",
    "SourceHost",
    "SpoolSettings",
    "VirtualMta",
    "VirtualMtaPool",
]

_CACHED_DOMAINS = 16_384
_CACHED_MERGES = 4_096
_CACHED_CLIENTS = 16_384
_NO_DOMAIN = "\0"  # what only sections for every domain match


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What one <domain> or <source> section sets, by field, and where."""

    pattern: str  # as written
    place: Place
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class DomainScope:
    """All <domain> sections of one place: the top level, a pool, a virtual MTA."""

    explicit: DomainMap[Entry] = field(default_factory=DomainMap)
    expanded: DomainMap[Entry] = field(default_factory=DomainMap)  # by macros: weaker than explicit ones of the same kind
    entries: list[Entry] = field(default_factory=list)

    def find(self, domain: str) -> list[tuple[int, Entry]]:
        """(rank, entry) of all that match, weakest first."""
        found = [(2 * rank, entry) for rank, entry in self.expanded.find(domain)]
        found += [(2 * rank + 1, entry) for rank, entry in self.explicit.find(domain)]
        found.sort(key=_rank)
        return found

    def singles_out(self, domain: str) -> bool:
        """Whether a section may match *domain* that does not match every domain."""
        return self.explicit.singles_out(domain) or self.expanded.singles_out(domain)


def _rank(item: tuple[int, Entry]) -> int:
    return item[0]


@dataclass(frozen=True, eq=False)
class Config:
    """One configuration, checked.  Look-ups are pure and cached in bounded caches."""

    server: ServerSettings
    spools: tuple[SpoolSettings, ...]
    acct_files: tuple[AcctFileSettings, ...]
    virtual_mtas: Mapping[str, VirtualMta]  # with {default}
    pools: Mapping[str, VirtualMtaPool]
    sources: NetworkMap[Entry] = field(repr=False)
    named_sources: Mapping[str, Entry] = field(repr=False)
    global_domains: DomainScope = field(repr=False)
    pool_domains: Mapping[str, DomainScope] = field(repr=False)  # by virtual MTA: those of its pool
    virtual_mta_domains: Mapping[str, DomainScope] = field(repr=False)
    smtp_users: Mapping[str, SmtpUser] = field(repr=False, default_factory=dict)
    source_groups: Mapping[str, SourceGroup] = field(repr=False, default_factory=dict)
    places: Mapping[str, Mapping[str, Place]] = field(repr=False, default_factory=dict)
    """Where a field was set, by section: "" (outside every stanza), "virtual-mta NAME", "virtual-mta-pool NAME"; domains' are in their entries."""
    client: Callable[..., ClientSettings] = field(init=False, repr=False)
    """client(ip, listener_source="", user="") -> ClientSettings: what all <source> sections that match say.

    The widest network first, then the one that the listener names; over them, once it has authenticated, {auth} and the one of its <smtp-user>,
    which alone may forbid it to relay.
    """
    domain: Callable[[str, str], DomainSettings] = field(init=False, repr=False)
    """domain(domain, vmta) -> DomainSettings: what all <domain> sections say of *domain* (lower case, A-labels) in a queue of *vmta*."""

    @property
    def spool(self) -> SpoolSettings:
        """The one that an engine which starts now delivers from: the first of those that accept; the first of all, where none does."""
        return next(iter(self.accepting_spools), self.spools[0])

    def listener(self, address: str, port: int) -> ListenerSettings:
        """The `smtp-listener` that the listening socket at *address* and *port* is of: the most specific one."""
        ip = ip_address(address)
        found = [each for each in self.server.smtp_listener if each.port == port and ip in each.network]
        return max(found, key=lambda each: each.network.prefixlen, default=ListenerSettings(ip_network(address), port))

    @property
    def accepting_spools(self) -> tuple[SpoolSettings, ...]:
        """Those that take new mail, in the order in which they are tried: the highest priority first, equals as in the file."""
        return tuple(sorted((spool for spool in self.spools if not spool.deliver_only), key=lambda spool: -spool.priority))

    def __post_init__(self) -> None:
        clients = lru_cache(maxsize=_CACHED_MERGES)(self._merge_client)

        def client(ip: str, listener_source: str = "", user: str = "") -> ClientSettings:
            login = self.login_entries(user) if user else None
            merged = clients(self.client_entries(ip, listener_source), login)
            return replace(merged, jobid_prefix=_prefix(user)) if merged.jobid_prefix == AUTH_SOURCE else merged

        domains = lru_cache(maxsize=_CACHED_MERGES)(_merge_domain)
        others = lru_cache(maxsize=_CACHED_MERGES)(lambda vmta: (self.domain_scopes(vmta), domains(self.domain_entries(_NO_DOMAIN, vmta))))

        def domain_settings(domain: str, vmta: str) -> DomainSettings:
            scopes, settings = others(vmta)
            name = _folded(domain)
            for scope in scopes:
                if scope.singles_out(name):
                    return domains(self.domain_entries(domain, vmta))
            return settings

        object.__setattr__(self, "client", lru_cache(maxsize=_CACHED_CLIENTS)(client))
        object.__setattr__(self, "domain", lru_cache(maxsize=_CACHED_DOMAINS)(domain_settings))

    def domain_scopes(self, vmta: str) -> tuple[DomainScope, ...]:
        """Where the <domain> sections stand that count for queues of *vmta*, weakest first."""
        found = [scopes[vmta] for scopes in (self.pool_domains, self.virtual_mta_domains) if vmta in scopes]
        return (self.global_domains, *found)

    def domain_entries(self, domain: str, vmta: str) -> tuple[Entry, ...]:
        """The <domain> sections that say something of *domain* in a queue of *vmta*, weakest first."""
        domain = _folded(domain)
        found = [each for scope in self.domain_scopes(vmta) for each in scope.find(domain)]
        if self.server.domain_precedence == "specific":
            found.sort(key=lambda item: item[0] // 2)  # stable: within one pattern's kind the narrower scope still wins
        return tuple(entry for _, entry in found)

    def client_entries(self, ip: str, listener_source: str) -> tuple[Entry, ...]:
        """The <source> sections that say something of a client at *ip*, come in through a listener of *listener_source*, weakest first."""
        found = [entry for _, entry in self.sources.find(client_address(ip))]
        if listener_source in self.named_sources:
            found.append(self.named_sources[listener_source])
        return tuple(found)

    def login_entries(self, user: str) -> tuple[Entry, ...]:
        """The <source> sections that say something of every client that has authenticated, and of *user*, weakest first."""
        known = self.smtp_users.get(user)
        names = dict.fromkeys((AUTH_SOURCE, known.source if known is not None else AUTH_SOURCE))
        return tuple(self.named_sources[name] for name in names if name in self.named_sources)

    def _merge_client(self, entries: tuple[Entry, ...], login: tuple[Entry, ...] | None) -> ClientSettings:
        """*login*: the sections of the user who has authenticated; None before that."""
        values: dict[str, Any] = {"always_allow_relaying": self.server.always_allow_relaying}
        for entry in entries:
            values.update(entry.values)
        if login is not None:
            values["always_allow_relaying"] = True
            for entry in login:
                values.update(entry.values)
        return ClientSettings(**values)

    @cached_property
    def relay_domains(self) -> DomainSet:
        """relay-domain as a set: `domain in config.relay_domains` costs O(labels)."""
        return DomainSet(self.server.relay_domain)

    def members(self, name: str) -> tuple[str, ...]:
        """The virtual MTAs that *name*, a virtual MTA or a pool, stands for; () if it is neither."""
        if name in self.pools:
            return self.pools[name].members
        return (name,) if name in self.virtual_mtas else ()

    def slots(self, workers: int) -> tuple[Slot, ...]:
        """Which delivery slot owns which virtual MTAs and source addresses; the position in the tuple is the slot's number.

        Some slots may own nothing: they need no process.  See `engine.config.slot.assign`.
        """
        return assign({name: tuple(host.network for host in vmta.source_hosts) for name, vmta in self.virtual_mtas.items()}, workers)

    def place(self, section: str, field: str) -> Place | None:
        """Where *section* (see `places`) sets *field*; None where it does not."""
        return self.places.get(section, {}).get(field)

    def domain_place(self, domain: str, virtual_mta: str, field: str) -> Place | None:
        """Where the value of *field* in `domain(domain, virtual_mta)` stands; None for a default."""
        found = [entry.places[field] for entry in self.domain_entries(domain, virtual_mta) if field in entry.places]
        return found[-1] if found else None


def _folded(domain: str) -> str:
    """*domain* as the patterns spell it; names in braces are no domains."""
    return domain if domain.startswith("{") else domain.lower()


def _prefix(user: str) -> str:
    """*user* as the beginning of a job ID, which has no blanks."""
    return "".join(char if "!" <= char <= "~" else "_" for char in user)


def _merge_domain(entries: tuple[Entry, ...]) -> DomainSettings:
    values: dict[str, Any] = {}
    for entry in entries:
        values.update(entry.values)
    return DomainSettings(**values)
