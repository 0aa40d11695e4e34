"""Opening one connection for a queue: look up its MXs, then try them in order from one source until one greets us (RFC 5321 §5.1)."""

from __future__ import annotations

import asyncio
import os
from typing import NamedTuple

from engine.clock import monotonic_s
from engine.config.tls import ClientTls
from engine.delivery.connection import Connection, OpenFailure, Owner
from engine.delivery.destination import Destinations
from engine.delivery.encryption import Encryption
from engine.delivery.outcome import Peer
from engine.delivery.pool import IdlePool, Route
from engine.delivery.sources import Source, bound_socket
from engine.delivery.trace import Trace, log_resolution
from engine.dns import NoTargets, Target
from engine.log import EventLog, escape
from engine.mail.reply import Reply
from engine.scheduler.queue import Queue
from engine.scheduler.reachability import REMEMBERED, Reachability
from engine.scheduler.retry import delay_ms
from engine.smtp.client import Stage
from engine.stream import Streams

TLS_ATTEMPTS = 3  # resuming a session, by a whole handshake, in the clear
PROBE_CLAIM_S = 180.0
PROBE_AFTER = 0.9  # of the queue's own wait: when that queue comes again, it is the probe


class Failed(NamedTuple):
    """No MX could be reached or greeted; *reply* of the last that said no; *permanent* if every one greeted with 5xx."""

    status: str
    why: str
    peer: Peer
    reply: Reply | None
    permanent: bool


class Spare(NamedTuple):
    """An idle connection along a route that would have been tried: better than a new one."""

    connection: Connection


class Opener:
    """Opens connections for one slot, whose *owner* they call."""

    def __init__(
        self,
        owner: Owner,
        streams: Streams,
        destinations: Destinations,
        pool: IdlePool,
        reachability: Reachability,
        log: EventLog,
        encryption: Encryption,
    ) -> None:
        self._owner = owner
        self._log = log
        self._streams = streams
        self._encryption = encryption
        self._destinations = destinations
        self._pool = pool
        self._reachability = reachability

    def spare_for(self, queue: Queue, source: Source) -> Connection | None:
        """An idle connection along the first route that `open_for` would try, if nobody need be asked for it; no longer in the pool."""
        if not self._pool:
            return None
        found = self._destinations.known(queue, source)
        if found is None or isinstance(found, NoTargets):
            return None
        return self._pool.take_along(_route(queue, source, found.targets[0], self._destinations.tls(queue)))

    async def open_for(self, queue: Queue, source: Source) -> Connection | Spare | Failed | NoTargets:
        """A connection that has been opened (its owner knows already), or an idle one along the same route; else why there is none."""
        found = await self._destinations.of(queue, source)
        if queue.settings.log_resolution:
            log_resolution(self._log, queue, found)
        if isinstance(found, NoTargets):
            return found
        settings = queue.settings
        tls = self._destinations.tls(queue)
        failed: Failed | None = None
        permanent = True
        for target in found.targets:
            route = _route(queue, source, target, tls)
            spare = self._pool.take_along(route)
            if spare is not None:
                return Spare(spare)
            remembers = not settings.retry_upon_new_mail  # who wants to try with each new mail does not heed what was
            blocked = self._reachability.blocked(source.ip, target.address, target.port, monotonic_s(), PROBE_CLAIM_S) if remembers else ""
            result = Failed("4.4.1", blocked + REMEMBERED, _peer(route), None, False) if blocked else await self._open(queue, route)
            if isinstance(result, Connection):
                return result
            failed, permanent = result, permanent and result.permanent
        assert failed is not None  # Targets is never empty
        return failed._replace(permanent=permanent)

    async def _open(self, queue: Queue, route: Route) -> Connection | Failed:
        """A connection along *route*.  Where optional TLS fails it is one without, or with a whole handshake instead of a session that goes on."""
        attempts = TLS_ATTEMPTS
        while True:
            result = await self._open_once(queue, route)
            if not isinstance(result, OpenFailure):
                return result
            attempts -= 1
            if not attempts or not self._encryption.failed(route, monotonic_s()):
                why = f"{route.host}[{route.address}]:{route.port}: TLS is required (require-starttls), and {result.why}"
                return Failed(result.tls_status, why, _peer(route), result.reply, False)
            where = f"queue={queue.name} source={route.source_ip or '-'} mx={route.host}[{route.address}]:{route.port}"
            self._log.event("tls-failed", f'{where} reason="{escape(result.why)}"')

    async def _open_once(self, queue: Queue, route: Route) -> Connection | Failed | OpenFailure:
        """The same; or how TLS failed."""
        settings = queue.settings
        where = f"{route.host}[{route.address}]:{route.port}"
        try:
            sock = bound_socket(self._destinations.binding(route.source_ip), route.address)
        except OSError as error:  # ours: it says nothing of the peer
            return Failed("4.4.1", f"no socket can be bound to {route.source_ip}: {_words(error)}", _peer(route), None, False)
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await self._streams.loop.sock_connect(sock, (route.address, route.port))
        except TimeoutError:
            sock.close()
            return self._unreachable(queue, route, f"connect to {where} timed out after {settings.connect_timeout_s:g}s")
        except OSError as error:
            sock.close()
            return self._unreachable(queue, route, f"connect to {where} from {route.source_ip or 'any address'} failed: {_words(error)}")
        except BaseException:
            sock.close()
            raise
        connection = Connection(self._owner, queue, route, route.source_ip or sock.getsockname()[0], monotonic_s(), self._encryption)
        if settings.traced:
            connection.trace = Trace(self._log, queue, route)
        self._streams.open(sock, (route.address, route.port), connection)
        try:
            await connection.opening
        except OpenFailure as error:
            return error if error.tls_status else self._refused(queue, route, error)
        self._reachability.reached(route.source_ip, route.address, route.port)
        return connection

    def unavailable(self, connection: Connection, why: str) -> None:
        """The MX of *connection* said 421 to a queue that takes that for "not this host": others are tried before it is again."""
        self._unreachable(connection.queue, connection.route, why)

    def _unreachable(self, queue: Queue, route: Route, why: str) -> Failed:
        wait_s = PROBE_AFTER * delay_ms(queue.settings.retry_after, queue.failures + 1) / 1000
        self._reachability.failed(route.source_ip, route.address, route.port, monotonic_s(), wait_s, why)
        return Failed("4.4.1", why, _peer(route), None, False)

    def _refused(self, queue: Queue, route: Route, error: OpenFailure) -> Failed:
        """The peer hung up, fell silent, or answered no before the first transaction."""
        reply = error.reply
        if reply is None:
            return self._unreachable(queue, route, error.why)._replace(status="4.4.2")
        if not reply.permanent:
            self._unreachable(queue, route, error.why)
        return Failed(reply.status, error.why, _peer(route), reply, error.stage is Stage.GREETING and reply.permanent)


def _route(queue: Queue, source: Source, target: Target, tls: ClientTls) -> Route:
    settings = queue.settings
    return Route(
        source.ip, source.ehlo, target.host, target.address, target.port,
        settings.ignore_pipelining, settings.ignore_8bitmime, settings.ignore_dsn, settings.ignore_chunking, tls,
    )  # fmt: skip


def _peer(route: Route) -> Peer:
    return Peer(route.source_ip, route.host, route.address)


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
