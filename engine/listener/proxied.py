"""Before a connection that a proxy opens for its client: the PROXY header, which says who that is, is read, and only then does anything begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from engine.fastpath import MALFORMED, NEED_DATA
from engine.listener.connection import Connection, plain_ip
from engine.smtp.proxy import read_header

if TYPE_CHECKING:
    from engine.config import Config
    from engine.config.pattern import Network
    from engine.listener.listener import Listener
    from engine.process import ListenSocket
    from engine.stream import Stream

HEADER_S: Final = 10.0  # for the whole header, which a proxy sends first of all
HEADERS_MOST: Final = 1000  # connections that wait for theirs, at once

Proxies = Mapping["ListenSocket", tuple["Network", ...]]


def proxies_of(config: Config, sockets: Sequence[ListenSocket], port_offset: int) -> Proxies:
    """For each of *sockets* whose smtp-listener says proxy-protocol-from: where its proxies are."""
    found = {socket: config.listener(socket.address, socket.port - port_offset).proxies for socket in sockets}
    return {socket: networks for socket, networks in found.items() if networks}


class Gate:
    """Those of one listening socket whose header has not come yet."""

    def __init__(self, listener: Listener, socket: ListenSocket, networks: tuple[Network, ...]) -> None:
        self.listener = listener
        self.socket = socket
        self.networks = networks
        self.waiting: dict[Proxied, None] = {}  # the oldest first

    def accept(self) -> Proxied:
        """The protocol of a new connection."""
        return Proxied(self)

    def tick(self, now_s: float) -> None:
        """Once a second: who has waited too long goes."""
        for proxied in tuple(self.waiting):
            if now_s - proxied.since_s > HEADER_S:
                proxied.refuse(f"no PROXY header within {HEADER_S:.0f} s")

    def close(self) -> None:
        """Nobody gets in any more."""
        for proxied in tuple(self.waiting):
            proxied.abort()


class Proxied:
    """A connection until it is known whose it is."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._transport: Stream | None = None
        self._header = b""
        self._ip = ""
        self.since_s = gate.listener.now_s

    def connection_made(self, transport: Stream) -> None:
        """A proxy is waited for; whoever is none of those named comes for himself."""
        gate = self._gate
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._ip = plain_ip(peer[0]) if peer else ""
        if not self._ip:  # gone already
            transport.abort()
        elif not any(ip_address(self._ip) in network for network in gate.networks):
            self._hand_over(None, b"")
        else:
            gate.waiting[self] = None
            if len(gate.waiting) > HEADERS_MOST:
                next(iter(gate.waiting)).refuse(f"more than {HEADERS_MOST} connections wait for their PROXY header")

    def data_received(self, data: bytes) -> None:
        """The header, whole or in part, and perhaps what the client says behind it."""
        if self not in self._gate.waiting:
            return
        self._header += data
        end, client = read_header(self._header)
        if end == MALFORMED:
            self.refuse("what came first is no PROXY header of TCP")
        elif end != NEED_DATA:
            self._hand_over((client.ip, client.port) if client.ip else None, self._header[end:])

    def _hand_over(self, peer: tuple[str, int] | None, rest: bytes) -> None:
        gate, transport = self._gate, self._transport
        assert transport is not None
        gate.waiting.pop(self, None)
        connection = Connection(gate.listener, gate.socket, peer)
        transport.protocol = connection
        connection.connection_made(transport)
        if rest and connection.waits:
            transport.abort()  # it spoke before it was greeted, and nobody would hear it
        elif rest:
            transport.protocol.data_received(rest)  # the connection's, or its TLS's

    def refuse(self, why: str) -> None:
        """Close without a word: the proxy is not what it was said to be, or broken."""
        self._gate.listener.refusals.say(f"client={self._ip} to={self._gate.socket.address}:{self._gate.socket.port} {why}")
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._gate.waiting.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        """It closes before it has said who it is."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._gate.waiting.pop(self, None)
        self._transport = None

    def pause_writing(self) -> None:
        """Nothing is written."""

    def resume_writing(self) -> None:
        """Nothing is written."""
