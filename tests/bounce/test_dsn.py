"""DSNs are read back with the standard library's parser, whatever text the peer or the author put in."""

from __future__ import annotations

import email
import email.policy
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bounce.dsn import Failure, report
from engine.bounce.template import Templates
from engine.fastpath import unstuff

HEADERS = b"Received: from a by b;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\nFrom: <a@example.com>\r\nSubject: hello\r\n\r\n"
FAILURE = Failure(
    address="user@example.org",
    orcpt="rfc822;User@example.org",
    status="5.1.1",
    diag="smtp;550 5.1.1 user unknown",
    remote_mta="mx.example.org (192.0.2.1)",
    action="failed",
    last_attempt_ms=1_700_000_100_000,
)


def make(*failures: Failure, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "host": "mail.example.com",
        "vmta": "vmta1",
        "return_path": "sender@example.com",
        "failures": failures or (FAILURE,),
        "original_headers": HEADERS,
        "original": None,
        "ret": "",
        "env_id": "envelope 1",
        "arrival_ms": 1_700_000_000_000,
        "now_ms": 1_700_000_200_000,
        "id_text": "0123456789abcdefghij",
    }
    return report(**(values | changes))


def parse(wire: bytes) -> Any:
    return email.message_from_bytes(unstuff(wire), policy=email.policy.SMTP)


def test_a_failure_reads_as_rfc_3464_has_it() -> None:
    message = parse(make())
    assert message.get_content_type() == "multipart/report" and message.get_param("report-type") == "delivery-status"
    assert message["From"] == "Mail Delivery System <mailer-daemon@mail.example.com>"
    assert message["To"] == "sender@example.com" and message["Auto-Submitted"] == "auto-replied"
    assert message["Subject"] == "Delivery Status Notification (Failure)"
    assert message["Message-ID"] == "<0123456789abcdefghij@mail.example.com>" and message["X-PowerMTA-VirtualMTA"] == "vmta1"
    assert not message.defects
    words, status, returned = message.get_payload()
    assert "<user@example.org>" in words.get_content() and "mx.example.org (192.0.2.1) said: 550 5.1.1 user unknown" in words.get_content()
    assert "5.1.1 (bad destination mailbox address)" in words.get_content()
    about, recipient = status.get_payload()
    assert about["Reporting-MTA"] == "dns;mail.example.com" and about["Original-Envelope-Id"] == "envelope 1"
    assert about["X-PowerMTA-VirtualMTA"] == "vmta1" and about["Arrival-Date"]
    assert dict(recipient.items()) == {
        "Original-Recipient": "rfc822;User@example.org",
        "Final-Recipient": "rfc822;user@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns;mx.example.org (192.0.2.1)",
        "Diagnostic-Code": "smtp;550 5.1.1 user unknown",
        "Last-Attempt-Date": recipient["Last-Attempt-Date"],
    }
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_payload() == HEADERS[:-2].decode()


def test_each_recipient_has_its_group_and_absent_things_no_field() -> None:
    second = Failure("b@example.org", "", "4.4.7", "", "", "failed", 0)
    status = parse(make(FAILURE, second)).get_payload()[1]
    groups = status.get_payload()
    assert len(groups) == 3 and groups[2].keys() == ["Final-Recipient", "Action", "Status"]


def test_a_delay_says_so() -> None:
    message = parse(make(Failure("b@example.org", "", "4.4.1", "", "", "delayed", 0)))
    assert message["Subject"] == "Delivery Status Notification (Delay)"
    assert "will be tried again" in message.get_payload()[0].get_content()


def test_ret_full_returns_the_message_as_it_lies_in_the_spool() -> None:
    chunks = [HEADERS, b"one\r\n..", b"dot\r\n8-bit \xe9\r\n"]
    wire = make(original=iter(chunks), ret="FULL")
    returned = parse(wire).get_payload()[2]
    assert returned.get_content_type() == "message/rfc822" and returned["Content-Transfer-Encoding"] == "8bit"
    assert b"".join(chunks) in wire and b"\r\n.dot\r\n8-bit \xe9\r\n" in unstuff(wire)


