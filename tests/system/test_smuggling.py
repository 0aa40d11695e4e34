"""No second message passes through us, whatever the client that may relay sends: by what a host receives, and the laxest reader of that."""

from __future__ import annotations

import re
import socket

from tests.sinks.sink import Sink
from tests.smtp.test_smuggling import BODY, ENDS, ENVELOPE, LAX_END, REST
from tests.system.conftest import MakeEngine
from tests.system.engine import eventually

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
<source 127.0.0.1>
    always-allow-relaying yes
    bare-newline {newlines}
</source>
"""


def try_all(port: int) -> list[bytes]:
    """What a client hears who sends every trick, each in a connection of its own."""
    heard = []
    for trick in ENDS.values():
        with socket.create_connection(("127.0.0.1", port), 20) as client, client.makefile("rb") as replies:
            client.sendall(ENVELOPE + BODY + trick + (b"x" if trick.endswith(b"\r") else b"") + REST + b"QUIT\r\n")
            heard.append(replies.read().partition(b"\r\n354 ")[2].partition(b"\r\n")[2])
    return heard


def test_reject(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port, newlines="reject"))
        assert all(re.fullmatch(rb"550 5\.6\.0 [^\r]*\r\n221 [^\r]*\r\n", said) for said in try_all(engine.port))
        assert not engine.records("d") and not sink.messages


def test_normalize(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port, newlines="normalize"))
        assert all(re.fullmatch(rb"250 2\.6\.0 [^\r]*\r\n221 [^\r]*\r\n", said) for said in try_all(engine.port))
        eventually(lambda: len(sink.messages) == len(ENDS), "one message for each trick")
        for message in sink.messages:
            assert message.recipients == ("b@example.net",) and b"RCPT TO:<victim@example.net>" in message.body
            assert b"\0" in message.raw or not LAX_END.search(message.raw)
