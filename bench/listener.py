"""`python -m bench.listener`: CPU per message of the listener's loop alone, its bodies written, its spool answering at once; beside the C sink."""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from bench.load import Load, Sink, Source
from engine.config import build, from_text
from engine.door import Door
from engine.listener.listener import Listener
from engine.listener.worker import GC_THRESHOLDS
from engine.log import EventLog
from engine.mail import message_id
from engine.process import ListenSocket, SharedCount
from engine.reception import Reception
from engine.spool import SegmentWriter
from engine.spool.ops import Operation

CONF = """
host-name bench.example
log-file @dir@/log
<spool @dir@/spool>
</spool>
<source 127.0.0.0/8>
    always-allow-relaying yes
    process-x-virtual-mta yes
</source>
"""


class Instant:
    """A link whose spool process answers everything at the end of the loop's turn, from memory."""

    def __init__(self) -> None:
        self.epoch = 1
        self.pending_bytes = 0
        self.on_abandoned: Callable[[int, int], None] | None = None
        self._count = 0
        self._done: list[Callable[[str | None], None]] = []

    def new_id(self) -> bytes:
        self._count += 1
        return message_id.pack(0, 1, self._count)

    def submit(self, operation: Operation, done: Callable[[str | None], None]) -> None:
        if not self._done:
            asyncio.get_running_loop().call_soon(self._answer)
        self._done.append(done)

    def _answer(self) -> None:
        done, self._done = self._done, []
        for each in done:
            each(None)


async def measure(load: Load, directory: Path) -> tuple[float, float]:
    """(CPU microseconds of the loop's thread per message, messages per second)."""
    config = build(from_text(CONF.replace("@dir@", str(directory)))).config
    assert config is not None
    link, log = Instant(), EventLog(str(directory / "log"), "listener/0")
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listening.getsockname()[1]
    listener = Listener(
        Reception(config, link, SegmentWriter(directory, link), log), log, [ListenSocket(listening.detach(), "127.0.0.1", port)],
        SharedCount(memoryview(bytearray(4)), 0, 0), 10_000, Door.alone(),
    )  # fmt: skip
    listener.open()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    before = time.thread_time()
    sent = await asyncio.to_thread(Source(load, port, directory).finish, 600)
    cpu_us = (time.thread_time() - before) * 1e6
    listener.stop()
    await listener.ended
    log.close()
    return cpu_us / sent.accepted, sent.accepted / sent.seconds


def sink_cpu_us(load: Load, directory: Path) -> float:
    """The C sink's CPU microseconds per message under the same load: its floor on this machine, now."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Sink(directory) as sink:
        sent = Source(load, sink.port, directory, name="floor").finish(600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    both = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e6
    return (both - sent.cpu_us) / sent.accepted


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.listener", description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=10_240)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--smtp-source", action="store_true", help="Debian's source instead of ours")
    options = parser.parse_args(words)
    load = Load(messages=options.messages, size_bytes=options.size, sessions=options.sessions, smtp_source=options.smtp_source)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        floor_us = sink_cpu_us(load, Path(name))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            cpu_us, rate = runner.run(measure(load, Path(name)))
    print(f"listener: {cpu_us:.0f} us CPU a message, {rate:.0f} messages/s; the C sink: {floor_us:.0f} us; ratio {cpu_us / floor_us:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
