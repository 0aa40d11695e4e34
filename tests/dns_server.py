"""A small authoritative DNS server on loopback, UDP and TCP, for tests and benches; it can also misbehave on purpose.

A zone maps a name to its records by type, all as in a zone file; names are absolute, a leading `*.` is a wildcard, and `*` alone matches everything::

    {"*.example": {"MX": ["10 mx.example"]}, "mx.example": {"A": ["127.0.0.21"], "TTL": ["60"]}, "slow.example": {"!": ["delay 0.5"]}}

`!` holds behaviours: servfail, refused, nxdomain, silence, garbage, wrong-id, wrong-question, lie-first (three lies before the truth), truncate
(over UDP), empty-truncate (over TCP too), hang-up (over TCP), no-edns (FORMERR to EDNS), no-soa, referral, no-chase (a CNAME without its target),
delay SECONDS, and hold (until `release`).

By itself: `python -m tests.dns_server --listen 127.0.0.1:5353 --zone FILE`, FILE with lines `name type value` and `name ! behaviour`.
"""

from __future__ import annotations

import argparse
import socket
import socketserver
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Zone = Mapping[str, Mapping[str, list[str]]]

_MAX_CHAIN = 20
_NEGATIVE_TTL_S = 60


class DnsServer:
    """Serves *zone* until `close`, in threads of its own; a context manager.  *queries*: every (name, type, "udp" | "tcp") heard, in order.

    *zone* may be changed while it runs; call `forget` then: plain answers are remembered, so that a bench can afford this server.
    """

    def __init__(self, zone: Zone, address: str = "127.0.0.1", port: int = 0, *, ttl_s: int = 300) -> None:
        self.zone = zone
        self.ttl_s = ttl_s
        self.queries: deque[tuple[str, str, str]] = deque(maxlen=1_000_000)
        self._remembered: dict[bytes, tuple[bytes, tuple[str, str, str]]] = {}  # question -> answer, what to note; both without the id
        self._held: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._udp, self._tcp = _bind(address, port, self)
        self.address, self.port = address, int(self._udp.server_address[1])
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in (self._udp, self._tcp)]
        for thread in self._threads:
            thread.start()

    @property
    def server(self) -> tuple[str, int]:
        """(address, port), as a resolver wants it."""
        return self.address, self.port

    def __enter__(self) -> DnsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def forget(self) -> None:
        """Forget remembered answers: the zone has changed."""
        self._remembered.clear()

    def release(self) -> None:
        """Send every answer that is held."""
        with self._changed:
            held, self._held = self._held, []
        for send in held:
            send()

    def wait_held(self, number: int, timeout_s: float = 5.0) -> bool:
        """Wait until at least *number* answers are held; whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._held) >= number, timeout_s)

    def count(self, name: str, kind: str) -> int:
        """How often (*name*, *kind*) was asked."""
        return sum(query[:2] == (name, kind) for query in list(self.queries))

    def handle(self, wire: bytes, transport: str, send: Callable[[bytes], None]) -> None:
        """Answer the query in *wire* through *send*, now, later or never."""
        remembered = self._remembered.get(wire[2:])
        if remembered is not None and transport == "udp":
            answer, noted = remembered
            self.queries.append(noted)
            send(wire[:2] + answer)
            return
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return
        if not isinstance(query, dns.message.QueryMessage) or not query.question:
            return
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, kind, transport))
        behaviours = (self._find(name) or {}).get("!", [])
        reply = self._reply(query, name, behaviours)
        distorted = _distort(reply, behaviours, transport)
        if distorted is None:
            return
        if not behaviours and len(self._remembered) < 100_000 and transport == "udp":
            self._remembered[wire[2:]] = distorted[2:], (name, kind, transport)
        if "lie-first" in behaviours:
            for lie in ("garbage", "wrong-id", "wrong-question"):
                send(_distort(self._reply(query, name, behaviours), [lie], transport) or b"")
        delay_s = next((float(behaviour.split()[1]) for behaviour in behaviours if behaviour.startswith("delay ")), 0.0)
        if "hold" in behaviours:
            with self._changed:
                self._held.append(lambda: send(distorted))
                self._changed.notify_all()
        elif delay_s:
            timer = threading.Timer(delay_s, send, (distorted,))
            timer.daemon = True
            timer.start()
        else:
            send(distorted)

    def _find(self, name: str) -> Mapping[str, list[str]] | None:
        if name in self.zone:
            return self.zone[name]
        if any(other.endswith("." + name) for other in self.zone):
            return {}  # an empty non-terminal exists
        labels = name.split(".")
        wildcards = [".".join(["*", *labels[start:]]) for start in range(1, len(labels) + 1)]
        return next((self.zone[wildcard] for wildcard in wildcards if wildcard in self.zone), None)

    def _reply(self, query: dns.message.QueryMessage, name: str, behaviours: list[str]) -> dns.message.Message:
        reply = dns.message.make_response(query, recursion_available=True)
        reply.flags |= dns.flags.AA
        for behaviour, rcode in (("servfail", dns.rcode.SERVFAIL), ("refused", dns.rcode.REFUSED), ("nxdomain", dns.rcode.NXDOMAIN)):
            if behaviour in behaviours:
                reply.set_rcode(rcode)
        if "no-edns" in behaviours and query.edns >= 0:
            reply = dns.message.make_response(query)
            reply.use_edns(-1)
            reply.set_rcode(dns.rcode.FORMERR)
        if reply.rcode() in (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR):
            return reply
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        records: Mapping[str, list[str]] | None = {} if "nxdomain" in behaviours else self._find(name)
        for _ in range(_MAX_CHAIN):
            alias = (records or {}).get("CNAME")
            if not alias or kind == "CNAME":
                break
            self._add(reply, name, "CNAME", alias, records)
            if "no-chase" in behaviours:
                return reply
            name = alias[0].rstrip(".").lower()
            records = self._find(name)
        if records is not None and records.get(kind):
            self._add(reply, name, kind, records[kind], records)
        elif "referral" in behaviours:
            reply.authority.append(dns.rrset.from_text("example.", 60, "IN", "NS", "ns.example."))
        else:
            if records is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            if "no-soa" not in behaviours:
                reply.authority.append(
                    dns.rrset.from_text("example.", self.ttl_s, "IN", "SOA", f"ns.example. hostmaster.example. 1 3600 600 86400 {_NEGATIVE_TTL_S}")
                )
        return reply

    def _add(self, reply: dns.message.Message, name: str, kind: str, values: list[str], records: Mapping[str, list[str]] | None) -> None:
        ttl_s = int((records or {}).get("TTL", [str(self.ttl_s)])[0])
        rdatas = [dns.rdata.from_text("IN", kind, value, origin=dns.name.root, relativize=False) for value in values]
        reply.answer.append(dns.rrset.from_rdata_list(dns.name.from_text(name), ttl_s, rdatas))


def _distort(reply: dns.message.Message, behaviours: list[str], transport: str) -> bytes | None:
    """The bytes to send; None for silence."""
    if "silence" in behaviours or ("hang-up" in behaviours and transport == "tcp"):
        return None
    if "garbage" in behaviours:
        return reply.id.to_bytes(2, "big") + b"\x81\x80\0\1\0\1\0\0\0\0\xc0\x0c\xc0\x0c"
    if ("truncate" in behaviours and transport == "udp") or "empty-truncate" in behaviours or "hang-up" in behaviours:
        reply.answer.clear()
        reply.flags |= dns.flags.TC
    if "wrong-id" in behaviours:
        reply.id ^= 0x5555
    if "wrong-question" in behaviours:
        reply.question = [dns.rrset.RRset(dns.name.from_text("wrong.example"), reply.question[0].rdclass, reply.question[0].rdtype)]
    limit = 65_535 if transport == "tcp" else 1_232
    try:
        return reply.to_wire(max_size=limit, want_shuffle=False)
    except dns.exception.TooBig:
        reply.answer.clear()
        reply.flags |= dns.flags.TC
        return reply.to_wire(max_size=limit)


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, sock = self.request
        client = self.client_address
        self.server.dns.handle(wire, "udp", lambda answer: _send(sock, answer, client))  # type: ignore[attr-defined]


class _TcpHandler(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        while size := self.rfile.read(2):
            wire = self.rfile.read(int.from_bytes(size, "big"))
            answers: list[bytes] = []
            self.server.dns.handle(wire, "tcp", answers.append)  # type: ignore[attr-defined]
            if not answers:
                return
            for answer in answers:
                self.wfile.write(len(answer).to_bytes(2, "big") + answer)


class _UdpServer(socketserver.UDPServer):
    max_packet_size = 4_096
    dns: DnsServer


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64
    dns: DnsServer


def _send(sock: socket.socket, answer: bytes, client: Any) -> None:
    try:
        sock.sendto(answer, client)
    except OSError:
        return  # the client, or we ourselves, have closed meanwhile


def _bind(address: str, port: int, server: DnsServer) -> tuple[_UdpServer, _TcpServer]:
    for attempt in range(20):
        udp = _UdpServer((address, port), _UdpHandler)
        udp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        try:
            tcp = _TcpServer((address, udp.server_address[1]), _TcpHandler)
        except OSError:
            udp.server_close()
            if port or attempt == 19:
                raise
            continue
        udp.dns = tcp.dns = server
        return udp, tcp
    raise AssertionError("unreachable")


def parse_zone(text: str) -> dict[str, dict[str, list[str]]]:
    """The zone in lines of `name type value`; `#` begins a comment line."""
    zone: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        words = line.split(None, 2)
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3:
            raise ValueError(f"not `name type value`: {line!r}")
        zone.setdefault(words[0].rstrip(".").lower() or ".", {}).setdefault(words[1].upper(), []).append(words[2].strip())
    return zone


def main() -> None:
    parser = argparse.ArgumentParser(description="Small authoritative DNS server for tests.")
    parser.add_argument("--listen", default="127.0.0.1:5353", metavar="ADDRESS:PORT", help="port 0: any free one")
    parser.add_argument("--zone", required=True, metavar="FILE")
    arguments = parser.parse_args()
    address, _, port = arguments.listen.rpartition(":")
    with open(arguments.zone, encoding="utf-8") as file:
        zone = parse_zone(file.read())
    with DnsServer(zone, address, int(port)) as server:
        print(f"listening on {server.address}:{server.port}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