@pytest.mark.parametrize("ret, original", [("HDRS", [b"x: y\r\n\r\nsecret\r\n"]), ("", [b"x: y\r\n\r\nsecret\r\n"]), ("FULL", None)])
def test_only_headers_otherwise(ret: str, original: list[bytes] | None) -> None:
    wire = make(ret=ret, original=original, original_headers=HEADERS + b"secret\r\n")
    assert b"secret" not in wire and parse(wire).get_payload()[2].get_content_type() == "text/rfc822-headers"


def test_a_boundary_that_the_author_foresaw_is_not_used() -> None:
    wire = make(original_headers=b"X: =_0123456789abcdefghij_0\r\n--=_0123456789abcdefghij_1--: x\r\n\r\n")
    assert parse(wire).get_boundary() == "=_0123456789abcdefghij_2" and len(parse(wire).get_payload()) == 3


def test_endless_headers_are_cut_at_a_line() -> None:
    wire = make(original_headers=b"A: " + b"x" * 70 + b"\r\n" + (b"B: " + b"y" * 70 + b"\r\n") * 5000)
    assert len(wire) < 70_000 and b"y\r\n\r\n--=_" in wire


def test_no_headers_at_all() -> None:
    assert parse(make(original_headers=b"\r\n")).get_payload()[2].get_payload() == ""


pieces = [*"ab.;:<>\"'\\=-_ \t\r\n\x00\x0b\x85\u2028é漢\ud800", "\r\n\r\n", "\r\nBcc: x@y\r\n", "\r\n.\r\n", "x" * 1200, "é" * 1200]
hostile = st.lists(st.sampled_from(pieces), max_size=40).map("".join)
headers = st.lists(st.binary(max_size=30).map(lambda line: line.translate(None, b"\r\n")), max_size=8).map(
    lambda lines: b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
)


@given(hostile, hostile, hostile, hostile, hostile, hostile, headers)
def test_no_text_breaks_out_of_its_place(address: str, orcpt: str, diag: str, mta: str, sender: str, env_id: str, original: bytes) -> None:
    failure = Failure(address, orcpt, "5.0.0", diag, mta, "failed", 0)
    wire = make(failure, return_path=sender, env_id=env_id, original_headers=original)
    assert wire.endswith(b"--\r\n") and b"\r\n.\r\n" not in wire
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    assert max(map(len, wire.split(b"\r\n"))) <= 998
    head = wire[: wire.index(b"\r\n\r\n")]
    names = [line.split(b":")[0] for line in head.split(b"\r\n") if line[:1] not in b" \t"]
    assert b" ".join(names) == b"To From Subject Date Message-ID Auto-Submitted X-PowerMTA-VirtualMTA MIME-Version Content-Type"
    parts: Any = email.message_from_bytes(unstuff(wire), policy=email.policy.compat32).get_payload()
    assert [part.get_content_type() for part in parts] == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    _, recipient = parts[1].get_payload()
    assert set(recipient.keys()) <= {"Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"}
    assert recipient["Status"] == "5.0.0"
    assert parts[1].as_bytes().isascii()


@pytest.mark.parametrize(("ret", "kind"), [("HDRS", "message/global-headers"), ("FULL", "message/global")])
def test_what_came_with_smtputf8_is_returned_under_its_own_type(ret: str, kind: str) -> None:
    """RFC 6533 §4, §5: text/rfc822-headers and message/rfc822 are for headers in ASCII."""
    headers = HEADERS.replace(b"hello", "grüße".encode())
    failure = msgspec.structs.replace(FAILURE, address="jürgen@example.org", orcpt="utf-8;Jürgen+x@example.org")
    wire = make(failure, original_headers=headers, original=[headers, b"text\r\n"], ret=ret, utf8=True, return_path="ä@example.com")
    top = wire.partition(b"\r\n\r\n")[0]
    assert top.startswith("To: <ä@example.com>\r\n".encode())
    assert b"\r\nContent-Type: " + kind.encode() + b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + headers[:-2] in wire
    _, status, _ = parse(wire).get_payload()
    fields = status.get_payload()[1]
    assert fields["Final-Recipient"] == "utf-8;j\\x{FC}rgen@example.org" and fields["Original-Recipient"] == "utf-8;J\\x{FC}rgen+x@example.org"


