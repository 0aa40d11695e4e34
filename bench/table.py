"""A saved run of `make bench` as text: pure functions of its JSON, which `bench.__main__` writes and docs/performance.md shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.plan import BASE, BULK, FLAT, HALF

BEGIN = "<!-- make bench: begin -->"
END = "<!-- make bench: end -->"
COLUMNS = ("load", "system", "accepted/s", "delivered/s", "CPU us", "ratio", "accept ms", "250 to arrival ms", "RSS MB")
LEGEND = """\
*CPU us*: of all processes, for each message (bulk: for each recipient); the floor's is of source and sink, with nothing between. *ratio*: CPU over
the floor's of the same load; where the engine is alone, over the first row of the kind. *accept ms*: p50 / p99 from the last byte of the body to the
250. *250 to arrival ms*: p50 / p99 from there to the sink's reply; at full load this is the length of the queue. *RSS MB*: peak over all processes,
in brackets the anonymous part (shared pages count once for each process). `bench/README.md` says more."""

Record = Mapping[str, Any]


def render(result: Mapping[str, Any]) -> str:
    """The whole block: what ran where, the table, the targets."""
    parts = [_setting(result), _table(result["rows"])]
    if absent := dict.fromkeys(f"{row['system']}: {row['missing']}" for row in result["rows"] if "missing" in row):
        parts.append("\n".join(f"Not run: {each}" for each in absent))
    parts.append(LEGEND)
    if said := targets(result["rows"]):
        parts.append(
            "\n".join(
                [
                    "| target | measured | |",
                    "| --- | --- | --- |",
                    *(f"| {text} | {value} | {'met' if met else 'missed'} |" for text, value, met in said),
                ]
            )
        )
    if result["wrong"]:
        parts.append("\n".join(f"WRONG: {each}" for each in result["wrong"]))
    return "\n\n".join(parts) + "\n"


def insert(document: str, block: str) -> str:
    """*document* with *block* between its markers; ValueError if it has none."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END} there")
    return f"{head}{BEGIN}\n{block}{END}{tail}"


def targets(rows: Sequence[Record]) -> list[tuple[str, str, bool]]:
    """(target, what was measured, whether it was met), for those that this run can tell."""
    found = {(row["key"], row["system"]): row for row in rows if "cpu_us" in row}
    engine, floor, postfix = (found.get((BASE, name)) for name in ("engine", "floor", "postfix"))
    said = []
    if engine:
        said.append((f"{BASE}: at most 200 us of CPU per message", f"{engine['cpu_us']:.0f} us", engine["cpu_us"] <= 200))
    if engine and floor:
        ratio = engine["cpu_us"] / floor["cpu_us"]
        said.append((f"{BASE}: at most 1.9 times the floor's CPU", f"{ratio:.2f} times", ratio <= 1.9))
    if engine and postfix:
        ratio = engine["delivered_per_s"] / postfix["delivered_per_s"]
        said.append((f"{BASE}: at least 12 times Postfix's delivered rate", f"{ratio:.1f} times", ratio >= 12))
    if half := found.get((HALF, "engine")):
        said.append(("half load: p99 of accept under 25 ms", f"{half['accept_ms'][1]:.1f} ms", half["accept_ms"][1] < 25))
    bulk = [row for (key, name), row in found.items() if name == "engine" and key.startswith(BULK) and key.endswith("x100")]
    if bulk:
        best = max(row["delivered_per_s"] for row in bulk)
        said.append(("bulk, 100 recipients a message: at least 30,000 recipients/s", f"{best:,.0f}/s", best >= 30_000))
    for group in FLAT:
        lines = [row for row in rows if row["group"] == group and "cpu_us" in row]
        if group != "slots" and len(lines) > 1:
            worst = max(row["cpu_us"] / lines[0]["cpu_us"] for row in lines)
            said.append((f"{group}: flat within 15 %, to {lines[-1]['title']}", f"{(worst - 1) * 100:+.0f} %", worst <= 1.15))
    queued = [row for row in rows if row["group"] == "queued" and "anonymous_mb" in row]
    if len(queued) > 1:
        grown = queued[-1]["anonymous_mb"] - queued[0]["anonymous_mb"]
        said.append((f"{queued[-1]['title']}: anonymous memory within 100 MB", f"{grown:+.0f} MB", grown <= 100))
    return said


def _setting(result: Mapping[str, Any]) -> str:
    setting = result["setting"]
    systems = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{setting['when']}, `{result['command']}`: {setting['cores']} cores ({setting['cpu']}), Linux {setting['kernel']}, "
        f"{setting['file_system']}, Python {setting['python']}; {systems}; CPU time from {result['clock']}; "
        f"load average {setting['load_average_before']:.2f} before."
    )


def _table(rows: Sequence[Record]) -> str:
    cells: list[tuple[str, ...]] = [COLUMNS]
    before = None
    for row in rows:
        group_title = (row["key"], row["title"])
        cells.append((row["title"] if group_title != before else "", *_cells(row, _base(rows, row))))
        before = group_title
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [[*(_pad(text, width, column) for column, (text, width) in enumerate(zip(line, widths, strict=True)))] for line in cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _pad(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 2 else text.rjust(width)


def _base(rows: Sequence[Record], row: Record) -> float | None:
    """CPU that a row's is divided by."""
    same = [each for each in rows if "cpu_us" in each]
    if row["group"] in FLAT:
        same = [each for each in same if each["group"] == row["group"]]
    else:
        same = [each for each in same if each["key"] == row["key"] and each["system"] == "floor"]
    return same[0]["cpu_us"] if same else None


def _cells(row: Record, base: float | None) -> tuple[str, ...]:
    if "missing" in row:
        return (f"{row['system']}: not run", *("",) * (len(COLUMNS) - 2))
    memory = f"{row['resident_mb']:,.0f} ({row['anonymous_mb']:,.0f})" if row["resident_mb"] else "-"
    return (
        row["system"],
        f"{row['accepted_per_s']:,.0f}",
        f"{row['delivered_per_s']:,.0f}",
        f"{row['cpu_us']:,.0f}" if row["cpu_us"] >= 20 else f"{row['cpu_us']:,.1f}",
        f"{row['cpu_us'] / base:.2f}" if base else "-",
        _times(row["accept_ms"]),
        _times(row["arrival_ms"]),
        memory,
    )


def _times(pair: Sequence[float]) -> str:
    return " / ".join(f"{each:,.1f}" if each < 100 else f"{each:,.0f}" for each in pair) if pair else "-"
