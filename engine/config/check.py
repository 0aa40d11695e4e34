"""What is wrong with a configuration as a whole: names that lead nowhere, open relays, settings that fight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine.config.lexer import Place
from engine.config.model import Config, DomainScope, Entry
from engine.config.parser import Section
from engine.config.pattern import parse_network
from engine.config.problem import Problems
from engine.config.reading import Values
from engine.config.settings import BY_SMTP_SOURCE_IP, DEFAULT_VIRTUAL_MTA
from engine.config.values import did_you_mean

_NOBODYS = ("zq@zq.invalid", "~@~.xn--zckzah")  # what matches both matches every address
Later = Mapping[str, list[tuple[Place, Any]]]


def check(
    config: Config, top: Section, server: Values, sources: list[Entry], pools: Mapping[str, DomainScope], later: Later, problems: Problems
) -> None:
    """Reports to *problems* all that only the whole configuration shows."""
    _references(config, top, server, sources, problems)
    _open_relay(config, server, sources, problems)
    _cold(later, problems)
    _precedence(config, top, pools, problems)
    _reserved(config, top, server, problems)
    if config.spools and all(spool.deliver_only for spool in config.spools):
        problems.warning(top.place, "every <spool> is deliver-only: no mail will be accepted")


def _references(config: Config, top: Section, server: Values, sources: list[Entry], problems: Problems) -> None:
    known = {DEFAULT_VIRTUAL_MTA, BY_SMTP_SOURCE_IP, *config.virtual_mtas, *config.pools}
    for entry in sources:
        name = entry.values.get("default_virtual_mta")
        if name is not None and name not in known:
            problems.error(
                entry.places["default_virtual_mta"],
                f"default-virtual-mta: neither a virtual MTA nor a pool is named {name!r}{did_you_mean(name, known)}",
                risk="unknown virtual MTA",
            )
    name = config.server.invalid_virtual_mta_fallback
    if name and name not in known - {BY_SMTP_SOURCE_IP}:
        place = server.places["invalid_virtual_mta_fallback"]
        problems.error(place, f"invalid-virtual-mta-fallback: neither a virtual MTA nor a pool is named {name!r}{did_you_mean(name, known)}")
    named = [
        (listener.source, place)
        for listener, place in zip(server.values.get("smtp_listener", ()), server.all_places.get("smtp_listener", ()), strict=False)
    ]
    for section in top.sections:
        if section.tag == "smtp-listener":
            named += [(statement.argument.strip('"'), statement.place) for statement in section.statements if statement.name == "source"]
    for name, place in named:
        if name and name not in config.named_sources:
            problems.error(place, f"no <source {name}> is defined{did_you_mean(name, config.named_sources)}")


def _open_relay(config: Config, server: Values, sources: list[Entry], problems: Problems) -> None:
    risk = "open relay"
    everybody = [entry for entry in sources if _is_everybody(entry.pattern)]
    login = any(entry.values.get("require_auth") for entry in everybody)
    if server.values.get("always_allow_relaying") and not login:
        problems.warning(server.places["always_allow_relaying"], "an open relay: always-allow-relaying here lets everybody send to everybody", risk)
    listened = {listener.source for listener in config.server.smtp_listener if not listener.network.is_loopback}
    for entry in sources:
        if not entry.values.get("always_allow_relaying") or login or entry.values.get("require_auth"):
            continue
        if entry in everybody:
            text = f"an open relay: <source {entry.pattern}> is everybody"
            problems.warning(entry.places["always_allow_relaying"], text, risk)
        elif entry.pattern in listened:
            text = f"an open relay to whoever reaches a listener with source={entry.pattern}"
            problems.warning(entry.places["always_allow_relaying"], text, risk)
    for pattern, place in zip(server.values.get("relay_address", ()), server.all_places.get("relay_address", ()), strict=True):
        if all(pattern.matches(address) for address in _NOBODYS):
            problems.warning(place, f"an open relay: relay-address {pattern} is everybody", risk)


def _is_everybody(pattern: str) -> bool:
    try:
        return parse_network(pattern).prefixlen == 0
    except ValueError:
        return False


def _reserved(config: Config, top: Section, server: Values, problems: Problems) -> None:
    """Groups that leave nothing of total-max-smtp-in to anybody else."""
    reserved = sum(group.reserved_smtp_in for group in config.source_groups.values())
    if reserved >= config.server.total_max_smtp_in:
        place = server.places.get("total_max_smtp_in", top.place)
        text = f"the groups reserve {reserved} connections (reserved-smtp-in), and total-max-smtp-in is {config.server.total_max_smtp_in}"
        problems.error(place, f"{text}: no other client could connect")


def _cold(later: Later, problems: Problems) -> None:
    """A cold virtual MTA gets mail only where max-cold-virtual-mta-msg is set: either alone does nothing."""
    limited = [place for place, words in later.get("max-cold-virtual-mta-msg", []) if any(not word.startswith("0") for word in words)]
    if limited:
        for name in ("cold-virtual-mta", "auto-cold-virtual-mta"):
            for place, _ in later.get(name, []):
                problems.error(place, f"{name} is not supported yet, and starting without it would send all mail through the warm virtual MTA")


def _old_listener(server: Values, top: Section, later: Later, problems: Problems) -> None:
    """smtp-ip and smtp-port count only where there is no smtp-listener."""
    if "smtp_listener" in server.places or any(section.tag == "smtp-listener" for section in top.sections):
        return
    for name in ("smtp-ip", "smtp-port"):
        for place, _ in later.get(name, []):
            problems.error(place, f"{name} is not supported, and starting without it would listen elsewhere: use smtp-listener ADDRESS:PORT")


LIMITS = frozenset(
    {f"{prefix}max-{what}" for prefix in ("", "backoff-") for what in ("smtp-out", "msg-rate", "connect-rate", "data-volume-rate", "msg-per-hour")}
    | {"max-smtp-out-per-source-ip", "max-msg-per-connection", "max-rcpt-per-message", "smtp-out-rampup-interval", "max-cold-virtual-mta-msg"}
)
"""The directives of <domain> that bound how much mail goes out, or how fast."""


def _precedence(config: Config, top: Section, pools: Mapping[str, DomainScope], problems: Problems) -> None:
    """Warns where a narrower scope's wide <domain> and a wider scope's specific one set the same thing differently."""
    specific = config.server.domain_precedence == "specific"
    stanzas = {section.place: section for section in _domain_sections(top)}
    wider = _Wider(config.global_domains, stanzas)
    for scope in pools.values():
        _compare(scope, wider, specific, problems)
    by_scope: dict[int, _Wider] = {}
    for name, scope in config.virtual_mta_domains.items():
        _compare(scope, wider, specific, problems)
        if pool := config.pool_domains.get(name):
            _compare(scope, by_scope.setdefault(id(pool), _Wider(pool, stanzas)), specific, problems)


def _domain_sections(top: Section) -> Iterator[Section]:
    for section in top.sections:
        if section.tag == "domain":
            yield section
        elif section.tag in ("virtual-mta", "virtual-mta-pool"):
            yield from (inner for inner in section.sections if inner.tag == "domain")


class _Wider:
    """The sections of a wider scope by what they set, asked for the first below a pattern that says something else."""

    def __init__(self, scope: DomainScope, stanzas: Mapping[Place, Section]) -> None:
        self._stanzas = stanzas
        self._by_name: dict[str, list[tuple[Entry, Any, Place]]] = {}
        for entry in scope.entries:
            for name, (value, place) in self.said(entry).items():
                self._by_name.setdefault(name, []).append((entry, value, place))
        self._known: dict[tuple[str, str, Any], tuple[tuple[Entry, Any, Place] | None, int]] = {}

    def said(self, entry: Entry) -> dict[str, tuple[Any, Place]]:
        """What *entry* sets, by directive: what works by its value, a limit that does not work yet by its text."""
        found = {name.removesuffix("_s").replace("_", "-"): (value, entry.places[name]) for name, value in entry.values.items()}
        for statement in self._stanzas[entry.place].statements if entry.place in self._stanzas else ():
            if statement.name in LIMITS and statement.name not in found:
                found[statement.name] = (statement.argument.lower(), statement.place)
        return found

    def against(self, pattern: str, name: str, value: Any) -> tuple[tuple[Entry, Any, Place] | None, int]:
        """The first section below *pattern* that sets *name* to something else, and how many there are."""
        key = (pattern, name, value)
        if key not in self._known:
            below = _below(pattern)
            fighting = [found for found in self._by_name.get(name, ()) if found[1] != value and below(found[0].pattern)]
            self._known[key] = (fighting[0] if fighting else None, len(fighting))
        return self._known[key]


def _below(pattern: str) -> Callable[[str], bool]:
    """Whether another pattern is more specific than *pattern* and lies in it; macros are compared as they are written."""
    if pattern == "*":
        return lambda other: other != "*"
    if pattern.startswith(("*.", "[*.]")):
        suffix = "." + pattern.split(".", 1)[1].removeprefix("]").lower()
        return lambda other: other != pattern and other.lower().endswith(suffix)
    return lambda other: False


def _compare(scope: DomainScope, wider: _Wider, specific: bool, problems: Problems) -> None:
    for entry in scope.entries:
        for name, (value, here) in wider.said(entry).items():
            other, how_many = wider.against(entry.pattern, name, value)
            if other is None:
                continue
            there = other[2]
            more = f" (and {how_many - 1} more)" if how_many > 1 else ""
            rule = f"<domain {other[0].pattern}> in {there.file}:{there.line}{more}"
            verdict = f"{rule} wins, being more specific" if specific else f"this wins over {rule}, its scope being narrower"
            risk = "scope against specificity" if name in LIMITS else ""
            problems.warning(here, f"{name} of <domain {entry.pattern}>: {verdict}; domain-precedence decides", risk)
