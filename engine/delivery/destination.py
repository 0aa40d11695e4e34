"""Where a queue's mail goes: its smtp-hosts, or the MXs of its domain; for a shadow, whatever they are, to its sink."""

from __future__ import annotations

from engine.config.tls import OFF, ClientTls
from engine.delivery.sources import Source
from engine.dns import NoTargets, Resolver, Targets
from engine.scheduler.queue import Queue


class Destinations:
    """Looks up for one slot; every address that it connects to comes from here."""

    def __init__(self, resolver: Resolver, listening: frozenset[tuple[str, int]], sink: tuple[str, int] | None = None) -> None:
        """*listening*: addresses and ports that we would only reach ourselves at; *sink*: the one to go to instead of all others."""
        self._resolver = resolver
        self._listening = listening
        self._sink = sink

    def known(self, queue: Queue, source: Source) -> Targets | NoTargets | None:
        """What `of` would return, if it is known without asking; None otherwise."""
        settings, resolver = queue.settings, self._resolver
        port, families, attempts = settings.default_smtp_port, source.families, settings.mx_connection_attempts
        private, own = settings.allow_private_mx, self._listening
        found: Targets | NoTargets | None
        if groups := settings.smtp_hosts:
            found = resolver.cached_hosts(groups, port=port, families=families, own=own, allow_private=private, attempts=attempts)
        else:
            found = resolver.cached_targets(queue.domain, port=port, families=families, own=own, allow_private=private, attempts=attempts)
        return found if self._sink is None or found is None else diverted(found, self._sink)

    async def of(self, queue: Queue, source: Source) -> Targets | NoTargets:
        """The hosts to try for *queue* from *source*, best first, at most mx-connection-attempts of them."""
        if (known := self.known(queue, source)) is not None:
            return known
        settings, resolver = queue.settings, self._resolver
        port, families, attempts = settings.default_smtp_port, source.families, settings.mx_connection_attempts
        private, own = settings.allow_private_mx, self._listening
        found: Targets | NoTargets
        if groups := settings.smtp_hosts:
            found = await resolver.hosts(groups, port=port, families=families, own=own, allow_private=private, attempts=attempts)
        else:
            found = await resolver.targets(queue.domain, port=port, families=families, own=own, allow_private=private, attempts=attempts)
        return found if self._sink is None else diverted(found, self._sink)

    def tls(self, queue: Queue) -> ClientTls:
        """How connections of *queue* are encrypted: to a shadow's sink never, it is on this host."""
        return queue.settings.tls if self._sink is None else OFF

    def binding(self, source_ip: str) -> str:
        """The address to bind for a connection from *source_ip*: itself, but to a shadow's sink the kernel's choice.

        An IPv6 address, or one that this host does not have (yet), reaches no 127.0.0.1.  What is pooled, counted and limited is *source_ip*.
        """
        return source_ip if self._sink is None else ""


def diverted(found: Targets | NoTargets, sink: tuple[str, int]) -> Targets | NoTargets:
    """*found* with the address and port of *sink* for those of each host, every host once; a verdict of the DNS stays one."""
    if isinstance(found, NoTargets):
        return found
    address, port = sink
    hosts = {target.host: target._replace(address=address, port=port) for target in found.targets}
    return Targets(tuple(hosts.values()), found.ttl_s)
