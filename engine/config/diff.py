"""What a configuration says as a flat table, and what of it another one says otherwise.  Pure.

`facts` is the table: one row per setting that is given (and per default that holds for the whole engine), as an operator would write it.  `diff`
compares two of them; `of_listeners`, `of_delivery` and `of_accounting` are the rows that a role lives by: a process whose rows stay need not go.
"""

from __future__ import annotations

import dataclasses
import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from engine.config.model import Config, DomainScope, Entry
from engine.config.settings import (
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
from engine.config.stanza import STANZAS, TOP
from engine.config.values import HostSpec, ListenerSettings, SourceHost
from engine.units import Rate, format_seconds, format_size

NOTHING = "-"
_SECRETS = frozenset({"password", "privacy_policy"})
_TELLING_APART = secrets.token_bytes(16)  # two passwords, without showing anything of them: of this process alone


class Fact(NamedTuple):
    """What is said of what: ("domain", "example.org in pool1", "max-smtp-out")."""

    kind: str  # "server", "listener", "spool", "source", "source-group", "smtp-user", "virtual-mta", "ip", "virtual-mta-pool", "domain", "acct-file"
    name: str
    setting: str


class Change(NamedTuple):
    """A fact that two configurations see differently; NOTHING where one of them does not mention it."""

    fact: Fact
    before: str
    after: str

    def __str__(self) -> str:
        what = " ".join(filter(None, self.fact)) if self.fact.kind != "server" else self.fact.setting
        return f"{what}: {self.before} -> {self.after}"


Facts = Mapping[Fact, str]

RESTARTS = {"user", "log-file", "control-group", "log-file-world-readable"}  # of the server's: processes that stay were born with them
_DELIVER_ONLY = "deliver-only"
_YES = "yes"
_OF_SUPERVISOR = {"listener-workers", "shutdown-timeout", "run-as-root"}
_OF_LISTENERS = {"total-max-smtp-in", "relay-domain", "relay-address", "always-allow-relaying", "dsn-for-relayed-domain", "postmaster"}
_OF_DELIVERY = {"total-max-smtp-out", "domain-precedence", "delivery-workers"}
_OF_SENDING = {"max-smtp-out", "include-headers-from", "included-headers"}  # of a virtual MTA's and a pool's: nothing to a listener
_OF_ACCOUNTING = {"log-auto-rotation", "log-rotate", "track-time-first-attempt"}
_DUMMY = "dummy-smtp"
_TLS_IN = "smtp-server-tls-"
_NOT_LISTENERS = RESTARTS | _OF_SUPERVISOR | _OF_DELIVERY | _OF_ACCOUNTING  # what is in no set concerns both
_NOT_DELIVERY = RESTARTS | _OF_SUPERVISOR | _OF_LISTENERS | _OF_ACCOUNTING


def facts(config: Config) -> dict[Fact, str]:
    """All that *config* says."""
    return dict(_facts(config))


def diff(before: Facts, after: Facts) -> list[Change]:
    """What is said otherwise in *after*, in the order of the tables; what went comes last."""
    changes = [Change(fact, before.get(fact, NOTHING), text) for fact, text in after.items() if before.get(fact) != text]
    changes += [Change(fact, text, NOTHING) for fact, text in before.items() if fact not in after]
    return changes


def needs_restart(changes: Iterable[Change], first: str) -> list[Change]:
    """Those of *changes* that no reload can make: what every process was born with, the *first* spool's place, and which spools only deliver."""
    spools = [change for change in changes if change.fact.kind == "spool"]
    fixed = {change.fact.name for change in spools if change.fact.setting == _DELIVER_ONLY and _YES in (change.before, change.after)} | {first}
    return [change for change in changes if change.fact.kind == "server" and change.fact.setting in RESTARTS] + [
        change for change in spools if change.fact.setting in ("", _DELIVER_ONLY) and change.fact.name in fixed
    ]


def of_listeners(every: Facts) -> Facts:
    """What a listener process goes by, the places that it listens on aside."""
    kinds = {"source", "source-group", "smtp-user", "spool", "virtual-mta", "ip", "virtual-mta-pool"}
    return _those(
        every,
        lambda fact: (
            (fact.kind in kinds and fact.setting not in _OF_SENDING)
            or (fact.kind == "listener" and bool(fact.setting))
            or _of_server(fact, _NOT_LISTENERS)
        ),
    )


def of_delivery(every: Facts, config: Config, virtual_mtas: Iterable[str], fallback: bool) -> Facts:
    """What the delivery process of *virtual_mtas* goes by.  The *fallback* also has the queues of all that are configured no more."""
    ours = set(virtual_mtas)
    pools = {name for name, pool in config.pools.items() if not ours.isdisjoint(pool.members)}

    def wanted(fact: Fact) -> bool:
        kind, name, setting = fact
        if kind == "server":
            return _of_server(fact, _NOT_DELIVERY)
        if kind == "virtual-mta":
            return name in ours or (fallback and not setting)
        if kind == "ip":
            return name in ours
        if kind == "virtual-mta-pool":
            return name in pools and setting != "virtual-mta"
        if kind == "domain":
            scope = name.partition(" in ")[2]
            return not scope or scope in ours or scope in pools
        return kind == "listener" and not setting  # a listener's address and port are no destination

    return _those(every, wanted)


def of_accounting(every: Facts) -> Facts:
    """What the accounting process goes by."""
    return _those(every, lambda fact: fact.kind == "acct-file" or fact.setting in _OF_ACCOUNTING)


def of_sink(every: Facts) -> Facts:
    """What the built-in sink goes by."""
    return _those(every, lambda fact: fact.kind == "server" and fact.setting.startswith(_DUMMY))


def _of_server(fact: Fact, leave: set[str]) -> bool:
    if fact.setting.startswith(_TLS_IN):
        return fact.kind == "server" and leave is _NOT_LISTENERS
    return fact.kind == "server" and fact.setting not in leave and not fact.setting.startswith(_DUMMY)


def _those(every: Facts, wanted: Callable[[Fact], bool]) -> Facts:
    return {fact: text for fact, text in every.items() if wanted(fact)}


def _facts(config: Config) -> Iterator[tuple[Fact, str]]:
    for setting, text in _settings(ServerSettings, TOP, config.server, leave={"smtp_listener"}):
        yield Fact("server", "", setting), text
    for listener in config.server.smtp_listener:
        yield Fact("listener", f"{_network(listener.network)}:{listener.port}", ""), f"source={listener.source}" if listener.source else "yes"
        for setting, text in _tls_of(listener):
            yield Fact("listener", f"{_network(listener.network)}:{listener.port}", setting), text
    for spool in config.spools:
        yield Fact("spool", spool.path, ""), "yes"
        for setting, text in _settings(SpoolSettings, "spool", spool, leave={"path"}):
            yield Fact("spool", spool.path, setting), text
    yield from _entries("source", "", config.sources.items(), ClientSettings)
    yield from _entries("source", "", config.named_sources.items(), ClientSettings)
    for name, group in config.source_groups.items():
        yield Fact("source-group", name, ""), "yes"
        for setting, text in _settings(SourceGroup, "source-group", group, leave={"name"}):
            yield Fact("source-group", name, setting), text
    for name, user in config.smtp_users.items():
        yield Fact("smtp-user", name, ""), "yes"
        for setting, text in _settings(SmtpUser, "smtp-user", user, leave={"name", "password_file"}):
            yield Fact("smtp-user", name, setting), text
    for name, vmta in config.virtual_mtas.items():
        yield Fact("virtual-mta", name, ""), "yes"
        for setting, text in _settings(VirtualMta, "virtual-mta", vmta, leave={"name", "source_hosts"}):
            yield Fact("virtual-mta", name, setting), text
        for host in vmta.source_hosts:
            yield Fact("ip", name, _network(host.network)), host.host_name or "yes"
    for name, pool in config.pools.items():
        yield Fact("virtual-mta-pool", name, ""), "yes"
        for setting, text in _settings(VirtualMtaPool, "virtual-mta-pool", pool, leave={"name"}):
            yield Fact("virtual-mta-pool", name, setting), text
    for suffix, scope in _scopes(config):
        yield from _entries("domain", suffix, [*scope.expanded.items(), *scope.explicit.items()], DomainSettings)
    for acct in config.acct_files:
        yield Fact("acct-file", acct.path, ""), "yes"
        for setting, text in _settings(AcctFileSettings, "acct-file", acct, leave={"path"}):
            yield Fact("acct-file", acct.path, setting), text


def _tls_of(listener: ListenerSettings) -> Iterator[tuple[str, str]]:
    if listener.immediate_tls:
        yield "immediate-tls", "yes"
    if listener.proxies:
        yield "proxy-protocol-from", ", ".join(map(_network, listener.proxies))
    if listener.tls is not None:
        yield from ((f"tls {name}", written("", value)) for name, value in listener.tls._asdict().items())


def _scopes(config: Config) -> Iterator[tuple[str, DomainScope]]:
    """Every scope of <domain> sections once, and what names it behind a domain."""
    yield "", config.global_domains
    seen: set[int] = set()
    for vmta, scope in config.pool_domains.items():
        if id(scope) not in seen:
            seen.add(id(scope))
            pool = next((name for name, pool in config.pools.items() if vmta in pool.members), vmta)
            yield f" in {pool}", scope
    for vmta, scope in config.virtual_mta_domains.items():
        yield f" in {vmta}", scope


def _entries(kind: str, suffix: str, entries: Iterable[tuple[str, Entry]], settings: type) -> Iterator[tuple[Fact, str]]:
    """What the sections of one pattern set together: of the same setting the last one counts."""
    names = _names(settings, kind)
    for pattern, entry in entries:
        yield Fact(kind, pattern + suffix, ""), "yes"
        for field, value in entry.values.items():
            yield Fact(kind, pattern + suffix, names.get(field, field)), written(field, value)


def _settings(settings: type, tag: str, values: Any, leave: set[str]) -> Iterator[tuple[str, str]]:
    names = _names(settings, tag)
    for field in dataclasses.fields(settings):
        if field.name not in leave:
            yield names.get(field.name, field.name.replace("_", "-")), written(field.name, getattr(values, field.name))


def _names(settings: type, tag: str) -> dict[str, str]:
    """The directive of each field; aliases follow the directive that they stand for."""
    return {row.field: row.name for row in reversed(STANZAS[tag].directives.values()) if row.field}


def written(field: str, value: Any) -> str:
    """*value* of *field*, much as an operator would write it; values that differ are written differently."""
    if field in _SECRETS:
        digest = hmac.digest(_TELLING_APART, str(value).encode(), "sha256").hex()[:8]
        return f"(hidden {digest})" if value else "none"
    if value is None or value is False:
        return "no"
    if value is True:
        return "yes"
    if isinstance(value, float):
        return format_seconds(int(value)) if value == int(value) else f"{value:g}s"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {written('', each)}" for key, each in sorted(value.items())) or "none"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        between = ";" if any(isinstance(each, tuple) for each in value) else ","
        return between.join(written("", each) for each in value) or "none"
    if isinstance(value, HostSpec):
        name = f"[{value.host}]" if value.literal else value.host
        return f"{'lookup-mx:' if value.lookup_mx else ''}{name}{f':{value.port}' if value.port else ''}"
    if isinstance(value, Rate):
        return f"{value.amount}/{value.period_s}s"
    if isinstance(value, SourceHost):
        return f"{_network(value.network)} {value.host_name}".rstrip()
    if isinstance(value, ListenerSettings):
        return f"{_network(value.network)}:{value.port} {value.source}".rstrip()
    if field.endswith("_bytes") and isinstance(value, int):
        return format_size(value)
    return str(value)


def _network(network: Any) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)
