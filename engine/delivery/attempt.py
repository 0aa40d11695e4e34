"""Opening one connection for a queue: look up its MXs, then try them in order from one source until one greets us (RFC 5321 §5.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from engine.delivery.connection import Connection, OpenFailure, Owner
from engine.delivery.destination import Destinations
from engine.delivery.outcome import Peer
from engine.delivery.pool import Route
from engine.delivery.sources import Source, bound_socket
from engine.dns import NoTargets
from engine.mail.reply import Reply
from engine.scheduler.queue import Queue
from engine.scheduler.reachability import Reachability
from engine.scheduler.retry import delay_ms
from engine.smtp.client import Stage

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


async def look_up_and_open(
    owner: Owner,
    queue: Queue,
    source: Source,
    destinations: Destinations,
    idle: Callable[[Route], Connection | None],
    reachability: Reachability,
    clock_s: Callable[[], float],
) -> Connection | Spare | Failed | NoTargets:
    """A connection that has been opened (its owner knows already), or an idle one along the same route; else why there is none."""
    found = await destinations.of(queue, source)
    if isinstance(found, NoTargets):
        return found
    settings = queue.settings
    failed: Failed | None = None
    permanent = True
    for target in found.targets:
        route = Route(source.ip, source.ehlo, target.host, target.address, target.port, settings.ignore_pipelining, settings.ignore_8bitmime)
        spare = idle(route)
        if spare is not None:
            return Spare(spare)
        blocked = reachability.blocked(source.ip, target.address, clock_s(), PROBE_CLAIM_S)
        result = Failed("4.4.1", blocked, peer_of(route), None, False) if blocked else await _open(owner, queue, route, reachability, clock_s)
        if isinstance(result, Connection):
            return result
        failed, permanent = result, permanent and result.permanent
    assert failed is not None  # Targets is never empty
    return failed._replace(permanent=permanent)


def peer_of(route: Route) -> Peer:
    """The peer at the far end of *route*."""
    return Peer(route.source_ip, route.host, route.address)


async def _open(owner: Owner, queue: Queue, route: Route, reachability: Reachability, clock_s: Callable[[], float]) -> Connection | Failed:
    loop = asyncio.get_running_loop()
    settings = queue.settings
    wait_s = PROBE_AFTER * delay_ms(settings.retry_after, queue.failures + 1) / 1000
    connection = None
    sock = None
    sent_out = False  # a failure before says nothing of the peer
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            sock = bound_socket(route.source_ip, route.address)
            sent_out = True
            await loop.sock_connect(sock, (route.address, route.port))
            connection = Connection(owner, queue, route, clock_s())
            await loop.create_connection(lambda: connection, sock=sock)
            sock = None
        await connection.opening
        reachability.reached(route.source_ip, route.address)
        return connection
    except OpenFailure as error:
        if error.reply is None or error.reply.code == 421 or not error.reply.permanent:
            reachability.failed(route.source_ip, route.address, clock_s(), wait_s, f"{route.host}[{route.address}] failed a moment ago: {error.why}")
        status = error.reply.status if error.reply else "4.4.2"
        return Failed(
            status, error.why, peer_of(route), error.reply, error.stage is Stage.GREETING and error.reply is not None and error.reply.permanent
        )
    except TimeoutError:
        why = f"connect to {route.host}[{route.address}]:{route.port} timed out after {settings.connect_timeout_s:g}s"
    except OSError as error:
        why = f"connect to {route.host}[{route.address}]:{route.port} from {route.source_ip or 'any address'} failed: {error.strerror or error}"
    finally:
        if sock is not None:
            sock.close()
    if connection is not None:
        connection.abort(why)
    if sent_out:
        reachability.failed(route.source_ip, route.address, clock_s(), wait_s, why)
    return Failed("4.4.1", why, peer_of(route), None, False)