@pytest.mark.parametrize("text", ["Postfach für Jürgen ist voll", "メールボックス" * 60])
def test_text_outside_ascii_stays_readable_and_every_line_of_ours_seven_bit(text: str) -> None:
    wire = make(Failure("jürgen@example.org", "", "5.2.2", f"smtp;552 5.2.2 {text}", "mx", "failed", 0))
    assert wire.isascii()
    words, status, _ = parse(wire).get_payload()
    assert text[:10] in re.sub(r"\s+", " ", words.get_content())
    assert status.get_payload()[1]["Final-Recipient"] == "utf-8;j\\x{FC}rgen@example.org"


def test_a_report_is_cheap(benchmark: Any) -> None:
    benchmark(make)


# --- what operators set -------------------------------------------------------------------------------------------------------------------


def test_templates_take_the_place_of_our_words() -> None:
    templates = Templates(
        from_header="Nobody <nobody@example.com>",
        failed_from="Bounces <bounce@${hostname}>",
        failed_subject="Not delivered: ${subject}",
        failed_body="Dear ${originator},\n  ${recipient}: ${response} ${unknown} ${retryAfter}/${bounceAfter}\n",
    )
    message = parse(make(templates=templates, waits=("10m", "4d12h")))
    assert message["From"] == "Bounces <bounce@mail.example.com>" and message["Subject"] == "Not delivered: hello"
    words, status, _ = message.get_payload()
    assert words.get_content().replace("\r\n", "\n") == "Dear sender@example.com,\n  user@example.org: 550 5.1.1 user unknown ${unknown} 10m/4d12h\n"
    assert status.get_payload()[1]["Status"] == "5.1.1"
    delayed = msgspec.structs.replace(FAILURE, action="delayed")
    message = parse(make(delayed, templates=templates))
    assert message["From"] == "Nobody <nobody@example.com>" and message["Subject"] == "Delivery Status Notification (Delay)"


@given(st.text(max_size=300), st.text(max_size=300), st.binary(max_size=300))
def test_no_variable_makes_a_header_line_or_another_variable(diag: str, address: str, subject: bytes) -> None:
    failure = msgspec.structs.replace(FAILURE, diag=f"smtp;550 ${{date}}{diag}", address=f"{address}@x")
    templates = Templates(failed_subject="${response} ${subject}", failed_body="${recipient}\n${response}\n")
    wire = make(failure, templates=templates, original_headers=b"Subject: " + subject.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n\r\n")
    message = parse(wire)
    assert [name for name in message.keys()] == [name for name in parse(make()).keys()]  # noqa: C416, SIM118
    assert message["Subject"].startswith("550 ${date}")
    assert all(len(line) <= 998 for line in wire.split(b"\r\n"))


def test_plain_text_is_one_text_with_the_header_section() -> None:
    for headers, encoding in [(HEADERS, "7bit"), ("Subject: gr\xfc\xdfe\r\n".encode(), "quoted-printable")]:
        message = parse(make(plain=True, original_headers=headers))
        assert message.get_content_type() == "text/plain" and message["Content-Transfer-Encoding"] == encoding
        assert message["Auto-Submitted"] == "auto-replied" and message["To"] == "sender@example.com"
        text = message.get_content()
        assert "user@example.org" in text and "550 5.1.1 user unknown" in text and "Subject: " in text
