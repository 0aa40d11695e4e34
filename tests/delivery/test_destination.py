"""A shadow's destinations: the sink's address under each host's own name, verdicts as they are, and every source reaches it."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from engine.delivery.destination import Destinations, diverted
from engine.delivery.sources import bound_socket
from engine.dns import NoTargets, Resolver, Target, Targets

SINK = ("127.0.0.1", 40123)


def test_each_host_once_in_its_order_at_the_sink() -> None:
    found = Targets(
        (
            Target("mx2.example", "2001:db8::2", 25, 10),
            Target("mx2.example", "192.0.2.2", 25, 10),
            Target("mx1.example", "192.0.2.1", 587, 20),
            Target("mx2.example", "192.0.2.3", 25, 10),
        ),
        60.0,
    )
    assert diverted(found, SINK) == Targets((Target("mx2.example", *SINK, 10), Target("mx1.example", *SINK, 20)), 60.0)


def test_a_verdict_stays() -> None:
    verdict = NoTargets("nxdomain", "5.1.2", "domain x.example does not exist")
    assert diverted(verdict, SINK) is verdict


@pytest.mark.parametrize("source_ip", ["", "127.0.0.2", "192.0.2.1", "2001:db8::1"])
def test_every_source_reaches_the_sink(source_ip: str) -> None:
    resolver = cast(Resolver, None)  # nothing is looked up
    assert Destinations(resolver, frozenset()).binding(source_ip) == source_ip
    binding = Destinations(resolver, frozenset(), SINK).binding(source_ip)
    with socket.create_server(("127.0.0.1", 0)) as sink, bound_socket(binding, "127.0.0.1") as sock:
        sock.setblocking(True)
        sock.settimeout(10)
        sock.connect(sink.getsockname())
