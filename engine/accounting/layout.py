"""A file's layout: its header line and the line of each record, as RFC 4180 has it (quotes doubled, CRLF), in UTF-8.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from engine.accounting.columns import DEFAULT_FIELDS, Columns, getters, select, union
from engine.accounting.privacy import Mask
from engine.mail.record import QueueRecord, RecipientRecord, Record

_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029), "?")


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def csv_line(values: Sequence[str]) -> bytes:
    """*values* as one CSV line.  Control characters become `?`, so that a record never spans lines, whatever a peer said."""
    # the standard library's writer looks at every character by itself: three times the cost of these two searches
    line = ",".join([_quoted(value) if "," in value or '"' in value else value for value in values])
    if not line.isprintable():
        line = line.translate(_CONTROLS)
    return line.encode("utf-8", "replace") + b"\r\n"


class Layout:
    """How one accounting file looks: `header`, and `line` for every record of its types."""

    __slots__ = ("_columns", "_mask", "_wants", "header", "types")

    def __init__(
        self,
        types: Sequence[str],
        fields: Mapping[str, Sequence[str]],
        *,
        iso_times: bool = True,
        user_string: str = "",
        wants: Callable[[str], bool] | None = None,
        first_attempt: bool = False,
        mask: Mask | None = None,
    ) -> None:
        """*types* in the order of `records`, those that we write at all; *fields* as record-fields gives them, by type; *wants*: which queues';
        *first_attempt*: as `select` has it; *mask*: privacy-policy.
        """
        extra = ("userString",) if user_string else ()
        selections = {kind: union((select(kind, fields.get(kind, ()), first_attempt), extra)) for kind in types if kind in DEFAULT_FIELDS}
        names = union(selections.values())
        self.types = tuple(selections)
        self._mask = mask
        self._wants = None if wants is None else lru_cache(maxsize=8192)(wants)
        self.header = csv_line(names)
        self._columns: dict[str, Columns] = {
            kind: getters(kind, names, selection, iso_times=iso_times, user_string=user_string) for kind, selection in selections.items()
        }

    def line(self, record: Record) -> bytes:
        """The line of *record* with its CRLF; b"" if this file does not want its type or its queue."""
        if self._wants is not None and not self._wants(record.queue):
            return b""
        if self._mask is not None and isinstance(record, RecipientRecord):
            record = self._mask.record(record)
        columns = self._columns.get("tq" if isinstance(record, QueueRecord) else record.type)
        return b"" if columns is None else csv_line([get(record) for get in columns])
