"""`engine why` where a whole process or the disk is what holds mail, against an engine of answers made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from engine.cli.asking import Engine
from engine.cli.pages import Waiting
from engine.cli.why import Explained, explain
from engine.config import build, from_text
from engine.control import Child, Request, Standing, Status
from engine.control.client import NotRunning
from engine.control.views import Reason
from engine.mail import message_id
from engine.mail.envelope import Body, Due, Message, due_key

NOW_MS = 1_800_000_000_000
ID = message_id.pack(0, 1, 7)
COUNTS = {"full": False, "refusing": "", "outbox": 0, "outbox_bound": 10}


class Answering:
    """An engine with one message for one recipient; *standing* None: no delivery process answers."""

    def __init__(self, standing: Standing | None, *, state: str = "working", spool: bool = True, src_type: str = "smtp", **counts: object) -> None:
        loaded = build(from_text("log-file /l\n"))
        assert loaded.config is not None
        self.config = loaded.config
        self.standing, self.state, self.spool, self.src_type = standing, state, spool, src_type
        self.silent: dict[str, str] = {}
        self.others: list[Any] = []
        self.path, self.where = "/s", ""
        self._counts = COUNTS | counts

    @property
    def status(self) -> Status:
        children = [self.child(name) for name in ("spool/0", "delivery/0")]
        return Status("0", 1, 1.0, True, False, "/s", "/s/run/spool.sock", [], 0, children)

    def child(self, name: str) -> Child:
        pid = 0 if self.state == "throttled" else 9
        return Child(name, pid, self.state, 3.0, 2 if self.state != "working" else 0, 0.1, 0, 0)

    def slots(self, request: Request) -> list[Reason]:
        if self.standing is None:
            self.silent["delivery/0"] = "no answer on /s within 3 s"
            return []
        return [Reason("delivery/0", self.standing)]

    def counts(self) -> dict[str, Any]:
        return self._counts

    def message(self, identity: bytes) -> tuple[Message, list[tuple[int, str]], bool]:
        if not self.spool:
            raise NotRunning("nothing answers")
        sender = "" if self.src_type == "local" else "s@o.example"
        return Message(Body(1, 1, 20, 1, 0), sender, b"", NOW_MS, False, True, "", "", self.src_type, "", ""), [(1, "d.example/v")], True

    def rows(self, number: int, name: str, **_: object) -> Iterator[Waiting]:
        yield Waiting(number, name, due_key(number, 50, NOW_MS, ID, 0), Due("a@d.example", NOW_MS), 4, self.where)


def ask(engine: Answering) -> Explained:
    found, known = explain(cast(Engine, engine), message_id.text(ID), 1, NOW_MS)
    assert known
    assert found[0].text.endswith(".")
    return found[0]


def test_a_full_disk_holds_everything() -> None:
    found = ask(Answering(Standing("idle"), full=True, refusing="disk low: a commit failed for want of space"))
    assert "waits for space on the disk, since outcomes cannot be stored (disk low: a commit failed for want of space)" in found.text


def test_accounting_that_is_behind_holds_everything() -> None:
    found = ask(Answering(Standing("idle"), outbox=21))
    assert "waits for the accounting process: 21 records have not been written yet, and sending stops at 20" in found.text


def test_a_delivery_process_that_starts_or_is_throttled() -> None:
    assert "waits for its delivery process: delivery/0 is starting, for 3s, after 2 restarts; 4 recipients of its queue are before it" in ask(
        Answering(None, state="starting")
    ).text
    assert "delivery/0 is throttled, after 2 restarts" in ask(Answering(None, state="throttled")).text
    assert "delivery/0 (pid 9) works, but does not answer: no answer on /s within 3 s" in ask(Answering(None)).text


def test_a_spool_process_that_is_down() -> None:
    text = ask(Answering(None, spool=False, state="throttled")).text
    assert text == f"{message_id.text(ID)} waits for the spool process: spool/0 is throttled, after 2 restarts; all mail lies on disk until then."


def test_a_report_of_ours_is_called_so() -> None:
    text = ask(Answering(Standing("unread"), src_type="local")).text
    assert text.startswith(f"our report (DSN) {message_id.text(ID)} to <a@d.example> in queue d.example/v is about to be read from the disk; 4 rec")


def test_mail_in_another_spool_waits_for_room_in_the_first() -> None:
    engine = Answering(None, refusing="disk low: 8 MB free, 16 MB are kept (min-free-space)")
    engine.where = "/o"
    text = ask(engine).text
    assert "lies in the spool /o and is moved into /s when that has room: disk low: 8 MB free, 16 MB are kept (min-free-space); 4 recipients" in text
    engine = Answering(None)
    engine.where = "/o"
    assert "moved into /s when that has room: it has, so that takes seconds" in ask(engine).text
