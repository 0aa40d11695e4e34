"""A role that does next to nothing, and tells the test about it: each event is a datagram to the socket `events` beside the configuration.

What a child does is read from the file `ROLE-INDEX` there when it starts: "crash" (before its first heartbeat), "refuse", "hang" (after it),
"stubborn" (does not drain), "deaf" (ignores every SIGTERM), else it works.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from engine.config import Config
from engine.drain import watch
from engine.errors import StartError
from engine.process import Birth, Heartbeat, incoming


class Reporter:
    """Sends `role/index event pid ...` to the test."""

    def __init__(self, birth: Birth) -> None:
        self.birth = birth
        self.directory = Path(birth.log_path).parent
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def say(self, event: str) -> None:
        try:
            self.socket.sendto(f"{self.birth.name} {event} {os.getpid()}".encode(), str(self.directory / "events"))
        except OSError as error:  # the test has gone
            print(f"no one hears {event}: {error}", file=sys.stderr)

    def behaviour(self) -> str:
        path = self.directory / f"{self.birth.role}-{self.birth.index}"
        return path.read_text().strip() if path.exists() else ""


def run(birth: Birth, config: Config) -> int:
    reporter = Reporter(birth)
    behaviour = reporter.behaviour()
    reporter.say(f"started:{os.getuid()}:{behaviour or 'works'}")
    if behaviour == "crash":
        return 3
    if behaviour == "refuse":
        raise StartError("this spool has another format")
    if behaviour == "hang":
        Heartbeat(birth).beat()
        os.read(birth.lifeline_fd, 1)  # holds for ever
        return 0
    return asyncio.run(work(birth, reporter, behaviour))


async def work(birth: Birth, reporter: Reporter, behaviour: str) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def drain() -> None:
        reporter.say("drains")
        if behaviour not in ("stubborn", "deaf"):
            ended.set()

    def stop() -> None:
        reporter.say("stops")
        if behaviour != "deaf":
            ended.set()

    servers = [await asyncio.start_server(greet, sock=socket.socket(fileno=listening.fd)) for listening in birth.sockets]
    if birth.role == "listener":
        assert incoming(birth, 10).take()
    watch(loop, birth, drain, stop)
    reporter.say("works")
    await ended.wait()
    for server in servers:
        server.close()
    reporter.say("ends")
    return 0


async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"220 {os.getpid()}\r\n".encode())
    writer.close()
