"""DNS messages as bytes (RFC 1035 section 4): queries built, responses parsed.  Pure; wrong bytes raise MalformedMessage and nothing else.

A response is hostile until proven otherwise: a compression pointer must point backwards, few of them make a name, each offset is
decoded once, and nothing is read past a record's own data.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from engine.errors import EngineError

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
MX: Final = 15
TXT: Final = 16
AAAA: Final = 28
TYPE_NAMES: Final = {A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", MX: "MX", TXT: "TXT", AAAA: "AAAA"}

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5

EDNS_SIZE_BYTES: Final = 1232  # fits every path without fragments (DNS flag day 2020)

_IN: Final = 1
_QR, _TC, _RD = 0x8000, 0x0200, 0x0100
_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_MAX_WIRE_NAME = 255
_MAX_LABEL = 63
_MAX_POINTERS = 32  # real names need two or three
_OPT = struct.Struct("!BHHIH")  # root, type 41, payload size, no flags, no options
_NAME_TEXT = re.compile(r"[!-\[\]-~]+\Z")  # printable ASCII but no backslash: a name we could only write with escapes is no host name
_PLAIN_LABEL = re.compile(rb"[0-9A-Za-z_-]+\Z")
_ESCAPED = frozenset(b'"().;\\@$')


class MalformedMessage(EngineError):
    """A DNS message that breaks RFC 1035."""


class BadName(EngineError):
    """Text that cannot be a domain name in DNS: an empty or overlong label, too long as a whole, or not printable ASCII."""


class Question(NamedTuple):
    """What is asked: *name* lower-case without root dot, *type* one of A, AAAA, MX ..."""

    name: str
    type: int


class Mx(NamedTuple):
    """One MX record; *host* is '.' in a null MX (RFC 7505)."""

    preference: int
    host: str


class Record(NamedTuple):
    """One record of an answer section: *value* is an address (A, AAAA), a name (CNAME, PTR), an Mx, or the bytes of a TXT, its strings joined."""

    name: str
    type: int
    ttl_s: int
    value: str | Mx | bytes


class Response(NamedTuple):
    """One response.  *answers* is empty when *truncated*: a part of an answer is none.

    *negative_ttl_s* is what the SOA in the authority section grants (RFC 2308 section 5), None without one; *referral*: the
    authority section names other servers instead (RFC 2308 section 2.2), so that an empty answer says nothing.
    """

    id: int
    rcode: int
    truncated: bool
    question: Question | None
    answers: tuple[Record, ...] = ()
    negative_ttl_s: int | None = None
    referral: bool = False


def encode_name(name: str) -> bytes:
    """*name* as uncompressed labels; raises BadName."""
    if name == ".":
        return b"\0"
    if not _NAME_TEXT.match(name):
        raise BadName(f"{name!r} is not a domain name: empty, or characters that a name cannot have")
    wire = bytearray()
    for label in name.removesuffix(".").encode("ascii").split(b"."):
        if not 0 < len(label) <= _MAX_LABEL:
            raise BadName(f"{name!r} is not a domain name: a label has {len(label)} octets, not 1 to {_MAX_LABEL}")
        wire.append(len(label))
        wire += label
    wire.append(0)
    if len(wire) > _MAX_WIRE_NAME:
        raise BadName(f"{name!r} is not a domain name: longer than {_MAX_WIRE_NAME} octets")
    return bytes(wire)


def build_query(message_id: int, question: Question, *, edns: int = EDNS_SIZE_BYTES) -> bytes:
    """A recursive query for *question*, with EDNS (RFC 6891) for answers of up to *edns* bytes, or without it (0); raises BadName."""
    head = _HEADER.pack(message_id, _RD, 1, 0, 0, 1 if edns else 0)
    return head + encode_name(question.name) + _QUESTION.pack(question.type, _IN) + (_OPT.pack(0, 41, edns, 0, 0) if edns else b"")


def parse_response(wire: bytes) -> Response:
    """The response in *wire*: names lower-case, without root dot; records of types that we do not ask for are left out.

    Raises MalformedMessage: not a response to a standard query, more than one question, or bytes that break the format.
    """
    try:
        return _parse(wire)
    except (struct.error, IndexError) as error:
        raise MalformedMessage(f"DNS message of {len(wire)} bytes ends too early") from error


def _parse(wire: bytes) -> Response:
    message_id, flags, questions, answers, authorities, _ = _HEADER.unpack_from(wire)
    if not flags & _QR or flags & 0x7800 or questions > 1:
        raise MalformedMessage("not a response to one standard query")
    names = _Names(wire)
    position = _HEADER.size
    question = None
    rcode, truncated = flags & 0x000F, bool(flags & _TC)
    if questions:
        name, position = names.read(position)
        kind, klass = _QUESTION.unpack_from(wire, position)
        position += _QUESTION.size
        question = Question(name, kind if klass == _IN else -1)
    if truncated:
        return Response(message_id, rcode, True, question)
    records: list[Record] = []
    for _ in range(answers):
        position = _read_answer(wire, position, names, records)
    negative_ttl_s, referral = None, False
    for _ in range(authorities):
        name, position = names.read(position)
        kind, klass, ttl_s, size = _RECORD.unpack_from(wire, position)
        position += _RECORD.size
        if kind == SOA and klass == _IN:
            negative_ttl_s = min(_ttl_s(ttl_s), _soa_minimum_s(wire, position, size, names))
        referral = referral or kind == NS
        position = _end_of_data(wire, position, size)
    return Response(message_id, rcode, False, question, tuple(records), negative_ttl_s, referral and negative_ttl_s is None)


def _read_answer(wire: bytes, position: int, names: _Names, records: list[Record]) -> int:
    name, position = names.read(position)
    kind, klass, ttl_s, size = _RECORD.unpack_from(wire, position)
    start = position + _RECORD.size
    end = _end_of_data(wire, start, size)
    if klass != _IN:
        return end
    value: str | Mx | bytes
    if kind == A:
        if size != 4:
            raise MalformedMessage(f"A record of {size} octets")
        value = ".".join(map(str, wire[start:end]))
    elif kind == AAAA:
        if size != 16:
            raise MalformedMessage(f"AAAA record of {size} octets")
        value = IPv6Address(wire[start:end]).compressed
    elif kind == MX:
        host, after = names.read(start + 2)
        if after != end:
            raise MalformedMessage("MX record does not end with its host")
        value = Mx(wire[start] << 8 | wire[start + 1], host)
    elif kind in (CNAME, PTR):
        value, after = names.read(start)
        if after != end:
            raise MalformedMessage(f"{TYPE_NAMES[kind]} record does not end with its name")
    elif kind == TXT:
        value = _strings(wire, start, end)
    else:
        return end
    records.append(Record(name, kind, _ttl_s(ttl_s), value))
    return end


def _strings(wire: bytes, position: int, end: int) -> bytes:
    """The character-strings of a TXT record, joined as RFC 7208 section 3.3 reads them."""
    joined = bytearray()
    while position < end:
        after = position + 1 + wire[position]
        if after > end:
            raise MalformedMessage("TXT record with a string past its end")
        joined += wire[position + 1 : after]
        position = after
    return bytes(joined)


def _ttl_s(raw: int) -> int:
    return 0 if raw & 0x80000000 else raw  # RFC 2181 section 8


def _soa_minimum_s(wire: bytes, position: int, size: int, names: _Names) -> int:
    end = _end_of_data(wire, position, size)
    _, position = names.read(position)
    _, position = names.read(position)
    if position + 20 != end:
        raise MalformedMessage("SOA record has not five numbers")
    return _ttl_s(int.from_bytes(wire[end - 4 : end], "big"))


def _end_of_data(wire: bytes, position: int, size: int) -> int:
    end = position + size
    if end > len(wire):
        raise MalformedMessage("record data past the end of the message")
    return end


class _Names:
    """The names of one message, each decoded once: so that no arrangement of pointers costs more than the message is long."""

    def __init__(self, wire: bytes) -> None:
        self._wire = wire
        self._known: dict[int, tuple[str, int, int]] = {}  # offset -> text, offset past it, octets without compression

    def read(self, offset: int) -> tuple[str, int]:
        """(name in lower case, '.' for the root; offset past it)."""
        text, end, _ = self._read(offset, _MAX_POINTERS)
        return text or ".", end

    def _read(self, offset: int, pointers_left: int) -> tuple[str, int, int]:
        known = self._known.get(offset)
        if known is not None:
            return known
        wire, position, octets = self._wire, offset, 1
        labels: list[str] = []
        while length := wire[position]:
            if length >= 0xC0:
                target = (length & 0x3F) << 8 | wire[position + 1]
                if target >= offset:
                    raise MalformedMessage("compression pointer does not point backwards")
                if not pointers_left:
                    raise MalformedMessage("too many compression pointers in one name")
                tail, _, more = self._read(target, pointers_left - 1)
                if tail:
                    labels.append(tail)
                octets += more - 1
                position += 1
                break
            if length > _MAX_LABEL:
                raise MalformedMessage(f"label of unknown kind {length:#x}")
            label = wire[position + 1 : position + 1 + length]
            labels.append(label.decode("ascii").lower() if _PLAIN_LABEL.match(label) else _escape(label))
            position += 1 + length
            octets += 1 + length
        if octets > _MAX_WIRE_NAME:
            raise MalformedMessage(f"name longer than {_MAX_WIRE_NAME} octets")
        name = self._known[offset] = (".".join(labels), position + 1, octets)
        return name


def _escape(label: bytes) -> str:
    """A label with unusual octets in RFC 1035 presentation form, so that no two names look the same."""
    return "".join("\\" + chr(c) if c in _ESCAPED else chr(c).lower() if 0x20 < c < 0x7F else f"\\{c:03d}" for c in label)
