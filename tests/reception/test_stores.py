"""The choice between several spools, as a table; and a message that one refuses lies in the next one, whole and once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SpoolError
from engine.mail.envelope import Body
from engine.reception import stores as module
from engine.reception.intake import DISK_LOW, SPOOL_AWAY
from engine.reception.stores import LargeLetter, Letter, Standing, Store, Stores, choose
from engine.spool import SegmentWriter
from engine.spool.format import BODIES, record_head, segment_name
from tests.reception.fakes import FakeLog

UP, SLOW, CLOSED, AWAY, BEHIND = Standing(), Standing(silent_s=9.0), Standing(closed=True), Standing(joined=False), Standing(behind=True)


@pytest.mark.parametrize(
    ("standings", "chosen"),
    [
        ([UP, UP], 0),
        ([CLOSED, UP], 1),
        ([AWAY, UP], 1),
        ([BEHIND, UP], 1),
        ([SLOW, UP], 1),
        ([UP, CLOSED], 0),
        ([UP, AWAY], 0),
        ([Standing(silent_s=module.PATIENCE_S), UP], 0),
        ([SLOW, CLOSED], 0),
        ([SLOW, SLOW], 0),
        ([CLOSED, SLOW], 1),
        ([CLOSED, AWAY, UP], 2),
        ([SLOW, CLOSED, UP], 2),
        ([CLOSED, CLOSED], None),
        ([AWAY, AWAY], None),
        ([AWAY, CLOSED], None),
        ([Standing(silent_s=9.0, closed=True), BEHIND], None),
    ],
)
def test_the_best_that_has_room_and_answers(standings: list[Standing], chosen: int | None) -> None:
    assert choose(standings) == chosen


class Link:
    """A SpoolLink of which only what is read counts."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.pending, self.pending_bytes, self.answered, self.connected = epoch, 0, 0, 0, True
        self.lost: Exception | None = None
        self.on_abandoned: Any = None
        self._count = 0

    def new_id(self) -> bytes:
        self._count += 1
        return b"\0\0" + self.epoch.to_bytes(4, "big") + self._count.to_bytes(6, "big")

    def submit(self, operation: Any, done: Any) -> None:
        """A Seal."""


