"""log-connections, log-commands, log-data, log-resolution, log-transfer-failures: who asked for them, and for no others."""

from __future__ import annotations

from typing import Any, cast

import pytest

from engine.config.settings import DomainSettings
from engine.delivery.pool import Route
from engine.delivery.trace import DATA_CHARS, LINES_MOST, Trace, log_resolution
from engine.dns import NoTargets, Targets
from engine.dns.targets import Target
from engine.scheduler.queue import Queue
from tests.delivery.slot_world import Log, SlotWorld, turned

ROUTE = Route("127.0.0.1", "me.example", "mx", "192.0.2.1", 25)
ACCEPTED = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"


async def logged(settings: DomainSettings, greeting: bytes = b"220 mx.example\r\n") -> list[tuple[str, str]]:
    """The log of one delivery, whose connection is then lost."""
    world = SlotWorld(settings)
    world.add(1)
    await world.rest()
    connection = world.connections[0]
    if settings.traced:
        connection.trace = Trace(cast(Any, world.log), connection.queue, connection.route)
        connection.trace.opened()
    connection.data_received(greeting)
    connection.data_received(b"250-mx.example\r\n250 PIPELINING\r\n")
    await world.rest()
    connection.data_received(ACCEPTED)
    connection.data_received(b"250 2.0.0 taken\r\n")
    connection.connection_lost(None)
    await world.rest()
    return world.log


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, {"delivered"}),
        ({"log_connections": True}, {"delivered", "connected", "disconnected"}),
        ({"log_commands": True}, {"delivered", "dialogue"}),
        ({"log_data": True}, {"delivered", "data"}),
    ],
)
def test_what_is_logged_is_what_was_asked_for(settings: dict[str, bool], kinds: set[str]) -> None:
    @turned
    async def run() -> None:
        assert {kind for kind, _ in await logged(DomainSettings(**settings))} == kinds  # type: ignore[arg-type]

    run()


@turned
async def test_a_dialogue_is_logged_line_by_line_and_escaped() -> None:
    log = await logged(DomainSettings(log_commands=True), b"220 mx\x1b[31m\xff\\ \r\n")
    said = [text.partition("[192.0.2.1]:25 ")[2] for kind, text in log if kind == "dialogue"]
    assert said[:2] == ['>>> "220 mx\\x1b[31m\\xff\\\\ "', '<<< "EHLO me.example"']
    assert '<<< "RCPT TO:<m1r0@d1.example>"' in said and said[-1] == '>>> "250 2.0.0 taken"'
    assert all("body" not in line for line in said)


def test_it_is_bounded_and_keeps_no_secret() -> None:
    log = Log()
    trace = Trace(cast(Any, log), Queue(1, "d/v", DomainSettings(log_commands=True, log_data=True)), ROUTE)
    trace.got(b"250-x\r\n" * 10_000)
    assert len(log) == LINES_MOST + 1 and log[-1][1].endswith("bytes more")
    trace.got(b"2" * 100_000)
    trace.body((b"y" * 1_000_000,))
    assert all(len(text) < DATA_CHARS + 200 for _, text in log)
    log.clear()
    trace.sent(b"AUTH PLAIN AHNlY3JldA==\r\n")
    assert "AHNl" not in log[0][1]


@pytest.mark.parametrize("cut", [3, 12, 30, 70])
def test_no_log_shows_a_private_key(cut: int) -> None:
    """Retained, or in a spool of old: a key may still lie in what is sent."""
    log = Log()
    trace = Trace(cast(Any, log), Queue(1, "d/v", DomainSettings(log_data=True)), ROUTE)
    message = b"Subject: s\r\nX-DKIM-Key: -----BEGIN\r\n MIIEow\r\nX-After: a\r\n\r\nx-dkim-key: text\r\n"
    for _ in range(2):
        log.clear()
        trace.begin_body()
        trace.body((message[:cut],))
        trace.body((message[cut:],))
        shown = "".join(text.partition(' bytes "')[2][:-1] for _, text in log)
        assert shown == "Subject: s\\r\\nX-After: a\\r\\n\\r\\nx-dkim-key: text\\r\\n"


def test_a_resolution_is_logged() -> None:
    log, queue = Log(), Queue(1, "d/v", DomainSettings())
    log_resolution(cast(Any, log), queue, Targets((Target("mx\n", "192.0.2.1", 25, 10), Target("b", "192.0.2.2", 26, 20)), 60.0))
    log_resolution(cast(Any, log), queue, NoTargets("nxdomain", "5.1.2", "domain d does not exist"))
    assert log == [
        ("resolved", "queue=d/v ttl=60s 10 mx\\n[192.0.2.1]:25 20 b[192.0.2.2]:26"),
        ("resolved", 'queue=d/v nxdomain status=5.1.2 reason="domain d does not exist"'),
    ]


@pytest.mark.parametrize(("stage", "wanted", "lines"), [("body", True, 1), ("body", False, 0), ("rcpt", True, 0)])
def test_a_transfer_that_breaks_off_is_logged(stage: str, wanted: bool, lines: int) -> None:
    @turned
    async def run() -> None:
        world = SlotWorld(DomainSettings(log_transfer_failures=wanted))
        world.add(1)
        connection, _ = await world.open()
        connection.data_received(ACCEPTED if stage == "body" else b"250 2.1.0 ok\r\n")
        connection.connection_lost(None)
        await world.rest()
        assert [kind for kind, _ in world.log].count("transfer-failed") == lines

    run()
