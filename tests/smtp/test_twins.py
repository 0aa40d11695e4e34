"""The two protocol cores as they are compiled and as their source says: alike on any input, whole and cut at every place."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LocalProtocolError, RemoteProtocolError
from engine.fastpath import COMPILED
from engine.smtp import client, server
from tests.smtp.postbox import QUEUED, Postbox
from tests.smtp.test_client import OFFERS, PIECES, THREE
from tests.smtp.test_server import STREAMS

pytestmark = pytest.mark.skipif(not COMPILED, reason="runs on the sources alone")


def source_of(module: ModuleType) -> ModuleType:
    """*module* once more, run from its Python source."""
    path = (module.__file__ or "").partition(".")[0] + ".py"
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_source", path)
    assert spec is not None and spec.loader is not None
    twin = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    return twin


SERVERS = (server, source_of(server))
CLIENTS = (client, source_of(client))


def serve(core: ModuleType, pieces: list[bytes], late: bool) -> list[object]:
    """All that can be seen of a server that hears *pieces*; with *late*, replies to final dots come one piece later."""
    postbox = Postbox()
    limits = core.ServerLimits(
        "mx.example.org", max_line_bytes=200, max_errors=5, max_commands_without_mail=20, max_message_size_bytes=400, chunking=True, smtputf8=True
    )
    connection = core.ServerConnection(postbox, limits)
    seen: list[object] = [connection.open()]
    for piece in pieces:
        if late and connection.phase.name == "WAITING":
            seen.append(connection.answered(QUEUED))
        seen.append((connection.receive(piece), connection.phase.name, connection.recipients, connection.closing, connection.quit))
        while not late and connection.phase.name == "WAITING":
            seen.append(connection.answered(QUEUED))
    try:
        seen.append(connection.answered(QUEUED))
    except LocalProtocolError as error:
        seen.append(str(error))
    connection.lost()
    return [*seen, postbox.mails, postbox.names, postbox.resets, connection.abort(QUEUED)]


def send_chunks(core: ModuleType, pieces: list[bytes], pipelining: bool) -> list[object]:
    """The same to a peer with CHUNKING."""
    return send(core, pieces, pipelining, OFFERS.replace(b"250 DSN", b"250-DSN\r\n250 CHUNKING"))


def send(core: ModuleType, pieces: list[bytes], pipelining: bool, offers: bytes = OFFERS) -> list[object]:
    """All that can be seen of a client whose peer says *pieces* regardless."""
    connection = core.ClientConnection("me.example", ignore_pipelining=not pipelining)
    seen: list[object] = []
    try:
        for piece in (b"220 mx.example\r\n", offers):
            connection.receive(piece)
            seen.append(connection.to_send())
        connection.start(THREE)
        for piece in pieces:
            for event in connection.receive(piece):
                seen.append(_plain(event))
                if type(event).__name__ == "SendBody" and connection.by_chunks:
                    seen.append(connection.chunk(10, False))
                elif type(event).__name__ == "SendBody":
                    seen.append(connection.end_of_body())
            if connection.by_chunks and connection.stage.name == "BODY" and not connection.chunk_waits:
                seen.append(connection.chunk(5, True))
            seen.append((connection.to_send(), connection.stage.name, connection.progressed))
    except (RemoteProtocolError, LocalProtocolError) as error:
        seen.append((type(error), str(error)))
    return [*seen, _plain(connection.lost()), connection.stage.name]


def _plain(value: Any) -> object:
    """*value* without its classes, of which each twin has its own."""
    if hasattr(value, "__struct_fields__"):
        return type(value).__name__, [_plain(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return getattr(value, "name", value)


def alike(run: Callable[[ModuleType, list[bytes], bool], object], twins: tuple[ModuleType, ModuleType], stream: bytes, how: bool) -> None:
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))], *([stream[:i], stream[i:]] for i in range(1, len(stream)))):
        assert run(twins[0], pieces, how) == run(twins[1], pieces, how)


@given(STREAMS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_servers(stream: bytes, late: bool) -> None:
    alike(serve, SERVERS, stream[:600], late)


@given(st.lists(PIECES | st.binary(max_size=3), max_size=12).map(b"".join), st.booleans())
@settings(max_examples=100, deadline=None)
def test_clients(stream: bytes, pipelining: bool) -> None:
    alike(send, CLIENTS, stream, pipelining)


@given(st.lists(PIECES | st.binary(max_size=3), max_size=12).map(b"".join), st.booleans())
@settings(max_examples=100, deadline=None)
def test_clients_that_send_chunks(stream: bytes, pipelining: bool) -> None:
    alike(send_chunks, CLIENTS, stream, pipelining)
