"""`python -m bench.levers [NAME ...]`: the ways to make the hot path cheaper that can be judged alone, each against what it would replace.

Every lever is run in turns with its alternative, five times; the medians are printed, CPU microseconds of this process and wall microseconds for each
unit.  docs/performance.md says which were taken.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import os
import select
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import lmdb
import msgspec

from bench.engine_process import ROOT

ROUNDS = 5
BODY_BYTES = 10 * 1024
GROUP = 24
Work = Callable[[], int]  # does some units of work; how many


@dataclass(frozen=True, slots=True)
class Lever:
    """Two or more ways to do the same."""

    unit: str
    ways: Callable[[Path, ExitStack], dict[str, Work]]  # in a directory on the file system of the benchmarks; what it opens, the stack closes


def drain(peer: socket.socket) -> None:
    """Be a process that reads and forgets, until the other end closes."""
    buffer = bytearray(1 << 20)
    while peer.recv_into(buffer):
        pass
    os._exit(0)


@contextmanager
def reader() -> Iterator[socket.socket]:
    """A TCP connection on loopback whose other end is read by another process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pid = os.fork()
    if not pid:
        ours.close()
        drain(theirs)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def send_all(connection: socket.socket, pieces: list[bytes | memoryview]) -> None:
    """All of *pieces*, whatever the buffer takes at once."""
    sent = connection.sendmsg(pieces)
    whole = sum(map(len, pieces))
    if sent < whole:
        connection.sendall(b"".join(pieces)[sent:])


def body_reading(directory: Path, stack: ExitStack) -> dict[str, Work]:
    """From a segment in the page cache to a peer, with our own header lines in front."""
    path, count, head = directory / "segment", 1000, b"Received: by us\r\n" * 8
    path.write_bytes(os.urandom(BODY_BYTES) * count)
    fd = os.open(path, os.O_RDONLY)
    stack.callback(os.close, fd)
    mapped = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
    connection = stack.enter_context(reader())

    def pread() -> int:
        for number in range(count):
            send_all(connection, [head, os.pread(fd, BODY_BYTES, number * BODY_BYTES)])
        return count

    def from_map() -> int:
        for number in range(count):
            send_all(connection, [head, mapped[number * BODY_BYTES : (number + 1) * BODY_BYTES]])
        return count

    def sendfile() -> int:
        for number in range(count):
            connection.send(head, socket.MSG_MORE)
            at = number * BODY_BYTES
            while at < (number + 1) * BODY_BYTES:
                at += os.sendfile(connection.fileno(), fd, at, (number + 1) * BODY_BYTES - at)
        return count

    return {"pread, then sendmsg (as it is)": pread, "sendmsg from a mapping": from_map, "sendfile behind MSG_MORE": sendfile}


def replies(_directory: Path, stack: ExitStack) -> dict[str, Work]:
    """Six replies of a pipelined group."""
    connection, lines = stack.enter_context(reader()), [b"250 2.1.5 Ok\r\n"] * 6

    def together() -> int:
        for _ in range(2000):
            connection.send(b"".join(lines))
        return 2000

    def each() -> int:
        for _ in range(2000):
            for line in lines:
                connection.send(line)
        return 2000

    return {"in one send (as it is)": together, "a send for each": each}


def accepting(_directory: Path, stack: ExitStack) -> dict[str, Work]:
    """Bursts of 25 connections."""
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
    listening.setblocking(False)
    poller = stack.enter_context(select.epoll())
    poller.register(listening.fileno(), select.EPOLLIN)

    def burst(drained: bool) -> int:
        for _ in range(20):
            clients = [socket.create_connection(listening.getsockname()) for _ in range(25)]
            taken: list[socket.socket] = []
            while len(taken) < len(clients):
                poller.poll()
                try:
                    taken.append(listening.accept()[0])
                    while drained:
                        taken.append(listening.accept()[0])
                except BlockingIOError:
                    continue
            for each in (*clients, *taken):
                each.close()
        return 500

    return {"until there is none (as it is)": lambda: burst(True), "one for each wake-up": lambda: burst(False)}


def syncs(directory: Path, stack: ExitStack) -> dict[str, Work]:
    """200 KB of new bodies in each of four segments."""
    files = [os.open(directory / f"sync-{number}", os.O_RDWR | os.O_CREAT) for number in range(4)]
    for fd in files:
        stack.callback(os.close, fd)
    pool = stack.enter_context(ThreadPoolExecutor(4))
    body, at = os.urandom(200 * 1024), [0]

    def write() -> None:
        for fd in files:
            os.pwrite(fd, body, at[0])
        at[0] += len(body)

    def one_by_one() -> int:
        for _ in range(10):
            write()
            for fd in files:
                os.fdatasync(fd)
        return 10

    def at_once() -> int:
        for _ in range(10):
            write()
            list(pool.map(os.fdatasync, files))
        return 10

    return {"one after the other (as it is)": one_by_one, "in four threads": at_once}


