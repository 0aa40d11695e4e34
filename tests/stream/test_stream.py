"""Transports over plain sockets: the compiled ones and their plain twin behave alike."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import uvloop

from engine import _stream_reference
from engine.fastpath import COMPILED

TWINS: list[ModuleType] = [_stream_reference]
if COMPILED:
    from engine import _stream  # type: ignore[attr-defined]

    TWINS.append(_stream)


class Recorder(asyncio.Protocol):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.data = b""
        self.told: list[str] = []
        self.lost: asyncio.Future[Exception | None] = self.loop.create_future()
        self.half_close = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        for size, future in self._waiting:
            if len(self.data) >= size and not future.done():
                future.set_result(None)

    async def received(self, size: int) -> bytes:
        """What has come, once it is *size* bytes."""
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiting.append((size, future))
        if len(self.data) >= size:
            future.set_result(None)
        async with asyncio.timeout(10):
            await future
        return self.data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.half_close

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


class Rig:
    """A Streams with one stream, and the far end of its socket."""

    def __init__(self, twin: ModuleType) -> None:
        self.streams = twin.Streams(asyncio.get_running_loop())
        self.protocol = Recorder()
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        self.far.setblocking(False)
        self.stream = self.streams.open(ours, ("peer", 1), self.protocol)

    async def read_all(self, size: int) -> bytes:
        """*size* bytes at the far end."""
        data = b""
        async with asyncio.timeout(10):
            while len(data) < size:
                data += await self.protocol.loop.sock_recv(self.far, 1 << 16)
        return data

    async def lost(self) -> Exception | None:
        """Why connection_lost was called."""
        async with asyncio.timeout(10):
            return await self.protocol.lost


@contextlib.contextmanager
def rig(twin: ModuleType) -> Iterator[Rig]:
    made = Rig(twin)
    try:
        yield made
    finally:
        made.stream.abort()
        made.streams.close()
        made.far.close()


def run(twin: ModuleType, scenario: Callable[[Rig], Awaitable[None]]) -> None:
    """Run *scenario* with *twin*, under both event loops."""

    async def main() -> None:
        with rig(twin) as made:
            await scenario(made)

    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())


@pytest.fixture(params=TWINS, ids=lambda twin: twin.__name__.rpartition(".")[2])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = request.param
    return found


def test_both_ways(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.far.send(b"hello")
        assert await made.protocol.received(5) == b"hello"
        made.stream.write(b"one ")
        made.stream.writelines([b"two ", bytearray(b"three "), memoryview(b"four")])
        assert await made.read_all(18) == b"one two three four"
        assert made.stream.get_extra_info("peername") == ("peer", 1)

    run(twin, scenario)


def test_what_the_kernel_does_not_take_is_kept_in_order(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        parts = [bytes([65 + n]) * 300_000 for n in range(10)]
        made.stream.write(parts[0])
        made.stream.writelines(parts[1:5])
        for part in parts[5:]:
            made.stream.write(part)
        made.stream.writelines([b"!"] * 40)
        assert made.protocol.told[:2] == ["made", "pause"]
        assert made.stream.get_write_buffer_size() > 0
        assert await made.read_all(3_000_040) == b"".join(parts) + b"!" * 40
        async with asyncio.timeout(10):
            while "resume" not in made.protocol.told:
                await asyncio.sleep(0)
        assert made.stream.get_write_buffer_size() == 0

    run(twin, scenario)


def test_close_sends_what_was_written_first(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.stream.write(b"x" * 1_000_000)
        made.stream.close()
        made.stream.write(b"never")
        assert made.stream.is_closing()
        assert "lost" not in made.protocol.told
        assert await made.read_all(1_000_000) == b"x" * 1_000_000
        assert await made.lost() is None
        assert await made.protocol.loop.sock_recv(made.far, 10) == b""

    run(twin, scenario)


@pytest.mark.parametrize("before", [0, 4_000_000], ids=["at once", "behind what the kernel has not taken"])
@pytest.mark.parametrize("last", [b"221 bye\r\n", b""])
def test_finish_sends_its_data_and_the_end(twin: ModuleType, before: int, last: bytes) -> None:
    async def scenario(made: Rig) -> None:
        made.stream.write(b"x" * before)
        made.stream.finish(last)
        assert made.stream.is_closing()
        got = await made.read_all(before + len(last))
        assert got == b"x" * before + last
        assert await made.lost() is None
        assert await made.protocol.loop.sock_recv(made.far, 1) == b""

    run(twin, scenario)


def test_connection_lost_never_comes_within_the_call_that_closes(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.stream.close()
        assert "lost" not in made.protocol.told
        made.stream.close()
        made.stream.abort()
        assert await made.lost() is None
        await asyncio.sleep(0)
        assert made.protocol.told == ["made", "lost"]

    run(twin, scenario)


def test_paused_reading_leaves_bytes_in_the_kernel(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.stream.pause_reading()
        assert not made.stream.is_reading()
        made.far.send(b"later")
        for _ in range(5):
            await asyncio.sleep(0)
        assert made.protocol.data == b""
        made.stream.resume_reading()
        assert await made.protocol.received(5) == b"later"

    run(twin, scenario)


@pytest.mark.parametrize("half_close", [False, True])
def test_end_of_file(twin: ModuleType, half_close: bool) -> None:
    async def scenario(made: Rig) -> None:
        made.protocol.half_close = half_close
        made.far.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            while "eof" not in made.protocol.told:
                await asyncio.sleep(0)
        if half_close:
            made.stream.write(b"still here")
            assert await made.read_all(10) == b"still here"
            made.stream.close()
        assert await made.lost() is None

    run(twin, scenario)


def test_a_reset_is_told_even_while_reading_is_paused(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.stream.pause_reading()
        made.far.close()
        assert isinstance(await made.lost(), ConnectionResetError)

    run(twin, scenario)


def test_writing_to_a_dead_peer(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.far.close()
        made.stream.write(b"x")
        made.stream.write(b"x")
        assert isinstance(await made.lost(), OSError)

    run(twin, scenario)


def test_a_fault_costs_its_own_connection_only(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        class Faulty(Recorder):
            def data_received(self, data: bytes) -> None:
                raise RuntimeError("a bug")

        contexts: list[dict[str, Any]] = []
        made.protocol.loop.set_exception_handler(lambda _loop, context: contexts.append(context))
        faulty = Faulty()
        ours, far = socket.socketpair()
        made.streams.open(ours, None, faulty)
        far.send(b"x")
        made.far.send(b"hello")
        assert await made.protocol.received(5) == b"hello"
        async with asyncio.timeout(10):
            await faulty.lost
        assert isinstance(contexts[0]["exception"], RuntimeError)
        assert contexts[0]["protocol"] is faulty
        far.close()

    run(twin, scenario)


def test_listen_accepts_a_burst_and_ends(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made_here: list[Recorder] = []

        def make() -> Recorder:
            made_here.append(Recorder())
            return made_here[-1]

        errors: list[OSError] = []
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
            address = listening.getsockname()
            end = made.streams.listen(listening.dup(), make, errors.append)
            clients = [socket.create_connection(address) for _ in range(150)]
            for client in clients:
                client.send(b"hi")
            async with asyncio.timeout(10):
                while len(made_here) < 150:
                    await asyncio.sleep(0)
                for server in made_here:
                    await server.received(2)
            names = {client.getsockname() for client in clients}
            assert {server.transport.get_extra_info("peername") for server in made_here} == names
            assert made_here[0].transport.get_extra_info("sockname") == address
            end()
            late = socket.create_connection(address)  # the socket itself still listens: its owner holds it
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(made_here) == 150
            for sock in (*clients, late):
                sock.close()
            async with asyncio.timeout(10):
                for server in made_here:
                    await server.lost
        assert not errors

    run(twin, scenario)


def test_an_accept_that_fails_is_tried_again_after_a_pause(twin: ModuleType) -> None:
    """No descriptor is left: the socket stays ready, and a loop that tried again at once would spin."""

    async def scenario(made: Rig) -> None:
        errors: list[OSError] = []
        served: list[Recorder] = []

        def make() -> Recorder:
            served.append(Recorder())
            return served[-1]

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
            end = made.streams.listen(listening.dup(), make, errors.append)
            taken = os.dup(client.fileno())
            os.close(taken)  # the lowest free one
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
            try:
                client.connect(listening.getsockname())
                async with asyncio.timeout(10):
                    while not errors:
                        await asyncio.sleep(0)
                first_s = made.protocol.loop.time()
                for _ in range(200):
                    await asyncio.sleep(0)
                assert len(errors) <= 1 + (made.protocol.loop.time() - first_s) / twin.ACCEPT_AGAIN_S
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client.send(b"hi")
            async with asyncio.timeout(10):
                while not served:
                    await asyncio.sleep(0.001)
            await served[0].received(2)
            end()
        assert {error.errno for error in errors} == {errno.EMFILE}
        async with asyncio.timeout(10):
            await served[0].lost

    run(twin, scenario)


def test_a_fault_while_a_connection_is_made_closes_it(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        class Faulty(Recorder):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                raise RuntimeError("a bug")

        served: list[Faulty] = []

        def make() -> Faulty:
            if served:
                raise RuntimeError("another")
            served.append(Faulty())
            return served[-1]

        contexts: list[dict[str, Any]] = []
        made.protocol.loop.set_exception_handler(lambda _loop, context: contexts.append(context))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            end = made.streams.listen(listening.dup(), make, lambda error: None)
            for _ in range(2):
                with socket.socket() as client:
                    client.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        client.connect(listening.getsockname())
                    async with asyncio.timeout(10):
                        assert await made.protocol.loop.sock_recv(client, 1) == b""
            end()
        await served[0].lost
        assert [str(context["exception"]) for context in contexts] == ["a bug", "another"]

    run(twin, scenario)


@pytest.mark.parametrize("size", [0, 4 << 20])
def test_end_of_file_goes_out_behind_what_was_written_and_reading_goes_on(twin: ModuleType, size: int) -> None:
    async def scenario(made: Rig) -> None:
        made.stream.write(bytes(size) + b"end")
        made.stream.write_eof()
        made.stream.write(b"too late")
        assert (await made.read_all(size + 3)).endswith(b"end")
        async with asyncio.timeout(10):
            assert await made.protocol.loop.sock_recv(made.far, 1) == b""
        made.far.send(b"more")
        assert await made.protocol.received(4) == b"more"
        made.far.close()
        assert await made.lost() is None

    run(twin, scenario)


def test_nothing_is_read_after_close(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.stream.write(bytes(4 << 20))
        made.stream.close()
        made.stream.resume_reading()
        assert not made.stream.is_reading()
        made.far.send(b"x")
        await made.read_all(4 << 20)
        assert await made.lost() is None
        assert made.protocol.data == b""

    run(twin, scenario)


def test_a_stream_may_outlive_its_streams(twin: ModuleType) -> None:
    async def scenario(made: Rig) -> None:
        made.streams.close()
        made.stream.abort()
        assert await made.lost() is None
        assert made.far.recv(1) == b""

    run(twin, scenario)
