"""A spool service stepped by hand, and workers that speak its protocol over plain sockets: nothing runs unless the test says so."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import msgspec

from engine.log import EventLog
from engine.spool import SegmentWriter, SpoolReader, format, wire
from engine.spool.ops import Accept, Body, Due, Message, NewRecipient, Operation, Settle, Settlement
from engine.spool.service import SpoolService

encode = msgspec.msgpack.encode


class Spool:
    """The service in this process; `crash` and `start` make it die and live again."""

    def __init__(self, base: Path, **options: Any) -> None:
        self.base = base
        self.root = base / "spool"
        self.options = options
        self.log_path = str(base / "log")
        self.service: SpoolService
        self.start()

    def start(self, **options: Any) -> None:
        self.options |= options
        path = self.base / "socket"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(64)
        self.listener = listener
        self.log = EventLog(self.log_path, "spool/0")
        self.service = SpoolService(self.root, listener, self.log, **self.options)

    def step(self, turns: int = 4) -> None:
        for _ in range(turns):
            self.service.turn(0)

    def crash(self) -> None:
        """End without committing anything more."""
        for session in self.service._sessions.values():
            session.connection.close()
        self.service._poller.close()
        self.service.files.close()
        self.service.env.close()
        self.listener.close()
        self.log.close()

    def close(self) -> None:
        self.service.close()
        self.listener.close()
        self.log.close()

    def reader(self) -> SpoolReader:
        return SpoolReader(self.root, (self.service.env, self.service.tables))

    def log_text(self) -> str:
        self.log.flush()
        return Path(self.log_path).read_text()

    def files(self) -> list[str]:
        return sorted(os.listdir(self.root / format.BODIES))

    def rows(self) -> list[tuple[bytes, bytes]]:
        with self.service.env.begin() as txn:
            return list(txn.cursor(self.service.tables.due))

    def table(self, name: str) -> dict[bytes, bytes]:
        with self.service.env.begin() as txn:
            return dict(txn.cursor(getattr(self.service.tables, name)))


class Worker:
    """One connection to a stepped Spool, with an epoch."""

    def __init__(
        self, spool: Spool, role: str = "listener", virtual_mtas: tuple[str, ...] = (), fallback: bool = False, resume: int = 0, index: int = 0
    ) -> None:  # fmt: skip
        self.spool = spool
        self.index = index
        self.role = role
        self.virtual_mtas = virtual_mtas
        self.fallback = fallback
        self.answers: list[Any] = []
        self.refused: dict[int, str] = {}
        self.upto = 0
        self.sent: list[Operation] = []
        self.counter = 0
        self.writer_: SegmentWriter
        self.epoch = 0
        self.on_abandoned: Any = None
        self.connect(resume)

    def connect(self, resume: int = 0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(self.spool.base / "socket"))
        self.inbox = bytearray()
        self.socket.sendall(wire.frame(wire.Hello(self.role, self.index, list(self.virtual_mtas), self.fallback, resume)))
        self.spool.step()
        self.hear()

    def hear(self) -> list[Any]:
        """What came since the last time."""
        self.socket.setblocking(False)
        try:
            while data := self.socket.recv(1 << 20):
                self.inbox += data
        except BlockingIOError:
            pass
        self.socket.setblocking(True)
        news = [wire.decode_answer(frame) for frame in wire.take_frames(self.inbox)]
        for answer in news:
            if isinstance(answer, wire.Welcome):
                self.epoch = answer.epoch
                self.upto = answer.last
                self.refused |= dict(answer.refused)
            elif isinstance(answer, wire.Ack):
                self.upto = max(self.upto, answer.upto)
                self.refused |= dict(answer.refused)
            elif isinstance(answer, wire.Abandoned) and self.on_abandoned is not None:
                self.on_abandoned(answer.epoch, answer.segment)
        self.answers += news
        return news

    def send(self, *operations: Operation) -> None:
        self.sent += operations
        self.socket.sendall(wire.batch_frame(self.upto, [encode(operation) for operation in operations]))

    def do(self, *operations: Operation) -> list[str | None]:
        """Send, let the service work, and return the answers to *operations*."""
        first = len(self.sent) + 1
        self.send(*operations)
        self.spool.step()
        self.hear()
        assert self.upto >= first + len(operations) - 1
        return [self.refused.get(number) for number in range(first, first + len(operations))]

    def resume(self) -> None:
        """Connect again after a restart and send what was not applied."""
        self.socket.close()
        self.connect(self.epoch)
        if self.sent[self.upto :]:
            self.socket.sendall(wire.batch_frame(self.upto, [encode(operation) for operation in self.sent[self.upto :]]))

    def submit(self, operation: Operation, done: Any) -> None:
        """As SegmentWriter needs it."""
        self.send(operation)

    def writer(self, **options: Any) -> SegmentWriter:
        return SegmentWriter(self.spool.root / format.BODIES, self, **options)

    def new_id(self) -> bytes:
        self.counter += 1
        return b"\0\0" + self.epoch.to_bytes(4, "big") + self.counter.to_bytes(6, "big")

    def close(self) -> None:
        self.socket.close()
        self.spool.step()


def message(body: Body, **fields: Any) -> bytes:
    values: dict[str, Any] = {"return_path": "a@b.example", "prefix": b"Received: x\r\n", "queued_ms": 1, "eight_bit": False, "notify_sender": True}
    values |= {"ret": "", "env_id": "", "src_type": "smtp", "src_mta": "h (127.0.0.1)", "job_id": ""} | fields
    return encode(Message(body=body, **values))


def accept(identity: bytes, body: Body, *queues: str, records: tuple[bytes, ...] = ()) -> Accept:
    """An Accept with one recipient for each of *queues*."""
    recipients = [NewRecipient(queue, encode(Due(f"r{index}@x.example", 1))) for index, queue in enumerate(queues)]
    return Accept(identity, message(body), body.epoch, body.segment, body.size_bytes, recipients, list(records))


def settle(*keys: bytes, record: bytes = b"record") -> Settle:
    return Settle([Settlement(key, record) for key in keys])
