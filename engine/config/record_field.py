"""The columns of accounting records, by type (reference of PowerMTA's accounting files)."""

from __future__ import annotations

from engine.config.parser import Statement
from engine.config.problem import Problems
from engine.config.values import did_you_mean, parse_value, record_fields

_DELIVERY = (
    "type timeLogged timeQueued timeFirstAttempt totalSecondsQueued orig rcpt orcpt dsnAction dsnStatus dsnDiag dsnMta bounceCat srcType srcMta"
    " dlvType dlvSourceIp dlvDestinationIp dlvEsmtpAvailable dlvSize vmta jobId envId queue vmtaPool userString dlvTlsProtocol dlvTlsCipher"
    " rcvSmtpUser id"
)
_FIELDS = {
    "d": _DELIVERY,
    "b": _DELIVERY,
    "t": _DELIVERY,
    "tq": "type timeLogged queue vmta dsnStatus dsnDiag dsnMta dlvType dlvSourceIp dlvDestinationIp userString",
    "r": "type timeLogged orig rcpt orcpt srcType srcMta rcvSourceIp rcvDestinationIp vmta vmtaPool jobId envId userString rcvSmtpUser",
    "rb": "type timeLogged orig rcpt orcpt dsnAction dsnStatus dsnDiag dsnMta dsnReportingMta bounceCat srcType srcMta envId format",
    "f": "type timeLogged repSourceIp feedbackType format userAgent envId orig rcpt reportingMta dlvSourceIp reportedDomain",
}
_FIELDS["rs"] = _FIELDS["rb"]
COLUMNS: dict[str, dict[str, str]] = {record: {name.lower(): name for name in names.split()} for record, names in _FIELDS.items()}
EMPTY = frozenset(["userstring"])  # known, and nothing fills them yet


def check_fields(statement: Statement, known: dict[str, tuple[str, ...]], problems: Problems) -> None:
    """Adds the columns that a record-fields *statement* asks for to *known*, in their own spelling; reports those there are none of."""
    record, items = parse_value(record_fields, statement.argument)
    fields: list[str] = []
    for item, offset in items:
        negated = item.startswith("!")
        name = item.removeprefix("!")
        lower = name.lower()
        if name == "*" or lower in COLUMNS[record]:
            fields.append("!" * negated + COLUMNS[record].get(lower, name))
        elif lower.startswith(("header_", "arf_", "dlvproxy")) and len(name) > 7:
            fields.append("!" * negated + name)
        else:
            near = did_you_mean(name, COLUMNS[record].values())
            problems.error(statement.place_of(offset), f"record-fields {record}: no column {name[:60]!r}{near}")
            continue
        if not negated and name != "*" and (lower in EMPTY or lower not in COLUMNS[record]):
            problems.unsupported(statement.place_of(offset), f"record-fields {record}: the column {name[:60]} is not supported yet: it stays empty")
    known[record] = tuple(fields)
