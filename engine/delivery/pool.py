"""Connections that are open and have nothing to do, by everything that the peer can see of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from engine.config.tls import OFF, ClientTls

if TYPE_CHECKING:
    from engine.delivery.connection import Connection
    from engine.scheduler.queue import Queue

_Key = TypeVar("_Key")


class Route(NamedTuple):
    """What the peer can see of a connection: two queues may share one only if all of it is alike."""

    source_ip: str
    ehlo: str
    host: str
    address: str
    port: int
    ignore_pipelining: bool = False
    ignore_8bitmime: bool = False
    ignore_dsn: bool = False
    ignore_chunking: bool = False
    tls: ClientTls = OFF


class IdlePool:
    """Idle connections, each still counting against the queue that used it last.  Newest first out: the others run into their timeout."""

    def __init__(self) -> None:
        self._by_route: dict[Route, dict[Connection, None]] = {}
        self._by_queue: dict[int, dict[Connection, None]] = {}

    def __len__(self) -> int:
        """Routes that idle connections lead along."""
        return len(self._by_route)

    def put(self, connection: Connection) -> None:
        """*connection* has nothing to do."""
        connection.is_idle = True
        self._by_route.setdefault(connection.route, {})[connection] = None
        self._by_queue.setdefault(connection.queue.number, {})[connection] = None

    def take_along(self, route: Route) -> Connection | None:
        """An idle connection along *route*, no longer in the pool, or None."""
        return self._newest(self._by_route.get(route))

    def take_of(self, queue: Queue) -> Connection | None:
        """An idle connection of *queue*, no longer in the pool, or None."""
        return self._newest(self._by_queue.get(queue.number))

    def discard(self, connection: Connection) -> None:
        """*connection* leaves the pool."""
        connection.is_idle = False
        _remove(self._by_route, connection.route, connection)
        _remove(self._by_queue, connection.queue.number, connection)

    def _newest(self, line: dict[Connection, None] | None) -> Connection | None:
        if not line:
            return None
        connection = next(reversed(line))
        self.discard(connection)
        return connection


def _remove(index: dict[_Key, dict[Connection, None]], key: _Key, connection: Connection) -> None:
    line = index.get(key)
    if line is not None:
        line.pop(connection, None)
        if not line:
            del index[key]
