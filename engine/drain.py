"""How a child with an asyncio loop ends: drains at SIGTERM, stops at the second, dies with the supervisor; and how it shows that it lives."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from engine.process import Birth, Heartbeat

HEARTBEAT_S = 1.0


def watch(loop: asyncio.AbstractEventLoop, birth: Birth, on_drain: Callable[[], None], on_stop: Callable[[], None]) -> Heartbeat:
    """Start watching, once the process is ready for its work; returns its Heartbeat, which beats by itself while the loop turns.

    The first SIGTERM calls *on_drain*, each later one *on_stop*.  When the supervisor's end of the lifeline closes, the process ends at once:
    what was acknowledged is on disk, and a successor may already be waiting for the lock.
    """
    heartbeat = Heartbeat(birth)
    draining = False

    def terminate() -> None:
        nonlocal draining
        if draining:
            on_stop()
        else:
            draining = True
            on_drain()

    def beat() -> None:
        heartbeat.beat()
        loop.call_later(HEARTBEAT_S, beat)

    def lifeline() -> None:
        if os.read(birth.lifeline_fd, 1) == b"":
            os._exit(os.EX_UNAVAILABLE)

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_reader(birth.lifeline_fd, lifeline)
    beat()
    return heartbeat
