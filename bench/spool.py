"""`python -m bench.spool`: the spool process alone, fed by one process: messages accepted and settled a second, CPU microseconds of each side.

A window of operations is kept open, as clients that wait for their 250 keep one; settles run beside accepts.  With --backlog N, N deferred
recipients lie in the spool and a tenth of the traffic joins them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop

from engine.log import EventLog
from engine.spool import SegmentWriter, SpoolLink, SpoolReader, format
from engine.spool.ops import Accept, Due, Message, NewRecipient, Settle, Settlement

RECORD = b"r" * 300  # about an encoded d record
encode = msgspec.msgpack.encode


def serve(root: str, listener_fd: int) -> None:
    """Be the spool process until SIGTERM."""
    from engine.spool.service import SpoolService
    from engine.spool.worker import tune

    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    service = SpoolService(Path(root), socket.socket(fileno=listener_fd), EventLog(os.devnull, "spool/0"))
    tune()
    while not stopping:
        service.turn(0.2)
    service.close()


def cpu_s(pid: int) -> float:
    """CPU seconds of another process, kernel included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    """Accepts *count* messages and settles them as they are announced, at most *window* operations of each kind open."""

    def __init__(self, root: Path, path: str, size: int, window: int) -> None:
        self.root = root
        self.path = path
        self.body = b"x" * size
        self.window = window
        self.latencies: list[float] = []

    async def connect(self) -> None:
        self.slot = await SpoolLink.connect(self.path, role="delivery", index=0, virtual_mtas=["v"], fallback=True, on_lost=self.lost)
        self.listener = await SpoolLink.connect(self.path, role="listener", index=0, on_lost=self.lost)
        self.writer = SegmentWriter(self.root / format.BODIES, self.listener)
        self.reader = SpoolReader(self.root)

    def lost(self, error: Exception) -> None:
        raise SystemExit(f"spool process lost: {error}")

    async def run(self, count: int, keep: int) -> None:
        """Accept *count* messages and settle them; one of *keep* is deferred instead (0: none)."""
        self.left = count
        self.open = 0
        self.settled = 0
        self.keep = keep
        self.wanted = count
        self.taken: dict[int, bytes] = {}
        self.finished = asyncio.get_running_loop().create_future()
        self.slot._on_announce = self.announced
        self.feed()
        await asyncio.wait_for(self.finished, 600)

    def feed(self) -> None:
        while self.left and self.open < self.window:
            self.left -= 1
            self.open += 1
            identity = self.listener.new_id()
            body = self.writer.write(identity, [self.body])
            message = Message(body, "sender@example.com", b"Received: x\r\n" * 10, 1, False, True, "", "", "smtp", "host (127.0.0.1)", "")
            recipient = NewRecipient(f"d{self.left % 20}.example/v", encode(Due("someone@d.example", 1)))
            started = time.perf_counter()
            accept = Accept(identity, encode(message), body.epoch, body.segment, body.size_bytes, [recipient])
            self.listener.submit(accept, lambda reason, started=started: self.accepted(reason, started))

    def accepted(self, reason: str | None, started: float) -> None:
        if reason is not None:
            raise SystemExit(f"refused: {reason}")
        self.latencies.append(time.perf_counter() - started)
        self.open -= 1
        self.feed()

    def announced(self, numbers: list[int], stamp_ms: int) -> None:
        for number in numbers:
            after = self.taken.get(number)
            rows, _ = self.reader.due(number, after, stamp_ms, 1000)
            if not rows:
                continue
            self.taken[number] = rows[-1][0]
            for key, due in rows:
                self.settled += 1
                if self.keep and self.settled % self.keep == 0:
                    later = Settlement(key, RECORD, (1 << 42) + self.settled, encode(msgspec.structs.replace(due, attempts=1)))
                    self.slot.submit(Settle([later]), self.done)
                else:
                    self.slot.submit(Settle([Settlement(key, RECORD)]), self.done)

    def done(self, reason: str | None) -> None:
        self.wanted -= 1
        if not self.wanted:
            self.finished.set_result(None)


async def fill(load: Load, backlog: int) -> None:
    """*backlog* messages that nobody settles."""
    load.slot._on_announce = lambda numbers, stamp: None
    for identity in ids(load.listener, backlog):
        body = load.writer.write(identity, [b"x"])
        message = Message(body, "s@example.com", b"Received: x\r\n" * 10, 1, False, True, "", "", "smtp", "host (127.0.0.1)", "")
        recipient = NewRecipient(f"d{identity[-1] % 20}.example/v", encode(Due("someone@d.example", 1)))
        load.listener.submit(Accept(identity, encode(message), body.epoch, body.segment, 1, [recipient]), lambda reason: None)
        if load.listener.pending > 5000:
            await load.listener.drain()
    await load.listener.drain()


def ids(link: SpoolLink, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield link.new_id()


async def measure(arguments: argparse.Namespace, root: Path, path: str, pid: int) -> None:
    load = Load(root, path, arguments.size, arguments.window)
    await load.connect()
    if arguments.backlog:
        await fill(load, arguments.backlog)
        load.taken = {}
    keep = 10 if arguments.backlog else 0
    spool_cpu = cpu_s(pid)
    own = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    if arguments.backlog:  # the backlog lies before the frontier: pass it
        for number, _ in load.reader.queues(0, 1000):
            rows, _ = load.reader.due(number, None, 1 << 41, arguments.backlog)
            load.taken[number] = rows[-1][0]
        frontier = dict(load.taken)
        spool_cpu, own, started = cpu_s(pid), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        run = asyncio.ensure_future(load.run(arguments.messages, keep))
        await asyncio.sleep(0)
        load.taken.update(frontier)
        await run
    else:
        await load.run(arguments.messages, keep)
    elapsed = time.perf_counter() - started
    mine = resource.getrusage(resource.RUSAGE_SELF)
    worker_us = (mine.ru_utime + mine.ru_stime - own.ru_utime - own.ru_stime) / arguments.messages * 1e6
    spool_us = (cpu_s(pid) - spool_cpu) / arguments.messages * 1e6
    latencies = sorted(load.latencies)
    print(
        f"spool: {arguments.messages / elapsed:.0f} messages/s accepted and settled, spool process {spool_us:.0f} us CPU a message, "
        f"feeding process {worker_us:.0f} us, accept p50 {latencies[len(latencies) // 2] * 1e3:.1f} ms "
        f"p99 {latencies[len(latencies) * 99 // 100] * 1e3:.1f} ms "
        f"(window {arguments.window}, {arguments.size} bytes, backlog {arguments.backlog})"
    )


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=50, help="accepts open at once")
    parser.add_argument("--backlog", type=int, default=0)
    parser.add_argument("--directory", default=None, help="on the disk that is to be measured")
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="spool-", dir=arguments.directory))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = str(base / "socket")
    listener.bind(path)
    listener.listen(16)
    command = [sys.executable, "-m", "bench.spool", "--serve", str(base / "spool"), str(listener.fileno())]
    process = subprocess.Popen(command, pass_fds=[listener.fileno()])
    try:
        uvloop.run(measure(arguments, base / "spool", path, process.pid))
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
