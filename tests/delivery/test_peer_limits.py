"""LIMITS (RFC 9422): what a host announces is kept to."""

from __future__ import annotations

import pytest

from engine.config.settings import DomainSettings
from engine.smtp.extensions import PeerLimits, read_limits
from tests.delivery.slot_world import EHLO, SlotWorld, turned

TAKEN = b"250 2.0.0 taken\r\n"


def offering(limits: bytes) -> bytes:
    return EHLO.replace(b"250 8BITMIME", b"250-8BITMIME\r\n250 LIMITS " + limits)


@pytest.mark.parametrize(
    ("parameters", "limits"),
    [
        ("RCPTMAX=20 MAILMAX=5", PeerLimits(5, 20)),
        ("mailmax=5 RCPTDOMAINMAX=1", PeerLimits(5)),
        ("RCPTMAX=999999", PeerLimits(0, 999_999)),
        ("", PeerLimits()),
        ("RCPTMAX=0 MAILMAX=05", PeerLimits()),
        ("RCPTMAX=1000000 MAILMAX=-1 RCPTMAX", PeerLimits()),
        ("XRCPTMAX=3 RCPTMAX=3x RCPTMAX=\u0663", PeerLimits()),
    ],
)
def test_limits(parameters: str, limits: PeerLimits) -> None:
    assert read_limits(parameters) == limits


@turned
async def test_recipients_beyond_the_limit_go_in_the_next_transaction() -> None:
    world = SlotWorld(DomainSettings(max_smtp_out=1))
    addresses = world.add(1, 5)
    connection, transport = await world.open(offers=offering(b"RCPTMAX=2"))
    for count in (2, 2, 1):
        assert transport.said().count(b"RCPT TO:") == count
        connection.data_received(b"250 2.1.0 ok\r\n" + b"250 2.1.5 ok\r\n" * count + b"354 go ahead\r\n")
        transport.said()
        connection.data_received(TAKEN)
        await world.rest()
    assert world.fates() == [f"{address.partition('@')[0]} d 2.0.0" for address in addresses] and not world.disk


@turned
async def test_messages_beyond_the_limit_go_on_another_connection() -> None:
    world = SlotWorld(DomainSettings(max_smtp_out=1))
    for _ in range(3):
        world.add(1)
    connection, transport = await world.open(offers=offering(b"MAILMAX=2"))
    for _ in range(2):
        assert transport.said().startswith(b"MAIL FROM:")
        connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n")
        transport.said()
        connection.data_received(TAKEN)
        await world.rest()
    assert transport.said() == b"QUIT\r\n"
    assert world.fates() == ["m1r0 d 2.0.0", "m2r0 d 2.0.0"]


@turned
async def test_a_narrower_limit_of_ours_stands() -> None:
    world = SlotWorld(DomainSettings(max_smtp_out=1, max_msg_per_connection=1, max_rcpt_per_message=1))
    world.add(1, 2)
    connection, transport = await world.open(offers=offering(b"MAILMAX=2 RCPTMAX=2"))
    assert transport.said().count(b"RCPT TO:") == 1
    connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n")
    transport.said()
    connection.data_received(TAKEN)
    await world.rest()
    assert transport.said() == b"QUIT\r\n"
