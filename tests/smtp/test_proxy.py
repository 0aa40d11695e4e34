"""PROXY headers, versions 1 and 2: what is one, in any cut, and whom it names."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fastpath import MALFORMED, NEED_DATA
from engine.smtp.proxy import V2_MOST_BYTES, Client, read_header

V2 = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = bytes([192, 0, 2, 7, 127, 0, 0, 1]) + (4711).to_bytes(2, "big") + (25).to_bytes(2, "big")
MAPPED = ipaddress.IPv6Address("::ffff:192.0.2.7").packed * 2 + (4711).to_bytes(2, "big") + (25).to_bytes(2, "big")
TCP6 = ipaddress.IPv6Address("2001:db8::7").packed * 2 + (4711).to_bytes(2, "big") + (25).to_bytes(2, "big")


def v2(command: int, family: int, rest: bytes) -> bytes:
    return V2 + bytes([command, family]) + len(rest).to_bytes(2, "big") + rest


GOOD = {
    b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n": Client("192.0.2.7", 4711),
    b"PROXY TCP6 2001:DB8::7 ::1 4711 25\r\n": Client("2001:db8::7", 4711),
    b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 25\r\n": Client("192.0.2.7", 4711),  # as himself: rules are written for that
    b"PROXY TCP6 ::FFFF:c000:207 ::1 4711 25\r\n": Client("192.0.2.7", 4711),
    v2(0x21, 0x21, MAPPED): Client("192.0.2.7", 4711),
    b"PROXY UNKNOWN\r\n": Client(),
    b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n": Client(),
    v2(0x21, 0x11, TCP4): Client("192.0.2.7", 4711),
    v2(0x21, 0x21, TCP6 + b"\x04\0\x01x"): Client("2001:db8::7", 4711),  # with a TLV
    v2(0x20, 0x00, b""): Client(),
    v2(0x20, 0x11, TCP4): Client(),  # LOCAL: whatever it says
    v2(0x21, 0x00, b"xyz"): Client(),
}
BAD = [
    b"EHLO client.example\r\n",
    b"PROXY\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 4711\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 65536\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 04711 25\r\n",
    b"PROXY TCP4 192.0.2.07 127.0.0.1 4711 25\r\n",
    b"PROXY TCP4 192.0.2.256 127.0.0.1 4711 25\r\n",
    b"PROXY TCP4 192.0.2.7 x 4711 25\r\n",
    b"PROXY TCP4 2001:db8::7 ::1 4711 25\r\n",
    b"PROXY TCP6 192.0.2.7 127.0.0.1 4711 25\r\n",
    b"PROXY TCP6 fe80::1%lo ::1 4711 25\r\n",
    b"PROXY  TCP4 192.0.2.7 127.0.0.1 4711 25\r\n",
    b"proxy TCP4 192.0.2.7 127.0.0.1 4711 25\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\nEHLO x\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    V2[:-1] + b"\r" + b"\x21\x11\0\x0c" + TCP4,
    v2(0x31, 0x11, TCP4),
    v2(0x22, 0x11, TCP4),
    v2(0x21, 0x12, TCP4),  # UDP
    v2(0x21, 0x31, b"x" * 216),  # a Unix socket
    v2(0x21, 0x11, TCP4[:-1]),
    v2(0x21, 0x21, TCP4),
    v2(0x21, 0x11, TCP4 + b"x" * V2_MOST_BYTES),
]


@pytest.mark.parametrize("header", GOOD)
def test_headers(header: bytes) -> None:
    assert read_header(header) == (len(header), GOOD[header])
    assert read_header(header + b"EHLO x\r\n") == (len(header), GOOD[header])
    for size in range(len(header)):
        assert read_header(header[:size])[0] == NEED_DATA, size


@pytest.mark.parametrize("header", BAD)
def test_what_is_none(header: bytes) -> None:
    assert read_header(header)[0] == MALFORMED
    fates = [read_header(header[:size])[0] for size in range(len(header) + 1)]
    assert fates == sorted(fates, reverse=True), "once it is none it stays so, however much comes"


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2, V2 + b"\x21\x11"]), st.binary(max_size=300))
def test_anything_is_told_within_its_bound(start: bytes, rest: bytes) -> None:
    end, client = read_header(start + rest)
    assert end in (NEED_DATA, MALFORMED) or 0 < end <= len(start + rest)
    assert not client.ip or (ipaddress.ip_address(client.ip) and end > 0)
    if end == NEED_DATA:
        assert len(start + rest) < 16 + V2_MOST_BYTES
