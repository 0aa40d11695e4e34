"""Where a queue's mail goes: its smtp-hosts, or the MXs of its domain."""

from __future__ import annotations

from engine.delivery.sources import Source
from engine.dns import NoTargets, Resolver, Targets
from engine.scheduler.queue import Queue


class Destinations:
    """Looks up for one slot; *listening* are the addresses and ports that we would only reach ourselves at."""

    def __init__(self, resolver: Resolver, listening: frozenset[tuple[str, int]]) -> None:
        self._resolver = resolver
        self._listening = listening

    def known(self, queue: Queue, source: Source) -> Targets | NoTargets | None:
        """What `of` would return, if it is known without asking; None otherwise."""
        settings, resolver = queue.settings, self._resolver
        port, families, attempts = settings.default_smtp_port, source.families, settings.mx_connection_attempts
        private, own = settings.allow_private_mx, self._listening
        if groups := settings.smtp_hosts:
            return resolver.cached_hosts(groups, port=port, families=families, own=own, allow_private=private, attempts=attempts)
        return resolver.cached_targets(queue.domain, port=port, families=families, own=own, allow_private=private, attempts=attempts)

    async def of(self, queue: Queue, source: Source) -> Targets | NoTargets:
        """The hosts to try for *queue* from *source*, best first, at most mx-connection-attempts of them."""
        if (known := self.known(queue, source)) is not None:
            return known
        settings, resolver = queue.settings, self._resolver
        port, families, attempts = settings.default_smtp_port, source.families, settings.mx_connection_attempts
        private, own = settings.allow_private_mx, self._listening
        if groups := settings.smtp_hosts:
            return await resolver.hosts(groups, port=port, families=families, own=own, allow_private=private, attempts=attempts)
        return await resolver.targets(queue.domain, port=port, families=families, own=own, allow_private=private, attempts=attempts)
