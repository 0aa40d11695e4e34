"""The TLS of one listener process: what each of its sockets offers, and how many handshakes are under way."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from engine.config.tls import ServerTls
from engine.config.tls_build import with_tls
from engine.door import network_of
from engine.errors import StartError
from engine.process import ListenSocket
from engine.tls.context import Contexts, TlsSetupError, server_context
from engine.tls.files import Files

if TYPE_CHECKING:
    from engine.config import Config

HANDSHAKES_MOST: Final = 500  # at once; each holds about 100 KB
HANDSHAKES_OF_ONE: Final = 50  # of them: nobody shuts the door on others by letting his handshakes hang


class ListenerTls:
    """`immediate`: the sockets that speak TLS from the first byte."""

    def __init__(self, config: Config, sockets: list[ListenSocket], files: Files, port_offset: int = 0) -> None:
        """StartError: a certificate cannot be used."""
        self._contexts: Contexts[ServerTls] = Contexts(files, server_context)
        self._offered: dict[ListenSocket, ServerTls] = {}
        self._under_way = 0
        self._by_network: dict[str, int] = {}
        immediate = set()
        for socket in sockets:
            listener = config.listener(socket.address, socket.port - port_offset)
            offered = with_tls(listener, config.server.tls)
            if offered.certificates:
                try:
                    self._contexts.of(offered)
                except TlsSetupError as error:
                    raise StartError(str(error)) from error
                self._offered[socket] = offered
                if listener.immediate_tls:
                    immediate.add(socket)
        self.immediate = frozenset(immediate)

    def offered(self, socket: ListenSocket) -> bool:
        """Whether clients of *socket* may say STARTTLS."""
        return socket in self._offered and socket not in self.immediate

    def full_for(self, ip: str) -> bool:
        """Whether as many handshakes are under way as may be, in all or with *ip*'s network."""
        return self._under_way >= HANDSHAKES_MOST or self._by_network.get(network_of(ip), 0) >= HANDSHAKES_OF_ONE

    def begin(self, socket: ListenSocket, ip: str) -> ssl.SSLContext | None:
        """The context for a handshake with *ip* on *socket*, which counts until `ended`; None: there are too many."""
        if self.full_for(ip):
            return None
        context = self._contexts.of(self._offered[socket])
        network = network_of(ip)
        self._under_way += 1
        self._by_network[network] = self._by_network.get(network, 0) + 1
        return context

    def ended(self, ip: str) -> None:
        """A handshake with *ip* has come to its end, good or bad."""
        network = network_of(ip)
        self._under_way -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def refresh(self) -> list[str]:
        """Once a second: certificates that have changed are in use for handshakes to come; a line for the log about each."""
        return self._contexts.refresh()
