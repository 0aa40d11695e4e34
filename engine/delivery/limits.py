"""Effective limits in the operator's words, each with the line that set it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from engine.config.directive import rows_of
from engine.config.lexer import Place
from engine.config.model import Config
from engine.config.settings import DomainSettings
from engine.config.values import HostSpec
from engine.control.views import Limit
from engine.units import format_seconds, format_size

_NAMES = {row.field: row.name for row in reversed(list(rows_of(DomainSettings)))}  # aliases follow their directive


def of_domain(config: Config, domain: str, vmta: str, field: str) -> Limit:
    """What `config.domain(domain, vmta)` has in *field*, and from where."""
    value = getattr(config.domain(domain, vmta), field)
    return Limit(_NAMES[field], written(field, value), _shown(config.domain_place(domain, vmta, field)))


def every(config: Config, domain: str, vmta: str) -> list[Limit]:
    """All that is in force for a queue, those that the configuration gives first."""
    found = [of_domain(config, domain, vmta, field.name) for field in dataclasses.fields(DomainSettings) if field.name in _NAMES]
    found.append(virtual_mta(config, vmta))
    found.append(total_out(config))
    return sorted(found, key=lambda limit: not limit.place)


def as_they_stand(config: Config, queue: str, limits: Iterable[Limit]) -> list[Limit]:
    """*limits* of *queue* ("domain/vmta") with the lines in *config* that say the same; one of which it says something else stays as it is.

    A process that a reload leaves alone names the lines of the file with which it was started.
    """
    domain, _, vmta = queue.rpartition("/")
    now = {(limit.name, limit.value): limit for limit in every(config, domain, vmta)}
    return [now.get((limit.name, limit.value), limit) for limit in limits]


def virtual_mta(config: Config, vmta: str) -> Limit:
    """max-smtp-out of a virtual MTA: its own, or the smallest of its pools."""
    settings = config.virtual_mtas.get(vmta)
    value = settings.max_smtp_out if settings is not None else 0
    place = config.place(f"virtual-mta {vmta}", "max_smtp_out")
    if place is None and value:
        for pool in config.pools.values():
            if vmta in pool.members and pool.max_smtp_out == value:
                where = config.place(f"virtual-mta-pool {pool.name}", "max_smtp_out")
                return Limit(f"max-smtp-out of virtual-mta-pool {pool.name}", written("max_smtp_out", value), _shown(where))
    return Limit(f"max-smtp-out of virtual-mta {vmta}", written("limit", value), _shown(place))


def total_out(config: Config) -> Limit:
    """total-max-smtp-out."""
    return Limit("total-max-smtp-out", str(config.server.total_max_smtp_out), _shown(config.place("", "total_max_smtp_out")))


def written(field: str, value: Any) -> str:
    """*value* of *field* as an operator would write it."""
    if value is None or value is False:
        return "no"
    if value is True:
        return "yes"
    if isinstance(value, float):
        return format_seconds(int(value)) if value == int(value) else f"{value:g}s"
    if isinstance(value, tuple):
        if field == "smtp_hosts":
            return ";".join(",".join(_host(host) for host in group) for group in value) or "none"
        return ",".join(written("", each) for each in value) or "none"
    if field.endswith("_bytes"):
        return format_size(value)
    if value == 0 and isinstance(value, int):
        return "unlimited" if field in _UNLIMITED else "0"
    return str(value)


_UNLIMITED = {"limit", "max_msg_per_connection", "max_errors_per_connection"}  # where 0 is no limit


def _host(host: HostSpec) -> str:
    name = f"[{host.host}]" if host.literal else host.host
    return f"{'lookup-mx:' if host.lookup_mx else ''}{name}{f':{host.port}' if host.port else ''}"


def _shown(place: Place | None) -> str:
    return f"{place.file}:{place.line}" if place is not None else ""
