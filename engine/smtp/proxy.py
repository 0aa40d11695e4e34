"""The PROXY protocol, versions 1 and 2, as a proxy writes it in front of what a client says (haproxy.org, proxy-protocol.txt).  Pure.

Nothing here says whom to believe: a header is read only from proxies that the listener names.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

from engine.fastpath import MALFORMED, NEED_DATA

V1_MOST_BYTES = 107  # with its CRLF
V2_MOST_BYTES = 4096  # addresses and TLVs: a bound of ours, 65551 is the protocol's
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n")
_LOCAL, _PROXY = 0x20, 0x21
_TCP = {0x11: 4, 0x21: 16}  # over IPv4, IPv6: bytes of an address


class Client(NamedTuple):
    """Who is behind the proxy; ip "" is the proxy itself, which looks whether we live (LOCAL), or does not know (UNKNOWN)."""

    ip: str = ""
    port: int = 0


def read_header(data: bytes) -> tuple[int, Client]:
    """(offset behind the header that *data* begins with, the client); in place of the offset NEED_DATA, or MALFORMED as soon as it is none."""
    if data[:12] == _V2[: len(data)]:
        return _version_2(data) if len(data) >= 16 else (NEED_DATA, Client())
    if data[:6] != b"PROXY "[: len(data)]:
        return MALFORMED, Client()
    end = data.find(b"\r\n", 0, V1_MOST_BYTES) + 2
    if end < 2:
        return (MALFORMED if len(data) >= V1_MOST_BYTES else NEED_DATA), Client()
    line = data[:end]
    if line.startswith(b"PROXY UNKNOWN") and line[13:14] in b" \r":
        return end, Client()
    found = _LINE.fullmatch(line)
    if found is None or int(found[4]) > 65535 or int(found[5]) > 65535:
        return MALFORMED, Client()
    make = IPv4Address if found[1] == b"TCP4" else IPv6Address
    try:
        make(found[3].decode("ascii"))
        return end, Client(_plain(make(found[2].decode("ascii"))), int(found[4]))
    except AddressValueError:
        return MALFORMED, Client()


def _version_2(data: bytes) -> tuple[int, Client]:
    command, family, size = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY) or size > V2_MOST_BYTES:
        return MALFORMED, Client()
    if len(data) < 16 + size:
        return NEED_DATA, Client()
    if command == _LOCAL or family == 0:
        return 16 + size, Client()
    width = _TCP.get(family)
    if width is None or size < 2 * width + 4:
        return MALFORMED, Client()
    address = data[16 : 16 + width]
    port = int.from_bytes(data[16 + 2 * width : 18 + 2 * width], "big")
    return 16 + size, Client(_plain(IPv4Address(address) if width == 4 else IPv6Address(address)), port)


def _plain(ip: IPv4Address | IPv6Address) -> str:
    """*ip*, an IPv4 address in mapped form as itself: rules are written for that, and Python writes the mapped form without dots."""
    return str(ip if isinstance(ip, IPv4Address) else ip.ipv4_mapped or ip)
