"""What of TLS only the whole configuration shows: where the files lie, what a listener adds to the server's settings, which files are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.config.problem import Problems
from engine.config.reading import Values
from engine.config.settings import DomainSettings
from engine.config.snapshot import resolve
from engine.config.tls import NO_PEM, VERSIONS, ClientTls, PemFile, ServerTls
from engine.config.values import ListenerSettings

if TYPE_CHECKING:
    from engine.config.model import Config

_ALLOW = {"allow_" + version.lower().replace(".", "_"): version for version in VERSIONS}


def absolute(values: Values) -> Values:
    """*values* with the paths of certificates and authorities relative to the file that names them."""
    for name, value in values.values.items():
        if isinstance(value, PemFile):
            values.values[name] = value._replace(path=value.path and resolve(values.places[name].file, value.path))
        elif isinstance(value, tuple) and value and isinstance(value[0], PemFile):
            places = values.all_places[name]
            named = [(pem, place) for pem, place in zip(value, places, strict=True) if pem.path]
            values.values[name] = tuple(pem._replace(path=resolve(place.file, pem.path)) for pem, place in named)
        elif name.endswith("tls_ca_file") and value:
            values.values[name] = resolve(values.places[name].file, value)
    return values


def of_listener(own: dict[str, Any], server: ServerTls) -> ServerTls | None:
    """The settings of a listener that says *own* (by field), the server's where it says nothing; None: the server's in everything."""
    said = {name.removeprefix("tls_"): value for name, value in own.items() if name.startswith("tls_")}
    if not said:
        return None
    allowed = tuple(version for field, version in _ALLOW.items() if said.get(field, version in server.versions))
    return ServerTls(said.get("certificate", server.certificates), allowed, said.get("ciphers", server.ciphers), said.get("ca_file", server.ca_file))


def with_tls(listener: ListenerSettings, server: ServerTls) -> ServerTls:
    """What *listener* offers."""
    return server if listener.tls is None else listener.tls


def check_tls(config: Config, server: Values, problems: Problems) -> None:
    """Reports what cannot work."""
    offered = config.server.tls
    place = next(iter(server.places.values())) if server.places else None
    if place is None:
        return
    if not offered.versions:
        problems.error(server.places.get("smtp_server_tls_allow_tlsv1_2", place), "smtp-server-tls-allow-...: no version of TLS is allowed")
    for listener in config.server.smtp_listener:
        if listener.immediate_tls and not with_tls(listener, offered).certificates:
            where = f"<smtp-listener {listener.network}:{listener.port}>"
            problems.error(place, f"{where} says immediate-tls, and there is no certificate: smtp-server-tls-certificate FILE names one")
    for entry in every_source(config):
        if entry.values.get("allow_starttls") and not any(with_tls(listener, offered).certificates for listener in config.server.smtp_listener):
            said = "allow-starttls changes nothing without a certificate: smtp-server-tls-certificate FILE names one"
            problems.warning(entry.places["allow_starttls"], said)
    for entry in every_domain(config):
        if entry.values.get("require_starttls") and entry.values.get("use_starttls") is False:
            problems.warning(entry.places["require_starttls"], "require-starttls true counts, and use-starttls false does not")


def every_source(config: Config) -> Iterator[Any]:
    """Every <source> entry."""
    yield from (entry for _, entry in config.sources.items())
    yield from config.named_sources.values()


def every_domain(config: Config) -> Iterator[Any]:
    """Every <domain> entry, wherever it stands."""
    yield from config.global_domains.entries
    for scopes in (config.pool_domains, config.virtual_mta_domains):
        for scope in scopes.values():
            yield from scope.entries


def every_policy(config: Config) -> list[ClientTls]:
    """What each <domain> entry alone says; merged ones combine the same files, versions and ciphers."""
    return list(dict.fromkeys(DomainSettings(**entry.values).tls for entry in every_domain(config)))


def tls_files(config: Config) -> tuple[str, ...]:
    """Every file that TLS in and out needs, each once."""
    server = config.server
    found: dict[str, None] = {}
    for listener in server.smtp_listener:
        found.update(dict.fromkeys(with_tls(listener, server.tls).files))
    found.update(dict.fromkeys(server.tls.files))
    for entry in every_domain(config):
        found.update(dict.fromkeys(filter(None, [entry.values.get("smtp_tls_ca_file", "")])))
        found.update(dict.fromkeys(filter(None, [entry.values.get("smtp_client_certificate", NO_PEM).path])))
    return tuple(found)
