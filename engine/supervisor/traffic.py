"""The traffic table of `engine status`, as PowerMTA's: what came in and went out since the start, in the last hour and minute, and at most in one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from engine.control.views import ConnectionCount, Flow, Period, TrafficTable
from engine.process import TRAFFIC_CELLS
from engine.supervisor.state import TrafficState

IN_ROLES = frozenset(("listener", "web", "sink"))
OUT_ROLES = frozenset(("delivery",))
SECONDS = 60  # of the last minute, and minutes of the last hour

Sums = tuple[int, ...]  # messages, recipients, bytes; in, then out
_NOTHING: Sums = (0, 0, 0, 0, 0, 0)


class Traffic:
    """Adds up the rows of all processes, *cells*; `sample` once a second."""

    def __init__(self, cells: memoryview, now_s: float) -> None:
        self._cells = cells
        self._gone: Sums = _NOTHING  # of processes that have ended
        self._seconds: deque[Sums] = deque([_NOTHING], maxlen=SECONDS + 1)
        self._minutes: deque[Sums] = deque([_NOTHING], maxlen=SECONDS + 1)
        self._next_s = now_s + 1
        self._until_minute = SECONDS
        self._top_minute: Sums = _NOTHING
        self._top_hour: Sums = _NOTHING
        self._top_connections = [0, 0]

    def save(self) -> TrafficState:
        """What `resume` makes a successor go on from."""
        return TrafficState(
            gone=self._gone,
            seconds=list(self._seconds),
            minutes=list(self._minutes),
            until_minute=self._until_minute,
            top_minute=self._top_minute,
            top_hour=self._top_hour,
            top_connections=self._top_connections,
        )

    def resume(self, saved: TrafficState) -> None:
        """Go on where another program left the count."""
        self._gone, self._top_minute, self._top_hour = saved.gone, saved.top_minute, saved.top_hour
        self._seconds = deque(saved.seconds, maxlen=SECONDS + 1)
        self._minutes = deque(saved.minutes, maxlen=SECONDS + 1)
        self._until_minute = saved.until_minute
        self._top_connections = list(saved.top_connections)

    def ended(self, role: str, row: int) -> None:
        """The process in *row* was waited for: its sums stay, its row is free."""
        self._gone = _plus(self._gone, self._of(role, row))
        self._note_top(role, row)
        for cell in range(row * TRAFFIC_CELLS, (row + 1) * TRAFFIC_CELLS):
            self._cells[cell] = 0

    def sample(self, rows: Sequence[tuple[str, int]], now_s: float) -> None:
        """Look at the rows of the living, [(role, row)], if a second has passed."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + 1
        total = self._total(rows)
        self._seconds.append(total)
        self._top_minute = _most(self._top_minute, _minus(total, self._seconds[0]))
        self._until_minute -= 1
        if not self._until_minute:
            self._until_minute = SECONDS
            self._minutes.append(total)
        self._top_hour = _most(self._top_hour, _minus(total, self._minutes[0]))

    def table(self, rows: Sequence[tuple[str, int]], open_in: int, open_out: int) -> TrafficTable:
        """The table now."""
        total = self._total(rows)
        return TrafficTable(
            total=_period(total),
            last_hour=_period(_minus(total, self._minutes[0])),
            top_hour=_period(_most(self._top_hour, _minus(total, self._minutes[0]))),
            last_minute=_period(_minus(total, self._seconds[0])),
            top_minute=_period(_most(self._top_minute, _minus(total, self._seconds[0]))),
            connections_in=ConnectionCount(open_in, max(open_in, self._top_connections[0])),
            connections_out=ConnectionCount(open_out, max(open_out, self._top_connections[1])),
        )

    def _total(self, rows: Sequence[tuple[str, int]]) -> Sums:
        total = self._gone
        for role, row in rows:
            total = _plus(total, self._of(role, row))
            self._note_top(role, row)
        return total

    def _of(self, role: str, row: int) -> Sums:
        messages, recipients, size_bytes = self._cells[row * TRAFFIC_CELLS : row * TRAFFIC_CELLS + 3]
        if role in IN_ROLES:
            return messages, recipients, size_bytes, 0, 0, 0
        return (0, 0, 0, messages, recipients, size_bytes) if role in OUT_ROLES else _NOTHING

    def _note_top(self, role: str, row: int) -> None:
        if role in IN_ROLES or role in OUT_ROLES:
            way = int(role in OUT_ROLES)
            self._top_connections[way] = max(self._top_connections[way], self._cells[row * TRAFFIC_CELLS + 3])


def _plus(one: Sums, other: Sums) -> Sums:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _minus(one: Sums, other: Sums) -> Sums:
    return tuple(a - b for a, b in zip(one, other, strict=True))


def _most(one: Sums, other: Sums) -> Sums:
    return tuple(max(a, b) for a, b in zip(one, other, strict=True))


def _period(sums: Sums) -> Period:
    return Period(Flow(sums[1], sums[0], round(sums[2] / 1024, 1)), Flow(sums[4], sums[3], round(sums[5] / 1024, 1)))
