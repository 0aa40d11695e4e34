"""What a message is given when it is sent: date-header-time delivery, include-headers-from of virtual MTAs and pools."""

from __future__ import annotations

import pytest

from engine.config import build, from_text
from engine.config.settings import DomainSettings
from engine.delivery.dressing import dressed, fields_of
from engine.mail.envelope import Body, Message
from engine.mail.received import date
from tests.delivery.slot_world import SlotWorld, turned

DATED = b"Received: us\r\nMessage-ID: <a@b>\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n"
FIELDS = b"X-Date: Date: one\r\nX-Of: v\r\n"
NOW_MS = 1_800_000_000_000
NOW = f"Date: {date(NOW_MS // 1000)}\r\n".encode()


def message(prefix: bytes, late_date: bool = False) -> Message:
    return Message(Body(1, 1, 20, 6, 0), "a@b.example", prefix, 1, False, True, "", "", "smtp", "h", "", late_date=late_date)


@pytest.mark.parametrize(
    ("prefix", "late_date", "fields", "sent"),
    [
        (DATED, False, b"", DATED),
        (DATED, True, b"", b"Received: us\r\nMessage-ID: <a@b>\r\n" + NOW),
        (b"Date: x\r\n", True, FIELDS, NOW + FIELDS),
        (b"", False, FIELDS, FIELDS),
        (DATED, False, FIELDS, DATED + FIELDS),
    ],
)
def test_what_is_sent(prefix: bytes, late_date: bool, fields: bytes, sent: bytes) -> None:
    once = dressed(message(prefix, late_date), fields, NOW_MS)
    assert once.prefix == sent
    assert dressed(once, fields, NOW_MS + 5_000) == once, "a copy of what was sent"


@turned
async def test_each_attempt_shows_its_own_time_and_the_size_is_that_of_what_is_sent() -> None:
    world = SlotWorld(DomainSettings())
    world.prefix, world.late_date = DATED, True
    world.fields["v"] = FIELDS
    world.add(1)
    connection, transport = await world.open()
    assert f" SIZE={len(DATED + FIELDS) + 6}\r\n".encode() in transport.said()
    connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n")
    sent = transport.said()
    assert sent.startswith(DATED[: DATED.index(b"Date: ")] + b"Date: ") and sent.endswith(FIELDS + b"body\r\n.\r\n") and DATED not in sent
    assert len(sent) == len(DATED + FIELDS) + 6 + 3


@turned
async def test_other_virtual_mtas_send_what_they_have() -> None:
    world = SlotWorld(DomainSettings())
    world.prefix = b"Received: us\r\n"
    world.fields["w"] = FIELDS
    world.add(1)
    connection, transport = await world.open()
    transport.said()
    connection.data_received(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n")
    assert transport.said() == b"Received: us\r\nbody\r\n.\r\n"


def test_a_virtual_mta_adds_its_own_to_those_of_its_pools() -> None:
    files = {"v.txt": "X-V: 1\n", "p.txt": "X-P: 1\n", "q.txt": "X-Q: 1\n"}
    text = (
        "log-file /l\n<virtual-mta v>\ninclude-headers-from v.txt\n</virtual-mta>\n<virtual-mta w>\n</virtual-mta>\n<virtual-mta x>\n</virtual-mta>\n"
        "<virtual-mta-pool p>\ninclude-headers-from p.txt\nvirtual-mta v\nvirtual-mta w\n</virtual-mta-pool>\n"
        "<virtual-mta-pool q>\ninclude-headers-from q.txt\nvirtual-mta v\n</virtual-mta-pool>\n"
    )
    loaded = build(from_text(text, **files))
    assert loaded.config is not None, loaded.problems
    assert fields_of(loaded.config) == {"v": b"X-P: 1\r\nX-Q: 1\r\nX-V: 1\r\n", "w": b"X-P: 1\r\n"}


@pytest.mark.parametrize("stanza", ["virtual-mta v", "virtual-mta-pool p"])
def test_a_bad_file_stops_the_start(stanza: str) -> None:
    tag = stanza.partition(" ")[0]
    member = "virtual-mta w\n" if tag == "virtual-mta-pool" else ""
    text = f"log-file /l\n<virtual-mta w>\n</virtual-mta>\n<{stanza}>\n{member}include-headers-from f.txt\n</{tag}>\n"
    loaded = build(from_text(text, **{"f.txt": "no field\n"}))
    assert loaded.config is None
    (problem,) = loaded.problems
    assert "line 1 is neither" in problem.text
