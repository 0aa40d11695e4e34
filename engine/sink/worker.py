"""The process behind dummy-smtp-port: a sink from start to drain."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import uvloop

from engine.drain import watch
from engine.log import EventLog, escape
from engine.process import Birth, Traffic
from engine.sink.behaviour import Behaviour, BehaviourError, read_blacklist
from engine.sink.listening import Sink

if TYPE_CHECKING:
    from engine.config import Config
    from engine.config.settings import ServerSettings

FLUSH_S = 1.0


def run(birth: Birth, config: Config) -> int:
    """Throw mail away until SIGTERM; the exit status."""
    log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
    try:
        chosen = behaviour(config.server)
    except BehaviourError as error:
        log.event("failed", f"dummy-smtp-blacklist: {escape(str(error))}")
        log.close()
        return os.EX_CONFIG
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(birth, config, chosen, log))


def behaviour(server: ServerSettings) -> Behaviour:
    """What dummy-smtp-* say."""
    path, text = server.dummy_smtp_blacklist
    listed = read_blacklist(text) if path else None
    percent = server.dummy_smtp_blacklist_bounce_percent if listed is not None else 0
    return Behaviour(
        host_name=server.host_name[0],
        latency_s=server.dummy_smtp_latency / 1000,
        blacklist=listed,
        bounce_percent=percent,
        pipelining=server.dummy_smtp_has_pipelining,
        chunking=server.dummy_smtp_has_chunking,
        await_slot=server.dummy_smtp_await_slot,
    )


async def _serve(birth: Birth, config: Config, chosen: Behaviour, log: EventLog) -> int:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    began_s = loop.time()
    sink = Sink(chosen, on_error=lambda error: log.event("sink", f"no connection could be accepted: {escape(str(error))}"))
    if config.server.dummy_smtp_log_blacklist:
        sink.on_refused = lambda address: log.event("sink", f"rcpt=<{escape(address)}> is on the blacklist")
    sink.listen([socket.socket(fileno=inherited.fd) for inherited in birth.sockets])
    watch(loop, birth, stopped.set, stopped.set)
    # what a shadow throws away is its own deliveries, which no operator's clients have sent
    traffic = Traffic(birth) if config.server.dummy_smtp_update_stats and birth.shadow is None else None

    def count() -> None:
        log.flush()
        if traffic is not None:
            traffic.put(sink.counts.messages, sink.counts.recipients, sink.counts.bytes)

    log.event("started", f"pid={os.getpid()} throws away what comes to {', '.join(f'{each.address}:{each.port}' for each in birth.sockets)}")
    while not stopped.is_set():
        count()
        try:
            async with asyncio.timeout(FLUSH_S):
                await stopped.wait()
        except TimeoutError:
            continue
    sink.close()
    count()
    log.event("stopped", sink.counts.in_words(loop.time() - began_s))
    log.close()
    return os.EX_OK
