"""What lies in one spool of a running engine, asked of its spool process page by page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from engine.control import spool_conversation
from engine.errors import EngineError
from engine.mail.envelope import Due, Message
from engine.process import spool_socket

HEADS_S = 1.0  # what `status` spends on counting queues


class Waiting(NamedTuple):
    """A recipient that waits: its row, and how many of its queue lie before it."""

    number: int
    queue: str
    key: bytes
    due: Due
    ahead: int
    spool: str = ""  # path of the one that it lies in; "": the first, which mail is sent from

    @property
    def message(self) -> bytes:
        return self.key[13:25]

    @property
    def due_ms(self) -> int:
        return int.from_bytes(self.key[5:13], "big")


@dataclass
class Tally:
    """What lies in one queue."""

    number: int
    name: str
    recipients: int = 0
    size_bytes: int = 0
    first_due_ms: int = 0


@dataclass
class Tallies:
    """What lies in all queues; not *whole* where there was no time to count on."""

    queues: list[Tally] = field(default_factory=list)
    whole: bool = True


class Pages:
    """The spool at *path*; walks end at *until_s* on the monotonic clock.  NotRunning from the first question to a process that is not there."""

    def __init__(self, path: str, until_s: float) -> None:
        self.path = path
        self._until_s = until_s
        self._socket = spool_socket(path)
        self._numbers: dict[str, int] = {}

    def counts(self) -> dict[str, Any]:
        """The spool's totals."""
        return self._ask({"q": "counts", "top": 0})

    def message(self, identity: bytes) -> tuple[Message | None, list[tuple[int, str]], bool]:
        """(message, its queues, whether its id was ever given); None for one that is not in the spool."""
        answer = self._ask({"q": "message", "id": identity})
        if not answer.get("ok"):
            return None, [], bool(answer.get("issued"))
        return msgspec.msgpack.decode(answer["message"], type=Message), [(number, name) for number, name in answer["queues"]], True

    def names(self, prefix: str) -> list[tuple[str, int]]:
        """(name, number) of the queues whose names begin with *prefix*, with mail or without."""
        found: list[tuple[str, int]] = []
        after = ""
        with spool_conversation(self._socket) as put:
            while time.monotonic() < self._until_s:
                answer = _good(put({"q": "names", "prefix": prefix, "after": after}))
                found += [(name, number) for name, number in answer["names"]]
                after = answer["next"]
                if not after:
                    break
        return found

    def rows(self, number: int, name: str, *, message: bytes | None = None, address: str | None = None) -> Iterator[Waiting]:
        """The recipients in a queue, in the order in which they are sent, of one message or to one address."""
        after, passed = b"", 0
        with spool_conversation(self._socket) as put:
            while time.monotonic() < self._until_s:
                answer = _good(put({"q": "rows", "queue": number, "after": after, "message": message, "address": address}))
                for key, due, before in answer["rows"]:
                    yield Waiting(number, name, key, msgspec.msgpack.decode(due, type=Due), passed + before)
                passed += answer["walked"]
                after = answer["next"]
                if not after:
                    return

    def length(self, number: int) -> tuple[int, bool]:
        """(recipients in a queue, whether these are all)."""
        after, passed = b"", 0
        with spool_conversation(self._socket) as put:
            while time.monotonic() < self._until_s:
                answer = _good(put({"q": "rows", "queue": number, "after": after, "message": b""}))
                passed += answer["walked"]
                after = answer["next"]
                if not after:
                    return passed, True
        return passed, False

    def tallies(self, sizes: bool = False) -> Tallies:
        """What lies in every queue that has mail."""
        found: dict[int, Tally] = {}
        after = b""
        with spool_conversation(self._socket) as put:
            while time.monotonic() < self._until_s:
                answer = _good(put({"q": "queues", "after": after, "sizes": sizes}))
                for number, name, rows, size_bytes, first_due_ms in answer["queues"]:
                    tally = found.setdefault(number, Tally(number, name, first_due_ms=first_due_ms))
                    tally.recipients += rows
                    tally.size_bytes += size_bytes
                    tally.first_due_ms = min(tally.first_due_ms, first_due_ms)
                after = answer["next"]
                if not after:
                    return Tallies(list(found.values()))
        return Tallies(list(found.values()), whole=False)

    def heads(self) -> tuple[set[str], bool]:
        """(names of queues that have mail, whether these are all)."""
        found: set[str] = set()
        after = b""
        until_s = time.monotonic() + HEADS_S
        with spool_conversation(self._socket) as put:
            while time.monotonic() < until_s:
                answer = _good(put({"q": "queues", "after": after, "heads": True}))
                found.update(name for _, name, _, _, _ in answer["queues"])
                after = answer["next"]
                if not after:
                    return found, True
        return found, False

    def number(self, name: str) -> int:
        """The number of the queue *name*; 0 if it never had mail here."""
        if name not in self._numbers:
            self._numbers[name] = dict(self.names(name)).get(name, 0)
        return self._numbers[name]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with spool_conversation(self._socket, timeout_s=5) as put:
            return put(question)


def _good(answer: dict[str, Any]) -> dict[str, Any]:
    if not answer.get("ok"):
        raise EngineError(f"the spool process refuses: {answer.get('error', 'it does not say why')}")
    return answer
