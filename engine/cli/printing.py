"""How commands print: times, JSON, tables, progress."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec


def local_time(at_ms: int) -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(at_ms / 1000))


def duration(seconds: float) -> str:
    """`3d 4h`, `5m 10s`: the two largest units."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Shows (what, how much of it, of how much) while the body runs, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def print_json(data: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")


def on_terminal() -> bool:
    """Whether tables are drawn: on a terminal that wants colour."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn on a terminal, plain and tab-free elsewhere."""
    if on_terminal():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        Console().print(table)
        return
    cells = [list(columns)] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
