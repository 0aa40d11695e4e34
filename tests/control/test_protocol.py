"""The control socket's language, and that its row per command is kept by both sides."""

from __future__ import annotations

import pytest

from engine.control.protocol import (
    COMMANDS,
    Changed,
    Child,
    Reloaded,
    Request,
    Response,
    Status,
    Stopping,
    Upgrade,
    answered,
    decode_answer,
    decode_request,
    decode_response,
    encode_line,
)
from engine.control.views import ConnectionView, Detail, Event, Limit, Part, QueueDetail, QueueView, Reason, SlotView, Standing
from engine.errors import RemoteProtocolError

CHILD = Child("listener/0", 7, "working", 1.5, 0, 0.2, 3, 0)
LIMIT = Limit("max-smtp-out", "20", "/etc/engine.conf:7")
EVENT = Event(1, "tq", "4.4.1 connect failed", "", "192.0.2.1", "mx (192.0.2.2)")
STANDING = Standing("queue-out", "20 open", LIMIT, 1, 2, 3, 4, EVENT)
VIEW = QueueView(1, "d.example/v", "sending", 2, 1, 1, 0, 0, 9, EVENT)
CONNECTION = ConnectionView("d.example/v", "sending", "the reply to RCPT", "192.0.2.1", "mx", "192.0.2.2", 25, 3, "id", 1, 2)
CHANGED = Changed("domain", "*", "max-smtp-out", "1", "2")
RELOADED = Reloaded("/etc/engine.conf", True, ["a:1:1: warning: b"], [CHANGED], 3, ["listener/0"], ["listener/1"], 2)
ANSWERS = {
    "diff": Reloaded("/etc/engine.conf", False, ["a:1:1: error: b"], []),
    "reload": RELOADED,
    "status": Status("0.1.0", 1, 2.0, True, False, "/spool", "/spool/run/spool.sock", ["127.0.0.1:25"], 0, [CHILD]),
    "stop": Stopping(1, 60.0),
    "try-upgrade": Upgrade(1, "trying", "0.1.0"),
    "upgrade": Upgrade(2, "refused", "0.1.0", "0.2.0", ["a reason"]),
    "slot": SlotView("delivery/0", 1, 2, 3, 20_000, 4, 1, 0, False, True, 5, 6),
    "queues": Part("delivery/0", [VIEW]),
    "queue": Detail("delivery/0", QueueDetail(VIEW, STANDING, [LIMIT], [CONNECTION], [EVENT], [EVENT])),
    "why": Reason("delivery/0", STANDING),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_survives_the_way_there_and_back(command: str) -> None:
    assert decode_request(encode_line(Request(command)).rstrip(b"\n")) == Request(command)
    response = decode_response(encode_line(answered(ANSWERS[command])).rstrip(b"\n"))
    assert decode_answer(command, response) == ANSWERS[command]


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"command": 1}', b'{"command": "reboot"}', b"\xff", b'{"command"'])
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request(line)


def test_refusal_carries_its_reason() -> None:
    assert decode_response(encode_line(Response(error="why")).rstrip(b"\n")).error == "why"
