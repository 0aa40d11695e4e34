"""A real Slot with its scheduler, settler and connections; what is faked is the disk, the spool process, DNS and the sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import Any, cast

import msgspec

from engine.config.settings import DomainSettings
from engine.delivery import slot as slot_module
from engine.delivery.attempt import Failed, Spare
from engine.delivery.backlog import Backlog
from engine.delivery.connection import Connection, OpenFailure
from engine.delivery.outcome import NOWHERE
from engine.delivery.pool import Route
from engine.delivery.settling import Settler
from engine.delivery.slot import Slot
from engine.delivery.sources import Source
from engine.dns import NoTargets
from engine.mail.envelope import Body, Due, Message, due_key
from engine.mail.record import RecipientRecord, decode
from engine.process import SharedCount
from engine.scheduler.queue import Queue
from engine.scheduler.scheduler import Scheduler
from engine.spool.ops import Settle

decode_due = msgspec.msgpack.Decoder(Due).decode

EHLO = b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 8BITMIME\r\n"


def turned(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """*test* in an event loop of its own, within ten seconds."""

    @wraps(test)
    def run() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(10):
                await test()

        asyncio.run(bounded())

    return run


class FakeTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False
        self.writes = 0
        self.unsent = 0

    def set_write_buffer_limits(self, high: int) -> None:
        """Not looked at."""

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.writes += 1
        if not self.closing:
            self.written += data

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def abort(self) -> None:
        self.closing = True

    def said(self) -> bytes:
        """What was written since it was last asked."""
        written, self.written = self.written, b""
        return written


class Log(list[tuple[str, str]]):
    """Events as (kind, text)."""

    def event(self, kind: str, said: str) -> None:
        self.append((kind, said))


class SlotWorld:
    """Queues are numbered from 1, named d<number>.example/<virtual MTA>; `add` puts mail on the disk and announces it."""

    def __init__(self, settings: DomainSettings, *, virtual_mta_limit: int = 0, total: int = 0, bounce_corrupted: bool = False) -> None:
        self.settings = settings
        self.disk: dict[bytes, Due] = {}
        self.names: dict[int, str] = {}
        self.records: list[Settle] = []
        self.unanswered: list[tuple[Settle, Callable[[str | None], None]]] = []
        self.auto = True  # the spool process answers at once
        self.transports: list[FakeTransport] = []
        self.connections: list[Connection] = []
        self.chunks: Callable[[], Any] = lambda: iter(())  # of a body over 256 KB
        self.size_bytes = 6
        self.content = b"body\r\n"
        self.prefix = b""
        self.sender = "a@b.example"
        self.needs = 0
        self.late_date = False
        self.fields: dict[str, bytes] = {}  # of include-headers-from, by virtual MTA
        self.address = "192.0.2.1"
        self.dns_known = True  # so that an idle connection along the same route is had at once
        self.now_ms = slot_module.wall_ms()
        self.log = Log()
        self.scheduler = Scheduler(lambda domain, vmta: self.settings, lambda vmta: virtual_mta_limit)
        self.total = SharedCount(memoryview(bytearray(4)), 0, total)
        self.slot = Slot(
            self.scheduler, cast(Any, self), cast(Any, None), cast(Any, self), self.total, cast(Any, self.log), self.fields, bounce_corrupted
        )
        self.slot.settler = Settler(self.scheduler, cast(Any, self), cast(Any, self), cast(Any, self), cast(Any, self.log), self.slot.plan)
        steps: Any = type("Steps", (), {"tick": lambda *_: 0, "may_expire": lambda *_: True})()
        self.slot.backlog = Backlog(
            self.scheduler, cast(Any, self), self.slot.settler, steps, cast(Any, self.log), lambda vmta: True, slot_module.wall_ms()
        )
        self.slot._opener.open_for = self._open_for  # type: ignore[method-assign]
        self.slot._opener.spare_for = self._spare_for  # type: ignore[method-assign]
        self._messages = 0

    # --- disk, spool process, reporter, sources -------------------------------------------------------------------------------------------

    def add(self, number: int, recipients: int = 1, vmta: str = "v", address: str = "m{message}r{index}@d{number}.example") -> list[str]:
        """A message for so many recipients of queue *number* is on disk and announced; its addresses."""
        self.names[number] = f"d{number}.example/{vmta}"
        self._messages += 1
        stamp_ms = slot_module.wall_ms()
        addresses = [address.format(message=self._messages, index=index, number=number) for index in range(recipients)]
        for index, address in enumerate(addresses):
            self.disk[due_key(number, 50, stamp_ms, self._messages.to_bytes(12, "big"), index)] = Due(address, stamp_ms)
        self.slot.backlog.announced([number], stamp_ms)
        self.slot.plan()
        return addresses

    def due(self, number: int, after: bytes | None, until_ms: int, most: int) -> tuple[list[tuple[bytes, Due]], int | None]:
        keys = sorted(key for key in self.disk if key[:4] == number.to_bytes(4, "big") and key > (after or b""))
        ripe = [key for key in keys if int.from_bytes(key[5:13], "big") <= until_ms]
        later = [int.from_bytes(key[5:13], "big") for key in keys if key not in ripe]
        return [(key, self.disk[key]) for key in ripe[:most]], (later[0] if later and len(ripe) < most else None)

    def queues(self, after: int, most: int) -> list[tuple[int, int]]:
        return []

    def queue_name(self, number: int) -> str:
        return self.names[number]

    def named_due(self, queue: int, until_ms: int, limit: int) -> tuple[str, list[tuple[bytes, Due]], int | None]:
        """The name of a queue, and its rows from the first on."""
        return self.queue_name(queue), *self.due(queue, None, until_ms, limit)

    def messages(self, ids: Iterable[bytes]) -> dict[bytes, Message]:
        body = Body(1, 1, 20, self.size_bytes, 0)
        more: Any = {"needs": self.needs, "late_date": self.late_date}
        return {each: Message(body, self.sender, self.prefix, 1, False, True, "", "", "smtp", "h (127.0.0.1)", "", **more) for each in ids}

    def body(self, body: Body, message_id: bytes) -> bytes:
        return self.content

    def body_chunks(self, body: Body, message_id: bytes) -> Any:
        return self.chunks()

    def submit(self, operation: Settle, done: Callable[[str | None], None]) -> None:
        self.unanswered.append((operation, done))
        if self.auto:
            asyncio.get_running_loop().call_soon(self.answer)

    def answer(self) -> None:
        """The spool process commits everything that waits."""
        waiting, self.unanswered = self.unanswered, []
        for operation, done in waiting:
            if isinstance(operation, Settle):
                for row in operation.rows:
                    del self.disk[row.key]
                    if row.again_ms:
                        number = int.from_bytes(row.key[:4], "big")
                        self.disk[due_key(number, 50, row.again_ms, row.key[13:25], int.from_bytes(row.key[25:], "big"))] = decode_due(row.due)
                self.records.append(operation)
            done(None)

    def accept_for(self, *_: object) -> None:
        """Nobody wants a DSN."""

    def next(self, vmta: str) -> Source:
        return Source("127.0.0.1", "me.example")

    # --- connections ----------------------------------------------------------------------------------------------------------------------

    def _route(self, source: Source) -> Route:
        return Route(source.ip, source.ehlo, "mx.example", self.address, 25)

    def _spare_for(self, queue: Queue, source: Source) -> Connection | None:
        return self.slot._pool.take_along(self._route(source)) if self.dns_known else None

    async def _open_for(self, queue: Queue, source: Source) -> Connection | Spare | Failed | NoTargets:
        route = self._route(source)
        spare = self.slot._pool.take_along(route)
        if spare is not None:
            return Spare(spare)
        connection = Connection(self.slot, queue, route, source.ip, slot_module.monotonic_s())
        transport = FakeTransport()
        self.transports.append(transport)
        self.connections.append(connection)
        connection.connection_made(cast(asyncio.BaseTransport, transport))
        try:
            await connection.opening
        except OpenFailure as failure:
            return Failed("4.4.2", failure.why, NOWHERE, failure.reply, permanent=False)
        return connection

    async def rest(self) -> None:
        """Let the loop turn until nothing more happens by itself."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def open(self, index: int = -1, offers: bytes = EHLO) -> tuple[Connection, FakeTransport]:
        """The connection greets, and gets its first transaction."""
        await self.rest()
        connection, transport = self.connections[index], self.transports[index]
        connection.data_received(b"220 mx.example\r\n")
        assert transport.said() == b"EHLO me.example\r\n"
        connection.data_received(offers)
        await self.rest()
        return connection, transport

    def fates(self) -> list[str]:
        """The records of recipients, as "m1r0 d 2.0.0", in order."""
        found = [decode(row.record) for operation in self.records for row in operation.rows if row.record]
        return [f"{record.rcpt.partition('@')[0]} {record.type} {record.dsn_status}" for record in found if isinstance(record, RecipientRecord)]
