"""Clients of a listener that is down: each gets an answer, or at least an end."""

from __future__ import annotations

import os
import resource
import selectors
import socket

import pytest

from engine.process import ListenSocket
from engine.supervisor.takeover import ANSWER, Takeover


@pytest.fixture
def door() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    return listening


def turn(selector: selectors.BaseSelector) -> int:
    """One round; how many sockets wanted something."""
    ready = selector.select(5)
    for key, events in ready:
        key.data(events)
    return len(ready)


def test_a_client_is_asked_to_come_again(door: socket.socket) -> None:
    with selectors.DefaultSelector() as selector, door:
        takeover = Takeover(selector)
        takeover.begin("listener/0", [ListenSocket(door.fileno(), *door.getsockname())])
        with socket.create_connection(door.getsockname(), 5) as client:
            turn(selector)
            assert client.recv(1000) == ANSWER and client.recv(1000) == b""
        assert takeover.answered == 1
        takeover.end("listener/0")
        assert not takeover.holds("listener/0")


def test_without_descriptors_a_client_is_ended_and_we_do_not_spin(door: socket.socket) -> None:
    with selectors.DefaultSelector() as selector, door:
        takeover = Takeover(selector)
        takeover.begin("listener/0", [ListenSocket(door.fileno(), *door.getsockname())])
        clients = [socket.create_connection(door.getsockname(), 5) for _ in range(2)]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        filling = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (filling[0] + 20, limits[1]))
        try:
            while True:
                try:
                    filling.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    break
            turn(selector)
            turn(selector)
            assert selector.select(0) == [], "nobody waits any more"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in filling:
                os.close(descriptor)
        assert [client.recv(1000) for client in clients] == [b"", b""] and takeover.answered == 0
        for client in clients:
            client.close()
        with socket.create_connection(door.getsockname(), 5) as client:
            turn(selector)
            assert client.recv(1000) == ANSWER
        takeover.end("listener/0")
