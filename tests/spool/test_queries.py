"""Questions to the spool process: whole answers from bounded pages, and who may only ask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.mail.envelope import Due
from engine.spool import queries, service, wire
from tests.spool.stepping import Spool, Worker
from tests.spool.test_service import BODY, listener, put


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path)
    yield made
    made.close()


class Asker:
    """A control connection."""

    def __init__(self, spool: Spool) -> None:
        self.worker = Worker(spool, "control")

    def __call__(self, **question: object) -> dict[str, Any]:
        self.worker.socket.sendall(wire.frame(question))
        self.worker.spool.step()
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            data += self.worker.socket.recv(1 << 16)
        found: dict[str, Any] = msgspec.msgpack.decode(data[4:])
        return found

    def pages(self, key: str, **question: object) -> list[dict[str, Any]]:
        """Every page, each bounded."""
        found, after = [], b""
        while True:
            found.append(self(after=after, **question))
            assert found[-1]["ok"]
            after = found[-1]["next"]
            if not after:
                return found


def test_rows_come_page_by_page_in_order_with_what_lies_before(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PAGE_STEPS", 3)
    worker, ask = listener(spool), Asker(spool)
    ids = [put(worker, "a/v", "a/v", "b/v") for _ in range(5)]
    number = dict(ask(q="names", prefix="a/")["names"])["a/v"]
    pages = ask.pages("rows", q="rows", queue=number)
    assert [page["walked"] for page in pages] == [3, 3, 3, 1]
    rows = [row for page in pages for row in page["rows"]]
    assert [key[13:25] for key, _, _ in rows] == [identity for identity in ids for _ in range(2)]
    assert sorted(rows) == rows
    third = [(page, row) for page in ask.pages("rows", q="rows", queue=number, message=ids[2]) for row in page["rows"]]
    assert [row[2] for _, row in third] == [1, 2], "one row of the second page, two of it, lie before"
    found = [row for page in ask.pages("rows", q="rows", queue=number, address="R1@X.example") for row in page["rows"]]
    assert [msgspec.msgpack.decode(due, type=Due).address for _, due, _ in found] == ["r1@x.example"] * 5


def test_queues_are_counted_page_by_page_and_their_heads_alone_are_quick(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PAGE_STEPS", 4)
    worker, ask = listener(spool), Asker(spool)
    for _ in range(4):
        put(worker, "a/v", "a/v", "b/v")
    put(worker, "c/w")
    found: dict[str, list[int]] = {}
    pages = ask.pages("queues", q="queues", sizes=True)
    for page in pages:
        assert len(page["queues"]) <= 4
        for _, name, rows, size_bytes, _ in page["queues"]:
            known = found.setdefault(name, [0, 0])
            known[0] += rows
            known[1] += size_bytes
    each = len(b"".join(BODY))
    assert found == {"a/v": [8, 8 * each], "b/v": [4, 4 * each], "c/w": [1, each]}
    heads = ask.pages("queues", q="queues", heads=True)
    assert [entry[1] for page in heads for entry in page["queues"]] == ["a/v", "b/v", "c/w"]
    assert len(heads) == 1


def test_names_by_prefix(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "PAGE_MATCHES", 2)
    worker, ask = listener(spool), Asker(spool)
    for name in ("a.example/v", "a.example/w", "a.example/x", "ab.example/v", "b.example/v"):
        put(worker, name)
    first = ask(q="names", prefix="a.example/")
    second = ask(q="names", prefix="a.example/", after=first["next"])
    assert [name for name, _ in first["names"] + second["names"]] == ["a.example/v", "a.example/w", "a.example/x"]
    assert second["next"] == ""
    assert ask(q="names", prefix="c")["names"] == []


def test_a_message_that_is_gone_was_once_given_its_id_and_another_never(spool: Spool) -> None:
    worker, ask = listener(spool), Asker(spool)
    identity = put(worker, "a/v")
    assert [name for _, name in ask(q="message", id=identity)["queues"]] == ["a/v"]
    assert ask(q="message", id=worker.new_id()) == {"ok": False, "error": "no such message", "issued": True}
    later = identity[:2] + (spool.service.ledger.next_epoch).to_bytes(4, "big") + identity[6:]
    assert not ask(q="message", id=later)["issued"]
    assert not ask(q="message", id=b"\1\1" + identity[2:])["issued"]
    assert not ask(q="message", id=b"short")["ok"]
    for nonsense in ({"q": "rows"}, {"q": "names"}, {"q": "rows", "queue": "x"}, {"q": "message", "id": 7}):
        assert not ask(**nonsense)["ok"]


def test_another_user_may_ask_and_be_no_worker(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.os, "geteuid", lambda: os.getuid() + 1)
    assert Asker(spool)(q="counts")["ok"]
    stranger = Worker(spool, "listener")
    assert stranger.answers == [wire.Rejected("another user may ask, and be no worker")]
    assert stranger.socket.recv(1) == b""


def test_askers_are_few(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_ASKERS", 2)
    askers = [Asker(spool), Asker(spool)]
    assert Worker(spool, "control").answers == [wire.Rejected("2 others ask already")]
    askers.pop().worker.close()
    assert Asker(spool)(q="counts")["ok"]
