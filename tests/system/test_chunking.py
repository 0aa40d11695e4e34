"""BDAT from end to end (RFC 3030): in, out, both, and binary content that DATA never carries."""

from __future__ import annotations

import socket

import pytest

from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1h
</domain>
"""
TEXT = b"Subject: x\r\n\r\n.dot\r\n\r\n.\r\nQUIT\r\n..\r\n"
BINARY = b"Subject: x\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\r.\r\n.\r\n\n.\nNOOP\r\n\xff no end"


def send(engine: Engine, content: bytes, body: str = "8BITMIME", step: int = 0) -> None:
    """Hand *content* in by BDAT, in chunks of *step* bytes or in one."""
    pieces = [content[at : at + step] for at in range(0, len(content), step)] if step else [content]
    with socket.create_connection(("127.0.0.1", engine.port), 20) as client, client.makefile("rb") as replies:
        envelope = f"EHLO c.example\r\nMAIL FROM:<s@origin.example> BODY={body} RET=FULL\r\nRCPT TO:<u@dest.example>\r\n".encode()
        chunks = b"".join(b"BDAT %d%s\r\n%s" % (len(p), b" LAST" if at == len(pieces) - 1 else b"", p) for at, p in enumerate(pieces))
        client.sendall(envelope + chunks + b"QUIT\r\n")
        said = replies.read().decode()
    assert "250-CHUNKING\r\n250 BINARYMIME\r\n" in said and "250 2.6.0 message received" in said and "\r\n221 " in said, said


@pytest.mark.parametrize("kind", ["accept-all", "chunking"])
def test_text_goes_by_whichever_the_host_takes(kind: str, make_engine: MakeEngine) -> None:
    with Sink(kind) as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, TEXT, step=7)
        send(engine, TEXT + b"x" * 76 + b"\r\n.\r\n" * 120_000)  # in a file of its own
        eventually(lambda: len(sink.messages) == 2, "both messages")
        assert all(message.chunked is (kind == "chunking") for message in sink.messages)
        small, large = sorted(sink.messages, key=lambda message: len(message.raw))
        assert small.content.endswith(b"\r\n" + TEXT)
        assert large.content.endswith(TEXT + b"x" * 76 + b"\r\n.\r\n" * 120_000)


def test_binary_content_arrives_octet_by_octet(make_engine: MakeEngine) -> None:
    with Sink("chunking") as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, BINARY, "BINARYMIME", step=5)
        send(engine, BINARY + b"\0\r\n." * 100_000, "BINARYMIME")
        eventually(lambda: len(sink.messages) == 2, "both messages")
        small, large = sorted(sink.messages, key=lambda message: len(message.raw))
        assert small.content.endswith(b"\r\n" + BINARY) and "BODY=BINARYMIME" in small.mail_parameters
        assert large.content.endswith(BINARY + b"\0\r\n." * 100_000)


def test_binary_content_bounces_where_it_cannot_go(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port))
        send(engine, BINARY, "BINARYMIME")
        eventually(lambda: sink.messages, "the DSN")
        (bounce,) = engine.wait_for_records(1, "b")
        assert bounce["dsnStatus"].startswith("5.6.3 ")
        (dsn,) = sink.messages
        assert dsn.sender == "" and b"\r\nSubject: x\r\n" in dsn.body and b"NOOP" not in dsn.body, "the header section, and nothing of the rest"


def test_it_can_be_forbidden(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port) + "<source 0/0>\nalways-allow-relaying yes\nallow-chunking no\n</source>\n")
        with socket.create_connection(("127.0.0.1", engine.port), 20) as client, client.makefile("rb") as replies:
            client.sendall(b"EHLO c.example\r\nBDAT 1\r\nQUIT\r\n")
            said = replies.read()
        assert b"CHUNKING" not in said and b"\r\n502 5.5.1 " in said
