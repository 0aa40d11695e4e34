"""Addresses in UTF-8 (RFC 6531): what is let in, what is said, and the ORCPT that comes with them (RFC 6533)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LocalProtocolError
from engine.mail.address import in_ascii, is_utf8_text
from engine.mail.envelope import NEEDS_SMTPUTF8
from engine.smtp.command import read_mail, read_rcpt, write_mail, write_rcpt
from engine.smtp.extensions import Parameters, format_rcpt_parameters, mail_parameters, rcpt_parameters
from engine.smtp.grammar import Fault, Path, read_path

UTF8 = frozenset(("SMTPUTF8",))
GOOD = [
    "jürgen@example.com",
    "用户@例え.jp",
    "a@bücher.example",
    "ü" * 32 + "@example.com",
    '"ü x"@example.com',
    '"ü\\"x"@example.com',
    "ü.ö@example.com",
    "अ\u200dब@example.com",  # a joiner, which Indic scripts need
    "ü@[192.0.2.1]",
]
BAD = [
    "ü@",
    "@bücher.example",
    "ü..ö@example.com",
    ".ü@example.com",
    "ü@ö@example.com",
    "ü b@example.com",
    "ü" * 33 + "@example.com",  # 66 bytes
    "a@" + "ü" * 200 + ".example",
    "a@-ü.example",
    "a@ü_x.example",
    "a@xn--ü.example",
    "a@\u200d.example",
    "a@ex\uff20ample.com",
    "ü\x85@example.com",
    "ü\u2028@example.com",
    "ü\ufffd@example.com",
    "ü\x7f@example.com",
    "ü@[x]",
]


@pytest.mark.parametrize("address", GOOD)
def test_addresses_in_utf8(address: str) -> None:
    argument = f"FROM:<{address}> SIZE=1 SMTPUTF8".encode()
    assert read_path(argument, b"FROM:", utf8=True) == Path(address.encode(), b"SIZE=1 SMTPUTF8")
    assert read_path(argument, b"FROM:") is Fault.NOT_ASCII
    assert read_mail(argument, UTF8) == (address, Parameters(size_bytes=1, needs=NEEDS_SMTPUTF8))
    assert read_rcpt(f"TO:<@relay.example:{address}>".encode(), True) == (address, Parameters())
    written = write_mail(address, utf8=True)
    assert written == f"MAIL FROM:<{address}> SMTPUTF8\r\n".encode()
    assert write_rcpt(address, utf8=True) == f"RCPT TO:<{address}>\r\n".encode()
    with pytest.raises(LocalProtocolError):
        write_rcpt(address)


@pytest.mark.parametrize("address", BAD)
def test_what_is_no_address_in_utf8_either(address: str) -> None:
    assert read_path(f"TO:<{address}>".encode(), b"TO:", utf8=True) is Fault.ADDRESS


@pytest.mark.parametrize("address", [b"\xff@b.example", b"\xc3@b.example", b"\xed\xa0\x80@b.example", b"\xc0\xae@b.example", b"\xf5\x80\x80\x80@b"])
def test_what_is_no_utf8(address: bytes) -> None:
    assert read_path(b"TO:<" + address + b">", b"TO:", utf8=True) is Fault.ADDRESS


def test_nobody_uses_it_unasked() -> None:
    assert read_mail("FROM:<ü@example.com>".encode(), UTF8) == b"553 5.6.7 Address is not ASCII, and MAIL did not say SMTPUTF8\r\n"
    assert read_mail("FROM:<ü@example.com> SMTPUTF8".encode()) == b"553 5.6.7 Address is not ASCII, and SMTPUTF8 is not offered\r\n"
    assert read_rcpt("TO:<ü@example.com>".encode()) == b"553 5.6.7 Address is not ASCII, and SMTPUTF8 is not offered\r\n"
    assert mail_parameters(b"SMTPUTF8") is None
    assert mail_parameters(b"SMTPUTF8=x", UTF8) is None


def test_every_address_in_utf8_is_one_line() -> None:
    """Nothing that is let in can end a line, of SMTP, of a header or of the log's readers."""

    @given(st.text(max_size=12), st.text(max_size=12))
    def holds(local: str, domain: str) -> None:
        argument = f"TO:<{local}@{domain}>".encode("utf-8", "surrogatepass")
        read = read_rcpt(argument, True)
        if not isinstance(read, bytes):
            address, _ = read
            assert is_utf8_text(address) and len(address.splitlines()) == 1
            line = write_rcpt(address, utf8=True)
            assert read_rcpt(line[5:-2], True) == (address, Parameters())

    holds()


@pytest.mark.parametrize(
    ("address", "ascii_form"),
    [("a@b.example", "a@b.example"), ("a@Bücher.example", "a@xn--bcher-kva.example"), ("ü@b.example", None), ("", "")],
)
def test_what_is_left_in_ascii(address: str, ascii_form: str | None) -> None:
    assert in_ascii(address) == ascii_form


@pytest.mark.parametrize(
    ("text", "utf8", "orcpt"),
    [
        ("ORCPT=utf-8;ü@example.com", True, "utf-8;ü@example.com"),
        (r"ORCPT=utf-8;\x{FC}@example.com", False, "utf-8;ü@example.com"),
        (r"ORCPT=UTF-8;\x{FC}\x{2B}@example.com", True, "UTF-8;ü+@example.com"),
        (r"ORCPT=utf-8;\x{10FFFD}@example.com", False, "utf-8;\U0010fffd@example.com"),
        (r"ORCPT=utf-8;\x{A}@example.com", False, r"utf-8;\x{A}@example.com"),  # one digit is no escape
    ],
)
def test_orcpt_in_utf8(text: str, utf8: bool, orcpt: str) -> None:
    assert rcpt_parameters(text.encode(), utf8) == Parameters(orcpt=orcpt)
    said = format_rcpt_parameters(0, orcpt)
    assert said.isascii() and rcpt_parameters(said.encode()) == Parameters(orcpt=orcpt)


@pytest.mark.parametrize(
    "text",
    [
        "ORCPT=utf-8;ü@example.com",  # without SMTPUTF8
        "ORCPT=rfc822;ü@example.com",
        r"ORCPT=utf-8;\x{0A}@example.com",
        r"ORCPT=utf-8;\x{2028}@example.com",
        r"ORCPT=utf-8;\x{D800}@example.com",
        r"ORCPT=utf-8;\x{110000}@example.com",
        "ORCPT=utf-8;",
    ],
)
def test_orcpt_that_is_none(text: str) -> None:
    assert rcpt_parameters(text.encode()) is None
