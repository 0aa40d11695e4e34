"""All that one listener process has open: its sockets, its connections, their limits, and their orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import lru_cache, partial
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from engine.clock import monotonic_s
from engine.door import Door, network_of
from engine.listener.connection import TOO_MANY, Connection
from engine.listener.groups import Groups
from engine.listener.origin import OriginChecks
from engine.listener.proxied import Gate, Proxies
from engine.listener.refusals import RefusalLog
from engine.listener.tls import ListenerTls
from engine.listener.verification import Verifier
from engine.log import EventLog, escape
from engine.mail.reply import Reply
from engine.policy.credentials import Credentials
from engine.policy.routing import BY_SOURCE_IP
from engine.process import ListenSocket, SharedCount, Traffic
from engine.reception import Reception
from engine.smtp.server import ServerLimits
from engine.stream import Streams
from engine.tls.files import Files

if TYPE_CHECKING:
    from engine.config import ClientSettings

TICK_S: Final = 1.0
FAILURE_DELAY_S: Final = 1.0  # from a failed AUTH to its reply, at least: a connection guesses no faster
BACKLOG: Final = 1024


class Listener:
    """The listening side of one process; everything happens in its loop."""

    def __init__(
        self,
        reception: Reception,
        log: EventLog,
        sockets: list[ListenSocket],
        incoming: SharedCount,
        max_connections: int,
        door: Door,
        traffic: Traffic | None = None,
        tls: ListenerTls | None = None,
        proxies: Proxies = {},  # noqa: B006 - never changed
    ) -> None:
        """*incoming* counts sessions over all processes (total-max-smtp-in), *door* holds what all know of clients.

        *max_connections* is what our own file descriptors allow.
        """
        self._traffic = traffic
        self.tls = tls or ListenerTls(reception.config, [], Files(-1))
        self.reception = reception
        self.log = log
        self.refusals = RefusalLog(log)
        self.credentials = Credentials(reception.config)
        self.verifier = Verifier(self.credentials)
        self.failure_delay_s = FAILURE_DELAY_S
        self._origin_checks: OriginChecks | None = None
        self.draining = False
        self._limits = lru_cache(maxsize=1024)(ServerLimits)
        self._known = lru_cache(maxsize=4096)(self._look_up)
        self._sockets = sockets
        self._gates = {place: Gate(self, place, networks) for place, networks in proxies.items()}  # of the sockets that proxies come to
        self._incoming = incoming
        self._max_connections = max_connections
        self._loop = asyncio.get_running_loop()
        self.now_s = self._loop.time()  # as of the last tick: exact enough for deadlines, and free
        self._connections: dict[Connection, None] = {}  # the oldest first
        self._waiting: dict[Connection, None] = {}  # of them: for a slot, under smtp-await-slot
        self.door = door
        groups = reception.config.source_groups
        self._groups = Groups(groups.values(), self.door, incoming) if groups else None
        self._await_slot = reception.config.server.smtp_await_slot
        self._streams = Streams(self._loop)
        self._servers: list[Callable[[], None]] = []  # what ends accepting on each socket
        self.ended: asyncio.Future[None] = self._loop.create_future()  # done when draining is: no connection is left

    def open(self) -> None:
        """Accept on every inherited socket."""
        for inherited in self._sockets:
            listening = socket.socket(fileno=inherited.fd)
            listening.listen(BACKLOG)
            gate = self._gates.get(inherited)
            accept = gate.accept if gate is not None else partial(Connection, self, inherited)
            self._servers.append(self._streams.listen(listening, accept, self._cannot_accept))
        self._loop.call_later(TICK_S, self._tick)

    def drain(self) -> None:
        """Accept nothing more, let open transactions finish and each client its first message; say 421 to who wants more, or nothing for a while."""
        self.draining = True
        self._close_servers()
        self.log.event("draining", f"connections={len(self._connections)}")
        self._sweep()
        self._end_if_empty()

    def stop(self) -> None:
        """End at once; what was not acknowledged is the clients' to send again."""
        self.draining = True
        self._close_servers()
        for connection in tuple(self._connections):
            connection.abort()
        self._end_if_empty()

    # --- what connections call ------------------------------------------------------------------------------------------------------

    def enter(self, connection: Connection, place: ListenSocket) -> Reply | None:
        """Take a new connection, come in at *place*, in: it is `counted`, or `waits` for that; a Reply if it must go again at once."""
        if self._groups is not None and connection.ip:
            connection.group = self._known(connection.ip, place, "")[0].source_group
        self._connections[connection] = None
        room = len(self._connections) <= self._max_connections
        if room and not self._waiting and self._take(connection):
            return None
        if room and self._await_slot:
            connection.waits = True
            self._waiting[connection] = None
            return None
        self.refusals.say(f"client={connection.ip} reply={TOO_MANY.text}")
        return TOO_MANY

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        self._connections.pop(connection, None)
        if connection.counted:
            connection.counted = False
            self._incoming.give()
            if self._groups is not None:
                self._groups.give(connection.group)
        if self._waiting:
            self._waiting.pop(connection, None)
            self._admit_waiting()
        if self.draining:
            self._end_if_empty()

    def _admit_waiting(self) -> None:
        """Those who wait for a slot get what there is, the first first; those whose group is full let others pass."""
        for connection in tuple(self._waiting):
            if self.draining:
                return
            if self._take(connection):
                del self._waiting[connection]
                connection.admit()
            elif self._groups is None:
                return

    def _take(self, connection: Connection) -> bool:
        """Count *connection* in total-max-smtp-in and in its group, if they have room for it."""
        connection.counted = self._incoming.take() if self._groups is None else self._groups.take(connection.group)
        return connection.counted

    def locked_out(self, ip: str, client: ClientSettings) -> bool:
        """Whether the client at *ip* has failed to authenticate too often (smtp-max-auth-failure-rate)."""
        rate = client.smtp_max_auth_failure_rate
        return rate is not None and self.door.failures(ip, rate.period_s, monotonic_s()).number >= rate.amount

    def count_failure(self, ip: str, client: ClientSettings) -> None:
        """It has failed once more."""
        rate = client.smtp_max_auth_failure_rate
        if rate is None:
            return
        failures = self.door.failed(ip, rate.period_s, monotonic_s())
        if failures.number == rate.amount:
            why = f"after {failures.number} failures of AUTH (smtp-max-auth-failure-rate)"
            self.log.event("locked-out", f"client={network_of(ip)} for {failures.left_s:.0f}s {why}")

    def origin_checks(self) -> OriginChecks:
        """What asks DNS about clients and senders; made when it is needed first."""
        if self._origin_checks is None:
            self._origin_checks = OriginChecks(self.reception.config.server, self.reception.host_name, self.log)
        return self._origin_checks

    def nonce(self) -> str:
        """What nobody can foresee."""
        return token_hex(16)

    def welcome(self, ip: str, place: ListenSocket, local_ip: Callable[[], str], user: str = "") -> tuple[ClientSettings, ServerLimits]:
        """What a client at *ip*, come in through the listening socket *place*, authenticated as *user*, may do, and within which limits."""
        client, limits = self._known(ip, place, user)
        return client, limits if limits is not None else self._limits_of(client, local_ip, place)

    # --- within -----------------------------------------------------------------------------------------------------------------------

    def _look_up(self, ip: str, place: ListenSocket, user: str) -> tuple[ClientSettings, ServerLimits | None]:
        """The settings of a client, and its limits unless those depend on the address that it connects to."""
        client = self.reception.config.client(ip, place.source, user)
        return client, None if client.default_virtual_mta == BY_SOURCE_IP else self._limits_of(client, str, place)

    def _limits_of(self, client: ClientSettings, local_ip: Callable[[], str], place: ListenSocket) -> ServerLimits:
        host_name = self.reception.router.greeting_name(client, local_ip)
        return self._limits(
            host_name,
            client.max_message_size_bytes,
            client.max_rcpt_per_message,
            domain_suffix=self.reception.config.server.domain_suffix if client.auto_qualify_domain else "",
            too_many_rcpts_fails_message=client.too_many_rcpts_fails_message,
            disconnect_on_transient_error=client.disconnect_on_transient_error,
            mends_newlines=client.always_allow_relaying and client.bare_newline == "normalize",
            smtputf8=client.allow_smtputf8,
            chunking=client.allow_chunking,
            auth=self.credentials.mechanisms(client, False),
            auth_secure=self.credentials.mechanisms(client, True),
            starttls=client.allow_starttls and self.tls.offered(place),
        )

    def _close_servers(self) -> None:
        for end in self._servers:
            end()
        self._servers.clear()
        for gate in self._gates.values():
            gate.close()

    def _cannot_accept(self, error: OSError) -> None:
        self.refusals.say(f"no connection could be accepted: {error.strerror}")

    def _tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick)
        self.now_s = self._loop.time()
        self._sweep()
        for gate in self._gates.values():
            gate.tick(self.now_s)
        self._admit_waiting()  # another process may have given its slots back
        self.verifier.tick(self.now_s)
        self.reception.tick()
        self.count()
        self.refusals.tick()
        for line in self.tls.refresh():
            self.log.event("tls", escape(line))
        self.log.flush()

    def count(self) -> None:
        """Tell the supervisor how much has come in."""
        if self._traffic is not None:
            self._traffic.put(self.reception.taken_messages, self.reception.taken_recipients, self.reception.taken_bytes)

    def _sweep(self) -> None:
        for connection in tuple(self._connections):
            try:
                connection.tick(self.now_s, self.draining)
            except Exception as error:  # noqa: BLE001 - a fault of one connection must not cost the others their deadlines
                connection.abort()
                self._loop.call_exception_handler({"message": "fault in a connection's tick", "exception": error})

    def _end_if_empty(self) -> None:
        if not self._connections and not self.ended.done():
            self.ended.set_result(None)
