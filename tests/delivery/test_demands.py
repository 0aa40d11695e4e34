"""Messages that need more than every host has: how they go where it is offered, and who bounces where it is not."""

from __future__ import annotations

from engine.config.settings import DomainSettings
from engine.mail.envelope import NEEDS_BINARYMIME, NEEDS_SMTPUTF8
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


# --- content by BDAT --------------------------------------------------------------------------------------------------------------------

BINARY = NEEDS_BINARYMIME
RECIPIENT_TAKEN = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n"
CHUNKS = offering("CHUNKING", "BINARYMIME")


@turned
async def test_text_goes_in_one_chunk_without_stuffed_dots() -> None:
    world = SlotWorld(DomainSettings())
    world.prefix, world.content = b"Received: x\r\n", b"\r\n..dot\r\n"
    world.add(1)
    connection, transport = await world.open(offers=CHUNKS)
    assert b"DATA" not in transport.said()
    connection.data_received(RECIPIENT_TAKEN)
    assert transport.said() == b"BDAT 21 LAST\r\nReceived: x\r\n\r\n.dot\r\n"
    connection.data_received(b"250 2.0.0 taken\r\n")
    await world.rest()
    assert world.fates() == ["m1r0 d 2.0.0"] and connection.is_idle


@turned
async def test_ignore_chunking_keeps_to_data() -> None:
    world = SlotWorld(DomainSettings(ignore_chunking=True))
    world.add(1)
    connection, transport = await world.open(offers=CHUNKS)
    assert transport.said().endswith(b"DATA\r\n")
    connection.data_received(ACCEPTED)
    assert transport.said() == b"body\r\n.\r\n"


@turned
async def test_a_large_body_goes_in_chunks() -> None:
    world = SlotWorld(DomainSettings())
    world.size_bytes = 300_000
    world.chunks = lambda: iter((b"one\r\n.", b".two\r\n", b"."))  # a dot that is one half of a stuffed one, at a cut
    world.add(1)
    connection, transport = await world.open(offers=CHUNKS)
    transport.said()
    connection.data_received(RECIPIENT_TAKEN)
    assert transport.said() == b"BDAT 5\r\none\r\nBDAT 6\r\n.two\r\nBDAT 0 LAST\r\n"
    connection.data_received(b"250 one\r\n250 two\r\n250 2.0.0 taken\r\n")
    await world.rest()
    assert world.fates() == ["m1r0 d 2.0.0"]


@turned
async def test_without_pipelining_each_chunk_waits_for_the_reply_to_the_one_before() -> None:
    world = SlotWorld(DomainSettings(ignore_pipelining=True))
    world.size_bytes = 300_000
    world.chunks = lambda: iter((b"one\r\n", b"two\r\n"))
    world.add(1)
    connection, transport = await world.open(offers=CHUNKS)
    for reply, then in (
        (b"250 2.1.0 ok\r\n", b"RCPT TO:<m1r0@d1.example>\r\n"),
        (b"250 2.1.5 ok\r\n", b"BDAT 5\r\none\r\n"),
        (b"250 one\r\n", b"BDAT 5\r\ntwo\r\n"),
        (b"250 two\r\n", b"BDAT 0 LAST\r\n"),
        (b"250 2.0.0 taken\r\n", b""),
    ):
        transport.said()
        connection.data_received(reply)
        assert transport.said() == then
    await world.rest()
    assert world.fates() == ["m1r0 d 2.0.0"]


@turned
async def test_binary_content_goes_as_it_is_where_it_may_and_bounces_elsewhere() -> None:
    world = SlotWorld(DomainSettings())
    world.needs, world.content = BINARY, b"a\nb\r.\0\r\n.\r\nno end"
    world.add(1)
    connection, transport = await world.open(offers=CHUNKS)
    assert transport.said().startswith(b"MAIL FROM:<a@b.example> SIZE=6 BODY=BINARYMIME\r\n")
    connection.data_received(RECIPIENT_TAKEN)
    assert transport.said() == b"BDAT 17 LAST\r\n" + world.content
    for offers in (EHLO, offering("CHUNKING"), offering("BINARYMIME")):
        world = SlotWorld(DomainSettings())
        world.needs = BINARY
        world.add(1)
        _, transport = await world.open(offers=offers)
        assert world.fates() == ["m1r0 b 5.6.3"] and transport.said() == b"", offers
    world = SlotWorld(DomainSettings(ignore_chunking=True))
    world.needs = BINARY
    world.add(1)
    await world.open(offers=CHUNKS)
    assert world.fates() == ["m1r0 b 5.6.3"]
