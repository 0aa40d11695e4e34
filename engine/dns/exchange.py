"""One question to one name server: UDP over a few connected sockets, TCP when the answer did not fit.

Connected, so that the kernel drops whatever comes from another address; unpredictable source ports and ids, and each answer must repeat the
question (RFC 5452).  A socket is replaced after a while: its port does not stay a target.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from engine.dns import codec
from engine.dns.answer import TemporaryFailure
from engine.dns.codec import MalformedMessage, Question, Response

SOCKETS_PER_SERVER: Final = 4
MAX_TCP: Final = 16  # connections at once, per server

_QUERIES_PER_SOCKET = 1_000
_DATAGRAM_BYTES = 4_096
_DATAGRAMS_AT_ONCE = 64  # then other work gets its turn
_TCP_TIMEOUTS = 2  # TCP needs more round trips than UDP


def _unpredictable_ids() -> Iterator[int]:
    while True:
        yield from struct.unpack("!256H", os.urandom(512))  # in bulk: each call of the kernel costs more than a query's other work


_ids = _unpredictable_ids()


class _Asked:
    __slots__ = ("answered", "ignored", "question")

    def __init__(self, question: Question, answered: asyncio.Future[Response]) -> None:
        self.question, self.answered = question, answered
        self.ignored = ""  # which kind of answer was thrown away, for whoever waits in vain


class NameServer:
    """One name server (address, port).  Descriptors: at most SOCKETS_PER_SERVER, as many being replaced, and MAX_TCP."""

    def __init__(self, address: str, port: int, edns_bytes: int = codec.EDNS_SIZE_BYTES) -> None:
        """*edns_bytes*: of the largest answer by UDP; 0: no EDNS."""
        self.address, self.port = address, port
        self.resting_until_s = 0.0  # until then the resolver prefers others
        self._sockets: list[_UdpSocket] = []
        self._tcp_free = asyncio.Semaphore(MAX_TCP)
        self._edns = edns_bytes

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    async def ask(self, question: Question, timeout_s: float) -> Response | TemporaryFailure:
        """The server's response, whatever its rcode; or why there is none within *timeout_s* (twice that more, if it takes TCP).  Raises BadName."""
        try:
            edns = self._edns
            response = await self._ask_udp(question, timeout_s, edns)
            if edns and response.rcode in (codec.FORMERR, codec.NOTIMP):
                self._edns = edns = 0  # it knows no EDNS (RFC 6891 section 7)
                response = await self._ask_udp(question, timeout_s, edns)
            if response.truncated:
                response = await self._ask_tcp(question, timeout_s * _TCP_TIMEOUTS, edns)
            return response
        except TimeoutError as error:
            return TemporaryFailure("timeout", str(error) or "no answer over TCP in time")
        except MalformedMessage as error:
            return TemporaryFailure("malformed", str(error))
        except OSError as error:
            return TemporaryFailure("network", error.strerror or str(error))

    def close(self) -> None:
        """Close every socket; questions under way fail."""
        for udp in self._sockets:
            udp.close(ConnectionAbortedError("resolver closed"))
        self._sockets.clear()

    async def _ask_udp(self, question: Question, timeout_s: float, edns: int) -> Response:
        udp = self._pick_socket()
        message_id, asked = udp.send(question, edns=edns)
        try:
            async with asyncio.timeout(timeout_s):
                return await asked.answered
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout_s:.2g} s{asked.ignored}") from None
        finally:
            udp.forget(message_id)

    def _pick_socket(self) -> _UdpSocket:
        for index, udp in enumerate(self._sockets):
            if udp.sent >= _QUERIES_PER_SOCKET or udp.closed:
                udp.retire()
                del self._sockets[index]
                break
        if len(self._sockets) < SOCKETS_PER_SERVER:
            udp = _UdpSocket(self.address, self.port)
            self._sockets.append(udp)
            return udp
        return self._sockets[next(_ids) % len(self._sockets)]

    async def _ask_tcp(self, question: Question, timeout_s: float, edns: int) -> Response:
        message_id = next(_ids)
        query = codec.build_query(message_id, question, edns=edns)
        async with asyncio.timeout(timeout_s), self._tcp_free:
            reader, writer = await asyncio.open_connection(self.address, self.port)
            try:
                writer.write(len(query).to_bytes(2, "big") + query)
                size = int.from_bytes(await reader.readexactly(2), "big")
                response = codec.parse_response(await reader.readexactly(size))
            except asyncio.IncompleteReadError as error:
                raise ConnectionResetError("TCP connection closed before the answer") from error
            finally:
                writer.transport.abort()
        if response.id != message_id or response.question != question or response.truncated:
            raise MalformedMessage("TCP answer to another question")
        return response


class _UdpSocket:
    """A connected UDP socket and what was asked over it.  ICMP errors fail all that waits: nobody listens there."""

    def __init__(self, address: str, port: int) -> None:
        self.sent = 0
        self.closed = False
        self._asked: dict[int, _Asked] = {}
        self._retiring = False
        self._loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect((address, port))  # the kernel picks a random port
            self._loop.add_reader(self._socket, self._readable)
        except BaseException:
            self._socket.close()
            raise

    def send(self, question: Question, *, edns: int) -> tuple[int, _Asked]:
        """(id, what to wait for); raises BadName, OSError."""
        message_id = next(_ids)
        while message_id in self._asked:
            message_id = next(_ids)
        query = codec.build_query(message_id, question, edns=edns)
        try:
            self._socket.send(query)
        except ConnectionRefusedError:  # an ICMP error that an earlier query earned
            self._socket.send(query)
        self.sent += 1
        asked = self._asked[message_id] = _Asked(question, self._loop.create_future())
        return message_id, asked

    def forget(self, message_id: int) -> None:
        self._asked.pop(message_id, None)
        if self._retiring and not self._asked:
            self.close(ConnectionAbortedError("socket retired"))

    def retire(self) -> None:
        """Close once nothing waits any more."""
        self._retiring = True
        if not self._asked:
            self.close(ConnectionAbortedError("socket retired"))

    def close(self, error: OSError) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        for asked in self._asked.values():
            if not asked.answered.done():
                asked.answered.set_exception(error)

    def _readable(self) -> None:
        for _ in range(_DATAGRAMS_AT_ONCE):
            if self.closed:
                return
            try:
                wire = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error)
                return
            self._received(wire)

    def _received(self, wire: bytes) -> None:
        asked = self._asked.get(int.from_bytes(wire[:2], "big"))
        if asked is None or asked.answered.done():
            return  # late, doubled, or a guess
        try:
            response = codec.parse_response(wire)
        except MalformedMessage:
            asked.ignored = ", malformed ones ignored"
            return
        if response.question == asked.question or (response.question is None and response.rcode in (codec.FORMERR, codec.NOTIMP)):
            asked.answered.set_result(response)
        else:
            asked.ignored = ", those to another question ignored"
