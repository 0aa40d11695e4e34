"""What stands in accounting files: columns, quoting, times."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.accounting.columns import DEFAULT_FIELDS, iso_time, known, select, union, unix_time
from engine.accounting.layout import Layout, csv_line
from engine.mail.record import QueueRecord, RecipientRecord, decode, encode

DELIVERED: dict[str, Any] = {
    "type": "d",
    "logged_ms": 1_549_662_845_123,
    "queued_ms": 1_549_662_840_000,
    "orig": "bounce@example.com",
    "rcpt": "user@example.org",
    "orcpt": "rfc822;user@example.org",
    "dsn_action": "relayed",
    "dsn_status": "2.0.0",
    "dsn_diag": "smtp;250 2.0.0 OK",
    "dsn_mta": "mx.example.org (192.0.2.1)",
    "src_type": "smtp",
    "src_mta": "client (198.51.100.1)",
    "dlv_type": "smtp",
    "dlv_source_ip": "192.0.2.9",
    "dlv_destination_ip": "192.0.2.1",
    "dlv_esmtp": "PIPELINING,8BITMIME",
    "dlv_size": 10240,
    "vmta": "vmta1",
    "job_id": "job",
    "env_id": "env",
    "queue": "example.org/vmta1",
    "vmta_pool": "pool",
    "id": "00000000000000000001",
    "first_attempt_ms": 0,
    "bounce_cat": "success",
}
QUEUE = QueueRecord(1_549_662_845_000, "example.org/vmta1", "vmta1", "4.4.1", "smtp;timed out", "mx (192.0.2.1)", "smtp", "192.0.2.9", "192.0.2.1")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    iso_cache = iso_time.__globals__["_iso"]
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    iso_cache.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    iso_cache.cache_clear()


def read(layout: Layout, *lines: bytes) -> list[dict[str, str]]:
    text = (layout.header + b"".join(lines)).decode("utf-8")
    assert text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def recipient(**changes: Any) -> RecipientRecord:
    return RecipientRecord(**(DELIVERED | changes))


def test_a_delivery_is_written_as_powermta_writes_it() -> None:
    layout = Layout(("d",), {})
    assert layout.header == (
        b"type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,srcType,srcMta,dlvType,dlvSourceIp,"
        b"dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,jobId,envId,queue,vmtaPool,id\r\n"
    )
    assert layout.line(recipient()) == (
        b"d,2019-02-08 21:54:05+0000,2019-02-08 21:54:00+0000,bounce@example.com,user@example.org,rfc822;user@example.org,relayed,2.0.0 (success),"
        b'smtp;250 2.0.0 OK,mx.example.org (192.0.2.1),success,smtp,client (198.51.100.1),smtp,192.0.2.9,192.0.2.1,"PIPELINING,8BITMIME",10240,vmta1,'
        b"job,env,example.org/vmta1,pool,00000000000000000001\r\n"
    )


def test_a_queue_failure_has_its_own_columns() -> None:
    layout = Layout(("tq",), {})
    assert layout.line(QUEUE) == (
        b"tq,2019-02-08 21:54:05+0000,example.org/vmta1,vmta1,4.4.1 (no answer from host),smtp;timed out,mx (192.0.2.1),smtp,192.0.2.9,192.0.2.1\r\n"
    )


def test_types_that_share_a_file_share_its_columns() -> None:
    layout = Layout(("d", "tq"), {"d": ("rcpt", "queue"), "tq": ("queue", "dsnMta")})
    assert layout.header == b"type,rcpt,queue,dsnMta\r\n"
    assert read(layout, layout.line(recipient()), layout.line(QUEUE)) == [
        {"type": "d", "rcpt": "user@example.org", "queue": "example.org/vmta1", "dsnMta": ""},
        {"type": "tq", "rcpt": "", "queue": "example.org/vmta1", "dsnMta": "mx (192.0.2.1)"},
    ]


def test_only_wanted_types_are_written() -> None:
    layout = Layout(("b",), {})
    assert layout.line(recipient()) == b"" and layout.line(QUEUE) == b"" and layout.line(recipient(type="b"))


@pytest.mark.parametrize(
    "requested, fields",
    [
        ((), DEFAULT_FIELDS["d"]),
        (("*",), DEFAULT_FIELDS["d"]),
        (("!id",), DEFAULT_FIELDS["d"][:-1]),
        (("*", "!id", "dlvTlsProtocol"), (*DEFAULT_FIELDS["d"][:-1], "dlvTlsProtocol")),
        (("rcpt", "orig"), ("type", "rcpt", "orig")),
        (("RCPT", "header_x-sp-message-id", "timefirstattempt"), ("type", "rcpt", "header_x-sp-message-id", "timeFirstAttempt")),
        (("rcpt", "!type"), ("type", "rcpt")),
        (("rcpt", "type", "rcpt"), ("type", "rcpt")),
    ],
)
def test_record_fields(requested: tuple[str, ...], fields: tuple[str, ...]) -> None:
    assert select("d", requested) == fields


def test_the_first_attempt_is_shown_where_it_is_tracked() -> None:
    fields = DEFAULT_FIELDS["d"]
    assert select("d", (), True) == (*fields[:3], "timeFirstAttempt", *fields[3:])
    assert select("d", ("*", "!timeFirstAttempt"), True) == fields
    assert select("d", ("rcpt",), True) == ("type", "rcpt")
    assert select("tq", (), True) == DEFAULT_FIELDS["tq"]
    layout = Layout(("d",), {}, iso_times=False, first_attempt=True)
    assert layout.header.startswith(b"type,timeLogged,timeQueued,timeFirstAttempt,orig,")


def test_a_field_that_does_not_exist_stays_blank() -> None:
    layout = Layout(("d",), {"d": ("recipient", "rcpt")})
    assert layout.header == b"type,recipient,rcpt\r\n" and layout.line(recipient()) == b"d,,user@example.org\r\n"
    assert not known("recipient") and known("RCPT") and known("dlvTlsCipher") and known("header_From")


def test_types_that_are_not_written_yet_have_no_columns() -> None:
    assert Layout(("d", "f"), {"d": ("rcpt",)}).header == b"type,rcpt\r\n"


def test_union_keeps_the_first_order() -> None:
    assert union([("type", "a", "b"), ("type", "c", "a")]) == ("type", "a", "b", "c")


def test_fields_that_nothing_fills_are_blank() -> None:
    layout = Layout(("d",), {"d": ("dlvTlsCipher", "header_Subject", "rcpt")})
    assert layout.line(recipient()) == b"d,,,user@example.org\r\n"


def test_fields_on_request() -> None:
    layout = Layout(("d",), {"d": ("timeFirstAttempt", "totalSecondsQueued")}, iso_times=False, user_string="mine")
    assert layout.header == b"type,timeFirstAttempt,totalSecondsQueued,userString\r\n"
    assert layout.line(recipient(first_attempt_ms=1_549_662_841_999)) == b"d,1549662841,5,mine\r\n"
    assert layout.line(recipient()) == b"d,,5,mine\r\n"


def test_times() -> None:
    assert iso_time(1_549_662_845_999) == "2019-02-08 21:54:05+0000" and unix_time(1_549_662_845_999) == "1549662845"
    assert iso_time(0) == unix_time(0) == ""


@pytest.mark.parametrize(
    "diag, shown",
    [
        ('smtp;550 no "such", user', 'smtp;550 no "such", user'),
        ("smtp;550 a\r\nb\x00c\x85", "smtp;550 a??b?c?"),
        ("smtp;550 füllig", "smtp;550 füllig"),
        ("smtp;550 füllig".encode().decode("latin-1"), "smtp;550 füllig"),
        ("smtp;550 漢字", "smtp;550 漢字"),
    ],
)
def test_peer_text(diag: str, shown: str) -> None:
    layout = Layout(("d",), {"d": ("dsnDiag",)})
    assert read(layout, layout.line(recipient(dsn_diag=diag))) == [{"type": "d", "dsnDiag": shown}]


@given(st.lists(st.text(max_size=20), min_size=2, max_size=6))
def test_every_line_reads_back_as_one_row(values: list[str]) -> None:
    line = csv_line(values)
    assert line.count(b"\n") == 1 and line.endswith(b"\r\n")
    (row,) = csv.reader(io.StringIO(line.decode("utf-8"), newline=""), strict=True)
    assert len(row) == len(values)
    for seen, value in zip(row, values, strict=True):
        assert seen == value or not value.isprintable()


@pytest.mark.parametrize("record", [recipient(), QUEUE])
def test_records_survive_the_outbox(record: RecipientRecord | QueueRecord) -> None:
    assert decode(encode(record)) == record


def test_a_line_is_cheap(benchmark: Any) -> None:
    layout, data = Layout(("d", "b", "t", "tq"), {}), encode(recipient())
    benchmark(lambda: layout.line(decode(data)))