class Ways:
    """Two spools in *base*, the first the best, at a time that the test sets."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(module, "monotonic_s", lambda: self.now_s)
        self.log = FakeLog()
        self.each = [Store(str(base / name), "", 1) for name in ("one", "two")]
        for number, store in enumerate(self.each, 1):
            bodies = base / Path(store.path).name / BODIES
            bodies.mkdir(parents=True)
            link: Any = Link(number)
            store.link, store.segments = link, SegmentWriter(bodies, link, min_free_bytes=1)
            store.look(self.now_s)
        self.stores = Stores(self.each, self.log)  # type: ignore[arg-type]
        self.stores.tick()

    def where(self) -> str:
        return Path(self.stores.current.path).name if self.stores.current else ""

    def stored(self, letter: Letter) -> tuple[str, bytes]:
        """The spool that *letter* lies in, and its bytes there."""
        number = int.from_bytes(letter.id[2:6], "big")
        body = letter.body
        path = Path(self.each[number - 1].path) / BODIES / segment_name(body.epoch, body.segment)
        data = path.read_bytes()[body.offset : body.offset + body.size_bytes]
        assert path.read_bytes()[: body.offset].endswith(record_head(letter.id, body.size_bytes, body.checksum))
        return Path(self.each[number - 1].path).name, data


@pytest.fixture
def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ways:
    return Ways(tmp_path, monkeypatch)


def test_a_refusal_moves_the_message_and_those_that_follow_until_the_best_is_tried_again(ways: Ways) -> None:
    letter = ways.stores.place([b"a", b"b"])
    assert ways.stored(letter) == ("one", b"ab")
    assert letter.again("disk low: 3 MB free, 16 MB are kept (min-free-space)")
    assert ways.stored(letter) == ("two", b"ab") and letter.link.epoch == 2
    letter.stored()
    assert "two, no more into" in ways.log.text("spool") and "disk low: 3 MB free" in ways.log.text("spool")
    assert ways.where() == "two" and ways.stores.refusal() is None
    ways.now_s += module.AGAIN_S
    ways.stores.tick()
    assert ways.where() == "one"
    ways.now_s += module.AGAIN_S
    ways.stores.place([b"c"]).stored()
    assert len(ways.log.kinds()) == 2, "that mail has come back is said too"


@pytest.mark.parametrize("reason", ["spool process lost: gone", "accounting behind: 3 records wait", "malformed accept", "cannot be stored: x"])
def test_what_may_have_been_stored_or_no_other_spool_would_take_is_not_moved(ways: Ways, reason: str) -> None:
    letter = ways.stores.place([b"a"])
    assert not letter.again(reason)
    assert ways.where() == "one"


@pytest.mark.parametrize("reason", ["disk low: x", "sync failed: segment x: y", "shut: this spool leaves the configuration"])
def test_nobody_takes_it(ways: Ways, reason: str) -> None:
    letter = ways.stores.place([b"a"])
    assert letter.again(reason) and not letter.again(reason)
    assert ways.stores.refusal() is DISK_LOW
    with pytest.raises(SpoolError, match="no spool takes new mail"):
        ways.stores.place([b"b"])
    ways.now_s += module.AGAIN_S
    ways.stores.tick()
    assert ways.where() == "one", "and it comes back by itself"


def test_a_write_that_fails_is_made_in_the_next_one(ways: Ways) -> None:
    (Path(ways.each[0].path) / BODIES).rmdir()
    assert ways.stored(ways.stores.place([b"a"])) == ("two", b"a")


def test_one_that_was_lost_or_is_silent_is_passed_over(ways: Ways) -> None:
    link: Any = ways.each[0].link
    link.pending = 1
    ways.now_s += module.PATIENCE_S
    ways.stores.tick()
    assert ways.where() == "one", "a restart takes that long"
    ways.now_s += 1
    ways.stores.tick()
    assert ways.where() == "two"
    link.answered = 1
    ways.stores.tick()
    assert ways.where() == "one"
    ways.each[0].link = ways.each[1].link = None
    ways.stores.tick()
    assert ways.stores.refusal() is SPOOL_AWAY


PIECES = [os.urandom(70_000) for _ in range(40)]


def sent(letter: LargeLetter, pieces: list[bytes]) -> None:
    for piece in pieces:
        letter.write(piece)


def files(store: Store) -> list[str]:
    return os.listdir(Path(store.path) / BODIES)


def test_a_large_body_whose_disk_fails_in_the_middle_goes_on_in_the_next_one(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = ways.stores.begin_large()
    sent(letter, PIECES[:17])
    first = letter._large
    assert first is not None
    monkeypatch.setattr(first, "_pwrite", lambda *_: (_ for _ in ()).throw(SpoolError("body cannot be written")))
    sent(letter, PIECES[17:])
    letter.finish()
    assert ways.stored(letter) == ("two", b"".join(PIECES)) and files(ways.each[0]) == []
    letter.stored()
    assert letter._fd == -1


def test_a_large_body_that_was_refused_is_copied_though_its_file_is_gone(ways: Ways) -> None:
    letter = ways.stores.begin_large()
    sent(letter, PIECES)
    body: Body = letter.finish()
    (Path(ways.each[0].path) / BODIES / segment_name(body.epoch, body.segment)).unlink()  # as the spool process does
    assert letter.again("disk low: x")
    assert ways.stored(letter) == ("two", b"".join(PIECES))
    assert not letter.again("disk low: x") and letter._fd == -1


def test_a_large_body_whose_spool_was_lost_meanwhile_goes_to_the_next_one(ways: Ways) -> None:
    letter = ways.stores.begin_large()
    sent(letter, PIECES)
    link: Any = ways.each[0].link
    link.lost, ways.each[0].link = SpoolError("gone"), None
    letter.finish()
    assert ways.stored(letter) == ("two", b"".join(PIECES)) and letter.link.epoch == 2


def test_a_large_body_that_is_given_up_leaves_nothing(ways: Ways) -> None:
    letter = ways.stores.begin_large()
    sent(letter, PIECES)
    letter.abort()
    assert (files(ways.each[0]), files(ways.each[1]), letter._fd) == ([], [], -1)


def test_a_large_body_goes_to_the_next_spool_where_the_disk_cannot_even_be_asked(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    statvfs = os.statvfs

    def broken(path: Path) -> os.statvfs_result:
        if Path(path) == Path(ways.each[0].path) / BODIES:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return statvfs(path)

    before = ways.stores.begin_large()
    sent(before, PIECES[:5])
    monkeypatch.setattr(os, "statvfs", broken)
    sent(before, PIECES[5:])
    before.finish()
    assert ways.stored(before) == ("two", b"".join(PIECES))
    ways.now_s += module.AGAIN_S
    ways.stores.tick()
    assert ways.where() == "one"
    after = ways.stores.begin_large()
    sent(after, PIECES)
    after.finish()
    assert ways.stored(after) == ("two", b"".join(PIECES))


def test_a_large_body_leaves_a_disk_that_has_become_read_only(ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ext4 becomes with errors=remount-ro: what lies there cannot be removed either."""
    letter = ways.stores.begin_large()
    sent(letter, PIECES[:17])
    first = letter._large
    assert first is not None
    monkeypatch.setattr(first, "_pwrite", lambda *_: (_ for _ in ()).throw(SpoolError("body cannot be written")))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", read_only)
    sent(letter, PIECES[17:])
    letter.finish()
    assert ways.stored(letter) == ("two", b"".join(PIECES))
    letter.stored()
    assert letter._fd == -1
