"""The table of `make bench`: a pure function of a saved run; which rows there are, and which of them are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from bench import table
from bench.__main__ import record
from bench.end_to_end import failures
from bench.load import Balance, Load
from bench.plan import BULK, FLAT, HALF, QUEUED, RELAY, choose, plan
from bench.runs import Figures


def line(key: str, system: str, **figures: Any) -> dict[str, Any]:
    usual = {
        "accepted_per_s": 4000.4, "delivered_per_s": 3600.0, "cpu_us": 210.0, "accept_ms": [9.04, 21.5], "arrival_ms": [15.0, 1234.0],
        "resident_mb": 310.2, "anonymous_mb": 101.0,
    }  # fmt: skip
    return {"key": key, "group": key.partition("-")[0], "title": key, "system": system, **usual, **figures}


def result(*rows: dict[str, Any], wrong: tuple[str, ...] = ()) -> dict[str, Any]:
    setting = {
        "when": "2026-11-24T08:00:00Z", "cores": 2, "cpu": "Some CPU", "kernel": "6.18.1", "file_system": "ext4", "python": "3.11.2",
        "load_average_before": 0.1,
    }  # fmt: skip
    return {
        "command": "make bench",
        "setting": setting,
        "clock": "control groups",
        "versions": {"engine": "0.2", "postfix": "3.7.11"},
        "rows": list(rows),
        "wrong": list(wrong),
    }


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in each.strip("|").split("|")] for each in text.splitlines() if each.startswith("|")]


RUN = result(
    line("relay-10k", "engine"),
    line("relay-10k", "postfix", delivered_per_s=240.0, cpu_us=2100.0),
    {"key": "relay-10k", "group": RELAY, "title": "relay-10k", "system": "haraka", "missing": "not installed (needs npm)"},
    line("relay-10k", "floor", cpu_us=105.0, accept_ms=[], resident_mb=0, anonymous_mb=0),
    line("half", "engine", accept_ms=[5.0, 25.0]),
    line("bulk-1x100", "engine", delivered_per_s=31_000.0, cpu_us=9.87),
    line("queued", "engine", title="0 recipients queued", cpu_us=200.0, anonymous_mb=100.0),
    line("queued", "engine", title="100,000 recipients queued", cpu_us=231.0, anonymous_mb=150.0),
    line("slots-1", "engine", cpu_us=100.0),
    line("slots-2", "engine", cpu_us=180.0),
)


def test_a_line_for_each_system_and_who_is_missing_is_named() -> None:
    rows = cells(table.render(RUN))
    assert rows[0] == list(table.COLUMNS)
    assert rows[2] == ["relay-10k", "engine", "4,000", "3,600", "210", "2.00", "9.0 / 21.5", "15.0 / 1,234", "310 (101)"]
    assert rows[3][:6] == ["", "postfix", "4,000", "240", "2,100", "20.00"]
    assert rows[4] == ["", "haraka: not run", *[""] * 7]
    assert "\n\nNot run: haraka: not installed (needs npm)\n\n" in table.render(RUN)
    assert rows[5][5:] == ["1.00", "-", "15.0 / 1,234", "-"]


def test_the_engine_alone_is_compared_with_the_first_row_of_the_kind() -> None:
    rows = {row[0]: row for row in cells(table.render(RUN))}
    assert rows["half"][5] == "-"  # its floor did not run
    assert rows["bulk-1x100"][4] == "9.9"
    assert [rows[title][5] for title in ("0 recipients queued", "100,000 recipients queued", "slots-1", "slots-2")] == [
        "1.00",
        "1.16",
        "1.00",
        "1.80",
    ]


def test_targets_are_judged_by_what_was_run() -> None:
    assert table.targets(RUN["rows"]) == [
        ("relay-10k: at most 200 us of CPU per message", "210 us", False),
        ("relay-10k: at most 1.9 times the floor's CPU", "2.00 times", False),
        ("relay-10k: at least 12 times Postfix's delivered rate", "15.0 times", True),
        ("half load: p99 of accept under 25 ms", "25.0 ms", False),
        ("bulk, 100 recipients a message: at least 30,000 recipients/s", "31,000/s", True),
        ("queued: flat within 15 %, to 100,000 recipients queued", "+16 %", False),
        ("100,000 recipients queued: anonymous memory within 100 MB", "+50 MB", True),
    ]
    assert table.targets([{"key": "relay-10k", "group": RELAY, "title": "t", "system": "engine", "missing": "failed: it ended"}]) == []


def test_what_went_wrong_stands_below_the_table() -> None:
    text = table.render(result(line("relay-1k", "postfix"), wrong=("relay-1k: postfix: 3 acknowledged recipients never arrived",)))
    assert text.endswith("\nWRONG: relay-1k: postfix: 3 acknowledged recipients never arrived\n")
    assert "| target |" not in text


def test_the_block_of_a_document_is_replaced_and_nothing_else() -> None:
    document = f"# Title\n\n{table.BEGIN}\nold\n{table.END}\n\nrest\n"
    once = table.insert(document, "new\n")
    assert once == f"# Title\n\n{table.BEGIN}\nnew\n{table.END}\n\nrest\n"
    assert table.insert(once, "new\n") == once
    with pytest.raises(ValueError, match="make bench: begin"):
        table.insert("# Title\n", "new\n")


def test_keys_are_unique_and_every_kind_is_planned() -> None:
    for quick in (False, True):
        keys = [row.key for row in plan(quick=quick)]
        assert len(set(keys)) == len(keys)
        assert {row.group for row in plan(quick=quick)} == {RELAY, HALF, BULK, *FLAT}
    sizes = {row.load.size_bytes for row in plan() if row.group == RELAY}
    assert sizes == {1024, 10_240, 102_400}
    assert max(count for row in plan() if row.group == QUEUED for count in row.queued) == 1_000_000


def test_rows_are_chosen_by_group_or_pattern_and_half_load_brings_its_base() -> None:
    def keys(*patterns: str) -> list[str]:
        return [row.key for row in choose(plan(), patterns)]

    assert keys("slots", "bulk-1x*") == ["bulk-1x1", "bulk-1x100", "bulk-1x1000", "slots-1", "slots-2", "slots-4"]
    assert keys("half") == ["relay-10k", "half"]
    assert keys() == [row.key for row in plan()]
    with pytest.raises(ValueError, match="no row is called reley: relay-1k, "):
        keys("reley")


def figures(load: Load, **more: Any) -> Figures:
    usual: dict[str, Any] = {
        "name": "engine", "accepted": 200, "failed": 0, "seconds": 2.0, "accepted_per_s": 100.0, "delivered_per_s": 5000.0,
        "cpu_us_per_message": 1500.0, "cpu_us_by_role": {"spool": 500.0}, "whole_cpu_us_per_message": 0.0,
        "accept_us": {"p50": 9000, "p99": 21_000, "max": 30_000}, "latency_us": {},
        "peak_anonymous_bytes": 81_000_000, "peak_resident_bytes": 139_000_000, "balance": Balance(0, 0, 0), "connections": 50, "source_ips": 1,
    }  # fmt: skip
    return Figures(load=load, **{**usual, **more})


def test_bulk_counts_recipients_and_everything_else_messages() -> None:
    (bulk,) = choose(plan(), ["bulk-1x100"])
    counted = record(bulk, figures(bulk.load), bulk.title)
    assert [counted[name] for name in ("accepted_per_s", "delivered_per_s", "cpu_us", "cpu_us_by_role")] == [10_000, 5000, 15, {"spool": 5}]
    assert (counted["accept_ms"], counted["arrival_ms"]) == ([9.0, 21.0], [])
    (relay,) = choose(plan(), ["relay-10k"])
    counted = record(relay, figures(relay.load), relay.title)
    assert [counted[name] for name in ("accepted_per_s", "delivered_per_s", "cpu_us")] == [100, 5000, 1500]
    assert (counted["resident_mb"], counted["anonymous_mb"]) == (139, 81)


def test_a_load_that_ends_by_the_clock_fails_by_what_was_refused_not_by_what_was_never_begun() -> None:
    (row,) = choose(plan(), ["relay-1k"])
    assert failures(figures(row.load, d_records=200)) == []
    assert failures(figures(row.load, failed=3, errors={"mail 452": 3})) == ["engine: 3 messages were not accepted: {'mail 452': 3}"]
    assert failures(figures(row.load, balance=Balance(2, 1, 0), d_records=198)) == [
        "engine: 2 acknowledged recipients never arrived",
        "engine: 1 recipients arrived more than once",
        "engine: 198 d records, 200 expected",
    ]
    assert failures(figures(Load(messages=201))) == ["engine: only 200 of 201 messages were accepted"]
