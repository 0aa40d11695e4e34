"""Clients behind a proxy: the address that it gives decides, from the access rules to the Received field; and who may give one."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import Config, build, from_text
from engine.listener import proxied
from tests.listener.live import Live

CONF = """
log-file /l
host-name mx.engine.example
<smtp-listener 127.0.0.0/8:25>
    proxy-protocol-from 127.0.0.1, 2001:db8::/32
</smtp-listener>
<source 192.0.2.0/24>
    always-allow-relaying yes
    log-connections yes
</source>
<source 127.0.0.0/8>
    log-connections yes
</source>
"""
V2 = b"\r\n\r\n\0\r\nQUIT\n"


def settings() -> Config:
    loaded = build(from_text(CONF))
    assert loaded.config is not None, loaded.problems
    return loaded.config


@pytest.mark.parametrize(
    "header", [b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n", V2 + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 127, 0, 0, 1, 18, 103, 0, 25])]
)
def test_the_address_that_it_gives_is_the_clients(header: bytes) -> None:
    with Live(settings()) as live:
        with live.client() as client:
            for at in range(len(header)):
                client.send(header[at : at + 1])
            client.greet()  # 192.0.2.7 may relay, and 127.0.0.1 may not
            client.send(b"Subject: x\r\n\r\n.\r\n")
            assert client.reply().startswith("250 2.6.0 ")
        live.until(lambda: "disconnected" in live.log.kinds())
        assert "client=192.0.2.7 " in live.log.text("connected") and "client=192.0.2.7 " in live.log.text("accepted")
        (message,) = live.link.messages()
        assert b"([192.0.2.7])" in message.prefix and message.src_mta == "client.example (192.0.2.7)"


def test_what_comes_behind_the_header_is_the_clients() -> None:
    with Live(settings()) as live, live.client() as client:
        client.send(b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 25\r\nEHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<r@one.example>\r\n")
        assert [client.reply()[:4] for _ in range(4)] == ["220 ", "250-", "250 ", "550 "], "a stranger, whatever the proxy may"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", V2 + b"\x20\0\0\0"])
def test_a_proxy_that_looks_whether_we_live_is_a_client_itself(header: bytes) -> None:
    with Live(settings()) as live, live.client() as client:
        client.send(header)
        assert client.reply().startswith("220 ")
        assert client.say("QUIT").startswith("221 ")
        assert "client=127.0.0.1 " in live.log.text("connected")


def test_others_are_who_they_are_and_their_header_is_no_command() -> None:
    with Live(settings()) as live, live.client("127.0.0.2") as client:
        assert client.reply().startswith("220 ")
        assert client.say("PROXY TCP4 192.0.2.7 127.0.0.1 4711 25").startswith("500 ")
        assert "client=127.0.0.2 " in live.log.text("connected")


@pytest.mark.parametrize("first", [b"EHLO client.example\r\n", b"\x16\x03\x01", b"PROXY TCP4 1.2.3.4\r\n"])
def test_a_proxy_without_a_header_is_not_served(first: bytes) -> None:
    with Live(settings()) as live, live.client() as client:
        client.send(first)
        assert client.reply() == ""
        live.until(lambda: not any(gate.waiting for gate in live.listener._gates.values()))
        live.do(live.listener.refusals.tick)
        assert "no PROXY header" in str(live.log.events)


def test_the_header_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with Live(settings()) as live, live.client() as client:
        live.until(lambda: any(gate.waiting for gate in live.listener._gates.values()))
        client.send(b"PROXY ")
        (gate,) = live.listener._gates.values()
        live.do(lambda: gate.tick(live.listener.now_s + proxied.HEADER_S / 2))
        assert gate.waiting
        live.do(lambda: gate.tick(live.listener.now_s + 2 * proxied.HEADER_S))
        assert client.reply() == "" and not gate.waiting


def test_those_who_wait_are_bounded_and_go_when_we_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxied, "HEADERS_MOST", 2)
    with Live(settings()) as live:
        clients: list[Any] = [live.client() for _ in range(3)]
        assert clients[0].reply() == "", "the oldest goes"
        live.do(live.listener.drain)
        assert [client.reply() for client in clients[1:]] == ["", ""]
        for client in clients:
            client.close()