def bodies(directory: Path, stack: ExitStack) -> dict[str, Work]:
    """Groups of 24 messages of 1 KB come and go beside 20,000 that stay: the body in a segment, or in its row."""
    small = os.urandom(1024)

    def way(inline: bool) -> Work:
        env = stack.enter_context(lmdb.open(str(directory / f"inline-{inline}"), map_size=1 << 30, max_dbs=1))
        table, row = env.open_db(b"message"), b"e" * 250 + (small if inline else b"")
        segment = os.open(directory / f"bodies-{inline}", os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, segment)
        with env.begin(write=True) as txn:
            txn.cursor(table).putmulti((number.to_bytes(8, "big"), row) for number in range(20_000))
        state = [20_000, 0]

        def work() -> int:
            for _ in range(20):
                if not inline:
                    for _ in range(GROUP):
                        os.pwrite(segment, small, state[1])
                        state[1] += len(small)
                    os.fdatasync(segment)
                first = state[0]
                state[0] += GROUP
                with env.begin(write=True) as txn:
                    txn.cursor(table).putmulti([(number.to_bytes(8, "big"), row) for number in range(first, state[0])])
                    for number in range(first - 10 * GROUP, first - 9 * GROUP):
                        txn.delete(number.to_bytes(8, "big"), db=table)
            return 20

        return work

    return {"in a segment (as it is)": way(False), "in its row": way(True)}


def rows(directory: Path, stack: ExitStack) -> dict[str, Work]:
    """100 rows of a group, in a transaction that is thrown away: the binding's share, for putmulti is a loop in C."""
    env = stack.enter_context(lmdb.open(str(directory / "rows"), map_size=1 << 30, max_dbs=1))
    table = env.open_db(b"due")
    every = [(os.urandom(24), b"d" * 120) for _ in range(100)]
    with env.begin(write=True) as txn:
        txn.cursor(table).putmulti([(os.urandom(24), b"d" * 120) for _ in range(20_000)])

    def way(put: Callable[[lmdb.Transaction[bytes]], object]) -> Work:
        def work() -> int:
            for _ in range(50):
                txn = env.begin(write=True)
                put(txn)
                txn.abort()
            return 50

        return work

    def single(txn: lmdb.Transaction[bytes]) -> None:
        for key, value in every:
            txn.put(key, value, db=table)

    return {
        "putmulti of sorted rows (as it is)": way(lambda txn: txn.cursor(table).putmulti(sorted(every))),
        "putmulti as they come": way(lambda txn: txn.cursor(table).putmulti(every)),
        "put by put": way(single),
    }


class Operation(msgspec.Struct, array_like=True):
    """About an Accept."""

    number: int
    message: bytes
    recipients: list[bytes]


def links(_directory: Path, stack: ExitStack) -> dict[str, Work]:
    """24 operations from a worker to the spool process."""
    left, right = socket.socketpair()
    for end in (left, right):
        stack.callback(end.close)
    every = [Operation(number, b"m" * 300, [b"r" * 60]) for number in range(GROUP)]
    encoder, buffer = msgspec.msgpack.Encoder(), bytearray(1 << 20)
    ring = mmap.mmap(-1, 1 << 20)
    bell = os.eventfd(0)
    stack.callback(os.close, bell)

    def batch() -> int:
        for _ in range(200):
            left.send(encoder.encode(every))
            right.recv_into(buffer)
        return 200

    def one_by_one() -> int:
        for _ in range(200):
            for operation in every:
                left.send(encoder.encode(operation))
                right.recv_into(buffer)
        return 200

    def shared() -> int:
        for _ in range(200):
            data = encoder.encode(every)
            ring[: len(data)] = data
            os.eventfd_write(bell, 1)
            os.eventfd_read(bell)
            bytes(ring[: len(data)])
        return 200

    return {"as one frame on a socket (as it is)": batch, "a frame for each": one_by_one, "through shared memory, with an eventfd": shared}


def collections(_directory: Path, stack: ExitStack) -> dict[str, Work]:
    """A full collection in a process that has imported what a listener imports."""
    import engine.listener.worker  # noqa: F401

    def frozen() -> int:
        gc.freeze()
        gc.collect()
        gc.unfreeze()
        return 1

    def whole() -> int:
        gc.collect()
        return 1

    return {"after gc.freeze (as it is)": frozen, "of everything": whole}


LEVERS = {
    "body": Lever("body of 10 KB", body_reading),
    "replies": Lever("group of six", replies),
    "accept": Lever("connection, both ends", accepting),
    "syncs": Lever("four segments", syncs),
    "inline": Lever("group of 24", bodies),
    "rows": Lever("100 rows", rows),
    "link": Lever("24 operations", links),
    "gc": Lever("collection", collections),
}


def measure(work: Work) -> tuple[float, float]:
    """(CPU, wall) microseconds for each unit of one round."""
    cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
    units = work()
    return (time.process_time_ns() - cpu_ns) / units / 1000, (time.perf_counter_ns() - wall_ns) / units / 1000


def main(words: list[str] | None = None) -> int:
    """Print a table of the levers that *words* names, or of all."""
    parser = argparse.ArgumentParser(prog="python -m bench.levers", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(LEVERS))
    parser.add_argument("--dir", type=Path, default=ROOT / "var", help="where files lie: a real file system")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.names if name not in LEVERS]:
        parser.error(f"there is no {unknown[0]}: {', '.join(LEVERS)}")
    arguments.dir.mkdir(exist_ok=True)
    for name in arguments.names or LEVERS:
        lever, directory = LEVERS[name], Path(tempfile.mkdtemp(dir=arguments.dir))
        try:
            with ExitStack() as stack:
                ways = lever.ways(directory, stack)
                found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
                for _ in range(ROUNDS):
                    for way, work in ways.items():
                        found[way].append(measure(work))
        finally:
            shutil.rmtree(directory)
        for way, figures in found.items():
            cpu_us, wall_us = (statistics.median(column) for column in zip(*figures, strict=True))
            print(f"{name:8} {way:40} {cpu_us:9.1f} us CPU {wall_us:9.1f} us wall   a {lever.unit}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
