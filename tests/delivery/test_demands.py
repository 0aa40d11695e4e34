"""Messages that need more than every host has: how they go where it is offered, and who bounces where it is not."""

from __future__ import annotations

from engine.config.settings import DomainSettings
from engine.mail.envelope import NEEDS_SMTPUTF8
from tests.delivery.slot_world import EHLO, SlotWorld, turned

ACCEPTED = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"


def offering(*keywords: str) -> bytes:
    return EHLO.replace(b"250 8BITMIME", b"250-8BITMIME") + b"".join(b"250-" + keyword.encode() + b"\r\n" for keyword in keywords) + b"250 HELP\r\n"


@turned
async def test_addresses_in_utf8_go_where_smtputf8_is() -> None:
    world = SlotWorld(DomainSettings())
    world.needs, world.sender = NEEDS_SMTPUTF8, "jürgen@bücher.example"
    world.add(1, address="m{message}r{index}ü@exämple.example")
    connection, transport = await world.open(offers=offering("SMTPUTF8"))
    said = transport.said().decode()
    assert said.startswith("MAIL FROM:<jürgen@bücher.example> SIZE=6 SMTPUTF8\r\nRCPT TO:<m1r0ü@exämple.example>\r\n")
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert world.fates() == ["m1r0ü d 2.0.0"]


@turned
async def test_ascii_addresses_go_to_every_host_and_others_bounce_at_one_without_smtputf8() -> None:
    world = SlotWorld(DomainSettings())
    world.needs, world.sender = NEEDS_SMTPUTF8, "a@bücher.example"
    world.add(1, 1)
    key, due = next(iter(world.disk.items()))
    world.disk[key[:-1] + b"\1"] = type(due)("ü@exämple.example", due.queued_ms)
    world.disk[key[:-1] + b"\2"] = type(due)("m1r2@exämple.example", due.queued_ms)
    connection, transport = await world.open()
    assert world.fates() == ["ü b 5.6.7"]
    assert transport.said() == (
        b"MAIL FROM:<a@xn--bcher-kva.example> SIZE=6\r\nRCPT TO:<m1r0@d1.example>\r\nRCPT TO:<m1r2@xn--exmple-cua.example>\r\nDATA\r\n"
    )
    connection.data_received(ACCEPTED.replace(b"354", b"250 2.1.5 ok\r\n354"))
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert world.fates() == ["ü b 5.6.7", "m1r0 d 2.0.0", "m1r2 d 2.0.0"]
    assert connection.is_idle


@turned
async def test_a_sender_in_utf8_lets_nobody_pass_a_host_without_smtputf8() -> None:
    """And the connection takes the next message, which has none."""
    world = SlotWorld(DomainSettings())
    world.needs, world.sender = NEEDS_SMTPUTF8, "jürgen@example.com"
    world.add(1, 2)
    connection, transport = await world.open()
    assert world.fates() == ["m1r0 b 5.6.7", "m1r1 b 5.6.7"] and transport.said() == b"" and connection.is_idle
    world.needs, world.sender = 0, "a@b.example"
    world.add(1)
    await world.rest()
    assert transport.said().startswith(b"MAIL FROM:<a@b.example>")
