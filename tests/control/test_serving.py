"""The answering side of a child: one request a connection, and nobody who is slow, silent or endless costs more than a connection for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.control import serving as serving_module
from engine.control.protocol import Request, Response, decode_answer, decode_response, encode_line
from engine.control.serving import MAX_CONNECTIONS, MAX_REQUEST_BYTES, Serving
from engine.control.views import Reason, Standing
from engine.errors import SpoolError

REASON = Reason("delivery/0", Standing("idle"))


async def why(request: Request) -> Reason:
    if request.key == "fault":
        raise SpoolError("not today")
    return REASON


def served(path: Path, test: Callable[[str], Awaitable[None]]) -> None:
    """Run *test* against a Serving at *path*."""

    async def run() -> None:
        serving = Serving(str(path), {"why": why})
        await serving.start()
        try:
            async with asyncio.timeout(20):
                await test(str(path))
        finally:
            serving.close()
        assert not path.exists()

    asyncio.run(run())


async def hear(path: str, line: bytes) -> bytes:
    """What is answered to *line*, to the end."""
    reader, writer = await asyncio.open_unix_connection(path)
    with contextlib.suppress(ConnectionError):
        writer.write(line)
        await writer.drain()
    data = b""
    with contextlib.suppress(ConnectionError):
        data = await reader.read()
    writer.close()
    return data


def test_a_question_is_answered_and_the_connection_ends(tmp_path: Path) -> None:
    async def test(path: str) -> None:
        response = decode_response((await hear(path, encode_line(Request("why", queues=[(1, "d/v")])))).rstrip(b"\n"))
        assert decode_answer("why", response) == REASON
        assert Path(path).stat().st_mode & 0o777 == 0o660

    (tmp_path / "s").touch()  # of a predecessor that was killed
    served(tmp_path / "s", test)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"GET / HTTP/1.1\n", "not a request"),
        (b'{"command":"status"}\n', "this process does not answer"),
        (encode_line(Request("why", key="fault")), "not today"),
        (b"\n", "not a request"),
    ],
)
def test_nonsense_is_answered_with_a_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    async def test(path: str) -> None:
        response: Response = decode_response((await hear(path, line)).rstrip(b"\n"))
        assert reason in response.error

    served(tmp_path / "s", test)


def test_endless_lines_end(tmp_path: Path) -> None:
    async def test(path: str) -> None:
        assert await hear(path, b"x" * (3 * MAX_REQUEST_BYTES)) == b""
        assert await hear(path, encode_line(Request("why"))) != b""

    served(tmp_path / "s", test)


def test_the_silent_hold_no_more_than_their_places_and_not_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "EXCHANGE_S", 0.3)

    async def test(path: str) -> None:
        silent = [await asyncio.open_unix_connection(path) for _ in range(MAX_CONNECTIONS)]
        assert await hear(path, encode_line(Request("why"))) == b"", "all places are taken"
        for reader, writer in silent:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        assert await hear(path, encode_line(Request("why"))) != b"", "and free again"

    served(tmp_path / "s", test)
