"""What a directive is: one row of a table.

What works is a field of a frozen dataclass (`directive`, `repeated`), the rest are rows (`later`, `ignored`).

A field's name is the directive's, with its unit at the end: `connect_timeout_s` is connect-timeout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from engine.config.values import ValueType, parse_value

T = TypeVar("T")
Status = Literal["working", "later", "ignored"]
_UNITS = ("_s", "_bytes")


@dataclass(frozen=True, slots=True)
class Directive:
    """A name that may stand in a scope, and what its value is."""

    name: str
    type: ValueType[Any]
    default: str = ""  # working: what it is when not given; later: the value that changes nothing, as it is what we do anyway
    help: str = ""
    status: Status = "working"
    field: str = ""  # working: where the value goes
    repeat: bool = False  # values accumulate
    stops: str = ""  # later: what starting without it would do that the operator does not expect; such a directive stops the start
    harmless: frozenset[Any] = frozenset()  # later: values that need nothing from us

    @property
    def since(self) -> str:
        return {"working": "0.1.0", "later": "not yet", "ignored": "accepted"}[self.status]


def directive(value_type: ValueType[T], default: str, help: str, *, name: str = "", aliases: tuple[str, ...] = (), empty: object = "") -> T:
    """A field that is a directive; *default* is written as an operator would write it, and is *empty* where it is ""."""
    value = parse_value(value_type, default) if default else empty
    metadata = {"type": value_type, "default": default, "help": help, "name": name, "aliases": aliases}
    return cast(T, dataclasses.field(default=value, metadata=metadata))


def repeated(value_type: ValueType[T], help: str, *, name: str = "", aliases: tuple[tuple[str, ValueType[T]], ...] = ()) -> tuple[T, ...]:
    """A field whose directive may stand several times, each adding to the others."""
    metadata = {"type": value_type, "default": "", "help": help, "name": name, "repeat": True, "aliases": aliases}
    return cast("tuple[T, ...]", dataclasses.field(default=(), metadata=metadata))


def rows_of(settings: type) -> Iterable[Directive]:
    """The directives that the fields of the dataclass *settings* are."""
    for field in dataclasses.fields(settings):
        meta = field.metadata
        if "type" not in meta:
            continue
        unit = next((unit for unit in _UNITS if field.name.endswith(unit)), "")
        main = meta["name"] or field.name.removesuffix(unit).replace("_", "-")
        row = Directive(main, meta["type"], meta["default"], meta["help"], field=field.name, repeat=meta.get("repeat", False))
        yield row
        for alias in meta["aliases"]:
            other, value_type = alias if isinstance(alias, tuple) else (alias, row.type)
            yield dataclasses.replace(row, name=other, type=value_type, help=f"Old form of {main}.")


def later(name: str, value_type: ValueType[Any], same_as: str = "", *, stops: str = "", old: str = "") -> Directive:
    """A directive that does not work yet.  The value *same_as* is what we do anyway; any other is listed at start, or with *stops* stops it.

    *old*: the directive that replaced it; *value_type* gives what the same there would.
    """
    harmless: frozenset[Any] = frozenset([parse_value(value_type, same_as)]) if same_as else frozenset()
    return Directive(
        name, value_type, same_as, (f"Old form of {old}.  " if old else "") + _later_help(stops), "later", stops=stops, harmless=harmless
    )


def _later_help(stops: str) -> str:
    return f"Stops the start, which would {stops}." if stops else "Listed at start; changes nothing."


def ignored(name: str, value_type: ValueType[Any], note: str) -> Directive:
    """A directive that is accepted and has no meaning here; *note* says why."""
    return Directive(name, value_type, "", note, "ignored")
