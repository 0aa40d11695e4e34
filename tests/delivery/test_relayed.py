"""NOTIFY=SUCCESS (RFC 3461 §5.2): passed on to a host that has DSN; at one without, the sender hears from us that it was relayed."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.config.settings import DomainSettings
from engine.errors import SpoolError
from engine.mail.envelope import NEEDS_DSN
from engine.spool.ops import Accept
from tests.delivery.slot_world import EHLO, SlotWorld, turned

DSN = Accept(b"d" * 12, b"", 1, 1, 10, [])
WITH_DSN = EHLO.replace(b"250 8BITMIME", b"250-8BITMIME\r\n250 DSN")
ACCEPTED = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"


class World(SlotWorld):
    """A SlotWorld with a reporter that writes `relayed` DSNs, or cannot."""

    broken = False

    def relayed_for(self, *arguments: Any) -> Any:
        if self.broken:
            raise SpoolError("disk full")
        self.told = [r.row.due.address.partition("@")[0] for r in arguments[3]]
        return DSN

    def arrive(self) -> None:
        """A message for two, the first of whom is to be heard of."""
        self.needs = NEEDS_DSN
        self.add(1, 2)
        key = min(self.disk)
        self.disk[key] = msgspec.structs.replace(self.disk[key], notify=2)


@turned
async def test_a_host_without_dsn_makes_us_tell() -> None:
    world = World(DomainSettings())
    world.arrive()
    connection, transport = await world.open()
    assert b"NOTIFY" not in transport.said()
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert world.told == ["m1r0"] and sorted(world.fates()) == ["m1r0 d 2.0.0", "m1r1 d 2.0.0"]
    assert [(len(each.rows), each.accept) for each in world.records] == [(1, DSN), (1, None)]


@turned
async def test_a_host_with_dsn_is_asked_to_tell() -> None:
    world = World(DomainSettings())
    world.arrive()
    connection, transport = await world.open(offers=WITH_DSN)
    assert b"RCPT TO:<m1r0@d1.example> NOTIFY=SUCCESS\r\n" in transport.said()
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert [(len(each.rows), each.accept) for each in world.records] == [(2, None)]


@turned
async def test_ignore_dsn_makes_us_tell_too() -> None:
    world = World(DomainSettings(ignore_dsn=True))
    world.arrive()
    connection, _ = await world.open(offers=WITH_DSN)
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert world.told == ["m1r0"]


@turned
async def test_a_delivery_stands_without_its_dsn() -> None:
    world = World(DomainSettings())
    world.broken = True
    world.arrive()
    connection, _ = await world.open()
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert sorted(world.fates()) == ["m1r0 d 2.0.0", "m1r1 d 2.0.0"] and not world.disk
    assert any(kind == "dsn-failed" and "disk full" in text for kind, text in world.log)
