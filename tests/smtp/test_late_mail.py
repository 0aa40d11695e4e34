"""A handler that needs time for MAIL: the reply is owed, what is pipelined waits, and nothing is open until it has come."""

from __future__ import annotations

import pytest

from engine.errors import LocalProtocolError
from engine.mail.reply import Reply, reply
from engine.smtp.extensions import Parameters
from engine.smtp.server import SENDER_OK, Phase, ServerConnection, ServerLimits
from engine.smtp.traced import TracedConnection
from tests.smtp.postbox import QUEUED, Mail, Postbox

REFUSED = reply(550, "5.7.23 no")
LATER = reply(451, "4.7.24 not now")
STREAM = b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@example.net>\r\nDATA\r\n"


class Slow(Postbox):
    """Owes its reply to MAIL."""

    def mail(self, sender: str, parameters: Parameters) -> Reply | None:  # type: ignore[override]
        self.open = Mail(sender, parameters)
        return None


def opened(limits: ServerLimits | None = None) -> tuple[Slow, ServerConnection]:
    handler = Slow()
    core = ServerConnection(handler, limits or ServerLimits("mx.example.org"))
    core.open()
    return handler, core


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_what_is_pipelined_waits_for_the_reply_wherever_it_is_cut(cut: int) -> None:
    _, core = opened()
    out = core.receive(STREAM[:cut])
    out += core.receive(STREAM[cut:]) if cut < len(STREAM) else b""
    assert b"250 SMTPUTF8\r\n" in out or out.count(b"\r\n") > 1
    assert b"2.1.0" not in out
    assert core.phase is Phase.WAITING
    assert core.answered(SENDER_OK) == b"250 2.1.0 Sender ok\r\n250 2.1.5 Recipient ok\r\n354 Start mail input; end with <CRLF>.<CRLF>\r\n"
    assert core.phase is Phase.BODY
    core.receive(b"text\r\n.\r\n")
    assert core.phase is Phase.WAITING
    assert core.answered(QUEUED).startswith(b"250 2.6.0")
    assert core.phase is Phase.COMMANDS


def test_a_refusal_opens_nothing() -> None:
    _, core = opened()
    core.receive(STREAM)
    assert core.answered(REFUSED) == b"550 5.7.23 no\r\n503 5.5.1 Send MAIL first\r\n503 5.5.1 Send MAIL first\r\n"
    assert core.receive(b"MAIL FROM:<a@b.example>\r\n") == b""
    assert core.answered(SENDER_OK) == b"250 2.1.0 Sender ok\r\n"
    with pytest.raises(LocalProtocolError):
        core.answered(SENDER_OK)


def test_last_words_and_clients_that_cannot_cope_with_a_4xx() -> None:
    _, core = opened()
    core.receive(STREAM)
    assert core.answered(reply(421, "4.3.2 bye")) == b"421 4.3.2 bye\r\n"
    assert core.closing
    _, core = opened(ServerLimits("mx.example.org", disconnect_on_transient_error=True))
    core.receive(STREAM)
    assert core.answered(LATER) == b""
    assert core.closing


def test_a_client_that_leaves_meanwhile_has_opened_nothing() -> None:
    handler, core = opened()
    core.receive(b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\n")
    core.lost()
    assert (core.phase, handler.resets) == (Phase.CLOSED, 0)


def test_the_late_reply_is_in_the_trace() -> None:
    shown: list[tuple[str, bytes]] = []
    core = TracedConnection(Slow(), ServerLimits("mx.example.org"), lambda way, line: shown.append((way, line)), commands=True, data=False)
    core.open()
    core.receive(b"EHLO c.example\r\n")
    core.receive(b"MAIL FROM:<a@b.example>\r\n")
    assert shown[-1] == (">>>", b"MAIL FROM:<a@b.example>")
    core.answered(SENDER_OK)
    assert shown[-1] == ("<<<", b"250 2.1.0 Sender ok")
