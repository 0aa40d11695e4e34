"""A simulated network: connections whose bytes take time, come in pieces, are lost behind any byte, or never come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, NamedTuple

from tests.simulation.loop import Process, SimulatedLoop

HIGH_WATER_BYTES = 64 * 1024
LEAST_S = 1e-6  # between two arrivals: what was sent first comes first


class Cut(NamedTuple):
    """Behind byte *at* of what one side sends: "reset" for both, an orderly "close", or "stall": silence."""

    at: int
    how: str


class Line(NamedTuple):
    """How a connection carries: seconds one way, and how many pieces a write may come in."""

    latency_s: float
    pieces: int = 1


class Endpoint(asyncio.Transport):
    """One side of a connection, as its protocol sees it."""

    def __init__(self, network: Network, process: Process | None, line: Line, cut: Cut | None, name: str) -> None:
        self.network = network
        self.process = process  # None: the world's
        self.context = process.context if process is not None else network.context
        self.name = name
        self.other: Endpoint
        self.protocol: Any = None
        self.closed = False  # nothing is told to the protocol any more, but connection_lost
        self.written = 0  # bytes that the protocol gave
        self.received = 0  # bytes that the protocol got
        self.on_closed: Callable[[], None] | None = None
        self._line = line
        self._cut = cut
        self._lost_said = False
        self._silent = False
        self._arrival_s = 0.0
        self._high = HIGH_WATER_BYTES
        self._in_flight = 0
        self._choked = False
        self._paused = False
        self._waiting: list[Callable[[], None]] = []  # arrived while reading was paused

    # --- asyncio.Transport ------------------------------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername` and `sockname`."""
        return (self.other.name, 4000) if name == "peername" else (self.name, 25) if name == "sockname" else default

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the protocol over *high* bytes that have not arrived."""
        self._high = HIGH_WATER_BYTES if high is None else high

    def write(self, data: Any) -> None:
        """Send *data*, cut where the plan says."""
        if self.closed or self._silent or not data:
            return
        data = bytes(data)
        cut = self._cut
        self.written += len(data)
        if cut is not None and self.written > cut.at:
            data = data[: len(data) - (self.written - cut.at)]
            self._silent = True
        for piece in self._pieces(data):
            self._in_flight += len(piece)
            self._carry(self.other._arrive, piece)
        if self._silent and cut is not None and cut.how != "stall":
            self._carry(self.other._reset if cut.how == "reset" else self.other._end)
            self.network.later(0.0, self._reset if cut.how == "reset" else self._end, self.context)
        if self._in_flight > self._high and not self._choked:
            self._choked = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """All of them at once."""
        self.write(b"".join(list_of_data))

    def finish(self, data: bytes) -> None:
        """`write` and `close`."""
        self.write(data)
        self.close()

    def write_eof(self) -> None:
        """Nothing more comes from this side; what comes is still read."""
        if not self.closed:
            self._carry(self.other._end)

    def pause_reading(self) -> None:
        """What arrives waits."""
        self._paused = True

    def resume_reading(self) -> None:
        """Read again."""
        self._paused = False
        waiting, self._waiting = self._waiting, []
        for arrived in waiting:
            self.network.later(0.0, arrived, self.context)

    def close(self) -> None:
        """Close behind what was written."""
        if not self.closed:
            self._shut()
            self._carry(self.other._end)
            self.network.later(0.0, self._say_lost, self.context, None)

    def abort(self) -> None:
        """Close now."""
        if not self.closed:
            self._shut()
            self._carry(self.other._reset)
            self.network.later(0.0, self._say_lost, self.context, None)

    def die(self, orderly: bool) -> None:
        """The process at this side was killed: the kernel closes for it."""
        if not self.closed:
            self._shut()
            self._lost_said = True
            self._carry(self.other._end if orderly else self.other._reset)

    # --- inside -----------------------------------------------------------------------------------------------------------------------

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._line.pieces == 1 or len(data) < 2:
            return [data] if data else []
        random = self.network.random
        cuts = sorted(random.randrange(1, len(data)) for _ in range(random.randrange(self._line.pieces)))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]

    def _carry(self, arrive: Callable[..., None], *arguments: Any) -> None:
        network, line = self.network, self._line
        jitter = network.random.random() * line.latency_s * 0.2 if line.pieces > 1 else 0.0
        self._arrival_s = max(self._arrival_s + LEAST_S, network.loop.time() + line.latency_s + jitter)
        network.loop.call_at(self._arrival_s, arrive, *arguments, context=self.other.context)

    def _arrive(self, data: bytes) -> None:
        if self.closed:
            return
        if self._paused:
            self._waiting.append(lambda: self._arrive(data))
            return
        self.received += len(data)
        sender = self.other
        sender._in_flight -= len(data)
        if sender._choked and sender._in_flight <= 0 and not sender.closed:
            sender._choked = False
            self.network.later(0.0, sender.protocol.resume_writing, sender.context)
        self.protocol.data_received(data)

    def _end(self) -> None:
        if self.closed:
            return
        if self._paused:
            self._waiting.append(self._end)
        elif not self.protocol.eof_received():
            self.close()

    def _reset(self) -> None:
        if not self.closed:
            self._shut()
            self.other._silent = True
            self._say_lost(ConnectionResetError("connection reset by peer"))

    def _shut(self) -> None:
        self.closed = True
        self._waiting.clear()
        self.network.forget(self)
        if self.on_closed is not None:
            self.on_closed()

    def _say_lost(self, error: Exception | None) -> None:
        if not self._lost_said:
            self._lost_said = True
            self.protocol.connection_lost(error)


class Network:
    """All connections of a world."""

    def __init__(self, loop: SimulatedLoop, random: Random, context: Any) -> None:
        self.loop = loop
        self.random = random
        self.context = context
        self._of: dict[Process | None, dict[Endpoint, None]] = {}

    def pair(
        self, ours: Process | None, theirs: Process | None, names: tuple[str, str], line: Line,
        cuts: tuple[Cut | None, Cut | None] = (None, None), make: type[Endpoint] | None = None,
    ) -> tuple[Endpoint, Endpoint]:  # fmt: skip
        """A connection's two sides; the caller sets `protocol` on both and says connection_made.  *make*: the class of ours."""
        one, other = (make or Endpoint)(self, ours, line, cuts[0], names[0]), Endpoint(self, theirs, line, cuts[1], names[1])
        one.other, other.other = other, one
        for end in (one, other):
            self._of.setdefault(end.process, {})[end] = None
        return one, other

    def later(self, delay_s: float, callback: Callable[..., None], context: Any, *arguments: Any) -> None:
        """Call it in *context*, at once but not now, or after *delay_s*."""
        if delay_s:
            self.loop.call_later(delay_s, callback, *arguments, context=context)
        else:
            self.loop.call_soon(callback, *arguments, context=context)

    def of(self, process: Process | None) -> list[Endpoint]:
        """The open sides that *process* holds, the oldest first."""
        return list(self._of.get(process, ()))

    def forget(self, end: Endpoint) -> None:
        """It is closed."""
        self._of[end.process].pop(end, None)

    def kill(self, process: Process) -> None:
        """*process* is gone: its loop is told, and the other sides of its connections notice."""
        self.loop.kill(process)
        for end in self.of(process):
            end.die(orderly=self.random.random() < 0.5)
