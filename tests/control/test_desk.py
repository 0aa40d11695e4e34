"""The serving side in a loop of its own, against clients that behave and clients that do not."""

from __future__ import annotations

import resource
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from engine.clock import monotonic_s
from engine.control import Stopping, ask, ask_spool, wait_until_closed
from engine.control.client import NotRunning
from engine.control.protocol import MAX_LINE_BYTES
from engine.errors import EngineError, RemoteProtocolError
from engine.supervisor import desk as desk_module
from engine.supervisor.desk import Desk
from engine.supervisor.ground import unix_listener

PATIENCE_S = 10.0


class Served:
    """A Desk that turns only when the test says so."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.selector = selectors.DefaultSelector()
        self.desk = Desk(self.selector, unix_listener(self.path, -1, -1, 0o660), {"status": self._fail, "stop": lambda: (Stopping(1, 2.0), True)})

    def _fail(self) -> tuple[object, bool]:
        raise RemoteProtocolError("not today")

    def turn_until(self, true: Callable[[], bool]) -> None:
        deadline_s = monotonic_s() + PATIENCE_S
        while not true():
            assert monotonic_s() < deadline_s
            for key, events in self.selector.select(0.05):
                key.data(events)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE_S)
        client.connect(self.path)
        return client

    def hear(self, client: socket.socket) -> bytes:
        """What the desk sends next on *client*; b"" once it has closed."""
        client.setblocking(False)
        heard: list[bytes] = []

        def read() -> bool:
            try:
                heard.append(client.recv(65536))
            except BlockingIOError:
                return False
            except ConnectionResetError:
                heard.append(b"")
            return True

        self.turn_until(read)
        return heard[0]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "c.sock")
    yield made
    made.selector.close()


def test_socket_is_private(served: Served) -> None:
    assert Path(served.path).stat().st_mode & 0o777 == 0o660


def test_request_in_pieces_is_answered(served: Served) -> None:
    client = served.connect()
    for piece in (b'{"comm', b'and": "st', b'op"}\n'):
        client.sendall(piece)
        served.turn_until(lambda: True)
    assert msgspec.json.decode(served.hear(client))["data"] == {"pid": 1, "deadline_s": 2.0}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"GET / HTTP/1.1\n", "not a request"),
        (b'{"command":"x"}\n', "unknown command"),
        (b'{"command":"why"}\n', "ask a delivery process"),
        (b'{"command":"status"}\n', "not today"),
    ],
)
def test_nonsense_is_answered_with_a_reason(served: Served, line: bytes, reason: str) -> None:
    client = served.connect()
    client.sendall(line)
    assert reason in msgspec.json.decode(served.hear(client))["error"]


def test_endless_line_is_cut_off(served: Served) -> None:
    client = served.connect()
    client.setblocking(False)
    sent = 0
    while sent <= MAX_LINE_BYTES + 65536:
        try:
            sent += client.send(b"x" * 65536)
        except BlockingIOError:
            served.turn_until(lambda: bool(served.selector.select(0)) is False)
        except BrokenPipeError:
            break
    assert served.hear(client) == b""


def test_idle_visitors_are_sent_away_but_not_those_who_wait_for_the_end(served: Served) -> None:
    idle, waiting = served.connect(), served.connect()
    waiting.sendall(b'{"command":"stop"}\n')
    assert b"deadline_s" in served.hear(waiting)
    served.desk.close_idle(monotonic_s() + 1000)
    assert served.hear(idle) == b""
    waiting.setblocking(False)
    with pytest.raises(BlockingIOError):
        waiting.recv(1)
    served.desk.close()
    assert waiting.recv(1) == b""


def test_too_many_visitors_are_turned_away(served: Served) -> None:
    clients = [served.connect() for _ in range(desk_module.MAX_CONNECTIONS + 1)]
    assert served.hear(clients[-1]) == b""


def answering(path: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """A server for one connection, for the client's tests."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, listening:
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_nobody_there_is_not_running(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="no engine is running here"):
        ask(str(tmp_path / "c.sock"), "status")


def test_silence_ends_at_the_deadline(tmp_path: Path) -> None:
    over = threading.Event()
    thread = answering(tmp_path / "c.sock", lambda connection: (connection.recv(100), over.wait(PATIENCE_S))[0])  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"no answer on .* within 0.1 s"):
        ask(str(tmp_path / "c.sock"), "status", timeout_s=0.1)
    over.set()
    thread.join()


def test_stop_waits_for_the_end(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b'{"data": {"pid": 1, "deadline_s": 2.0}}\n')

    thread = answering(tmp_path / "c.sock", answer)
    assert wait_until_closed(str(tmp_path / "c.sock"), "stop", PATIENCE_S)
    thread.join()


def test_spool_process_is_asked_in_its_frames(tmp_path: Path) -> None:
    heard: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        while len(heard) < 2:
            length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
            heard.append(connection.recv(length, socket.MSG_WAITALL))
        data = msgspec.msgpack.encode({"ok": True, "messages": 3})
        connection.sendall(len(data).to_bytes(4, "big") + data)

    thread = answering(tmp_path / "s.sock", answer)
    assert ask_spool(str(tmp_path / "s.sock"), {"q": "counts"}) == {"ok": True, "messages": 3}
    thread.join()
    assert msgspec.msgpack.decode(heard[1]) == {"q": "counts"}


def test_without_a_descriptor_it_tries_again_a_little_later(served: Served) -> None:
    client = served.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for key, events in served.selector.select(PATIENCE_S):
            key.data(events)
        assert served.selector.select(0) == []  # it would spin
        served.desk.close_idle(monotonic_s())
        assert served.selector.select(0) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    served.desk.close_idle(monotonic_s() + 1)
    client.sendall(b'{"command":"status"}\n')
    assert b"not today" in served.hear(client)
    client.close()
