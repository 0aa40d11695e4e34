"""The traffic table against a model: sums over processes that come and go, sliding minutes and hours, and the most there ever was in one."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.control.views import Flow, TrafficTable
from engine.process import TRAFFIC_CELLS
from engine.supervisor.traffic import Traffic

ROWS = [("listener", 0), ("delivery", 1), ("spool", 2)]


def made() -> tuple[Traffic, memoryview]:
    cells = memoryview(bytearray(8 * TRAFFIC_CELLS * len(ROWS))).cast("q")
    return Traffic(cells, 0.0), cells


def put(cells: memoryview, row: int, *values: int) -> None:
    for index, value in enumerate(values):
        cells[row * TRAFFIC_CELLS + index] = value


@given(st.lists(st.integers(0, 50), min_size=1, max_size=400))
def test_minutes_slide_and_their_top_stays(each_second: list[int]) -> None:
    traffic, cells = made()
    for now, _ in enumerate(each_second, start=1):
        put(cells, 0, sum(each_second[:now]), 2 * sum(each_second[:now]), 0)
        traffic.sample(ROWS, now + 0.5)
    table = traffic.table(ROWS, 0, 0)
    minutes = [sum(each_second[max(0, end - 60) : end]) for end in range(1, len(each_second) + 1)]
    assert table.total.inward.msg == sum(each_second)
    assert table.last_minute.inward == Flow(2 * minutes[-1], minutes[-1], 0.0)
    assert table.top_minute.inward.msg == max(minutes)
    assert table.total.outward == Flow(0, 0, 0.0)


def test_what_the_sink_takes_has_come_in() -> None:
    traffic, cells = made()
    put(cells, 2, 3, 4, 2048)
    assert traffic.table([("sink", 2)], 0, 0).total.inward == Flow(4, 3, 2.0)
    traffic.ended("sink", 2)
    assert traffic.table([], 0, 0).total.inward == Flow(4, 3, 2.0)


def test_hours_slide_by_the_minute() -> None:
    traffic, cells = made()
    for now in range(1, 2 * 3600 + 1):
        put(cells, 1, 10 * min(now, 3600), 0, 1024 * now)
        traffic.sample(ROWS, now + 0.5)
    table = traffic.table(ROWS, 0, 0)
    assert table.last_hour.outward.msg == 0
    assert table.last_hour.outward.kb == 3600
    assert 36_000 - 600 <= table.top_hour.outward.msg <= 36_000
    assert table.last_minute.outward.kb == 60


def test_what_ended_processes_have_done_stays_and_their_rows_are_free() -> None:
    traffic, cells = made()
    put(cells, 0, 3, 4, 1024, 7)
    put(cells, 1, 1, 2, 2048, 5)
    traffic.ended("listener", 0)
    assert list(cells[:TRAFFIC_CELLS]) == [0, 0, 0, 0]
    put(cells, 0, 1, 1, 1024, 2)
    table = traffic.table(ROWS, 1, 9)
    assert table.total.inward == Flow(5, 4, 2.0)
    assert table.total.outward == Flow(2, 1, 2.0)
    assert (table.connections_in.cur, table.connections_in.top) == (1, 7)
    assert (table.connections_out.cur, table.connections_out.top) == (9, 9)


def test_names_in_json_are_those_that_monitoring_knows() -> None:
    traffic, _ = made()
    table = msgspec.to_builtins(traffic.table(ROWS, 0, 0))
    assert list(table) == ["total", "lastHr", "topPerHr", "lastMin", "topPerMin", "smtpIn", "smtpOut"]
    assert table["total"]["in"] == {"rcp": 0, "msg": 0, "kb": 0.0}
    assert msgspec.convert(table, TrafficTable) == traffic.table(ROWS, 0, 0)
