"""A layer between a stream and a protocol, each of which the test plays: what reaches whom, and what a hostile peer cannot make it keep."""

from __future__ import annotations

from typing import Any, cast

import pytest

from engine.tls.layer import ANSWERS_MOST, Layer
from engine.tls.pump import Pump
from tests.tls.test_pump import pair

ANSWER = b"k" * 27  # new keys, as OpenSSL answers a request for them


class Below:
    """The stream; *reads*: whether the peer takes what is written."""

    def __init__(self, reads: bool = True) -> None:
        self.protocol: Any = None
        self.written = bytearray()
        self.reads = reads
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0 if self.reads else len(self.written)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Above:
    """The protocol: what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def secured(self, layer: Layer) -> None:
        self.heard.append("secured")

    def not_secured(self, why: str) -> None:
        self.heard.append(f"not secured: {why}")

    def data_received(self, data: bytes) -> None:
        self.heard.append(data.decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(f"lost: {exc}")


class AskedForKeys:
    """A pump whose handshake is done, and whose peer asks for new keys with whatever it sends."""

    established, ended, broken = True, False, ""

    def receive(self, data: bytes) -> bytes:
        return b""

    def to_send(self) -> bytes:
        return ANSWER


def layered(below: Below, above: Above, pump: object) -> Layer:
    return Layer(cast(Any, below), cast(Any, above), cast(Pump, pump))


def test_a_peer_that_asks_for_new_keys_and_reads_nothing_is_closed_on() -> None:
    below, above = Below(reads=False), Above()
    layer = layered(below, above, AskedForKeys())
    for _ in range(100_000):
        layer.data_received(b"update")
    assert below.closed and len(below.written) <= ANSWERS_MOST + 2 * len(ANSWER)
    layer.connection_lost(None)
    assert above.heard == ["secured", "lost: TLS: the peer asks for new keys again and again, and reads nothing"]


def test_a_peer_that_reads_may_ask_for_new_keys_as_often_as_it_likes() -> None:
    below, above = Below(), Above()
    layer = layered(below, above, AskedForKeys())
    for _ in range(2 * ANSWERS_MOST // len(ANSWER)):
        layer.data_received(b"update")
    assert not below.closed and len(below.written) > ANSWERS_MOST


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_reply_in_front_of_a_bad_record_is_heard(version: str) -> None:
    """It may be the 250 to a message, which would be sent again."""
    client, server = pair(version)
    server.send(b"250 taken\r\n")
    good = server.to_send()
    server.send(b"221 bye\r\n")
    bad = bytearray(server.to_send())
    bad[-1] ^= 1
    below, above = Below(), Above()
    layer = layered(below, above, client)
    layer.data_received(good + bytes(bad))
    assert above.heard == ["secured", "250 taken\r\n"] and below.closed
    assert below.written  # the alert
    layer.data_received(b"more")
    layer.connection_lost(None)
    assert above.heard[2:] == ["lost: TLS: decryption failed or bad record mac"]
