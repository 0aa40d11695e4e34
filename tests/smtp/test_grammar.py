"""Paths and parameters: what is let in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fastpath import parse_path
from engine.smtp.extensions import (
    NO_PARAMETERS,
    NOTIFY_DELAY,
    NOTIFY_FAILURE,
    NOTIFY_NEVER,
    NOTIFY_SUCCESS,
    Parameters,
    decode_xtext,
    encode_xtext,
    format_rcpt_parameters,
    mail_parameters,
    rcpt_parameters,
)
from engine.smtp.grammar import Fault, Path, is_address_literal, is_hello_name, read_path

GOOD = [
    b"a@b",
    b"a.b@example.com",
    b"!#$%&'*+-/=?^_`{|}~@example.com",
    b'""@example.com',
    b'"a b"@example.com',
    b'"a\\"b"@example.com',
    b'"a\\\\"@example.com',
    b'"<a>"@example.com',
    b'"@"@example.com',
    b"a@1.example",
    b"a@[192.0.2.1]",
    b"a@[IPv6:2001:db8::1]",
    b"a@[ipv6:::ffff:192.0.2.1]",
    b"a" * 64 + b"@example.com",
]
BAD = [
    b"a",
    b"@b",
    b"a@",
    b"a@b@c",
    b"a..b@c",
    b".a@c",
    b"a.@c",
    b"a@b.",
    b"a@.b",
    b"a@-b",
    b"a@b-",
    b"a@b_c",
    b"a b@c",
    b"a@b c",
    b'"a@b',
    b'a"b"@c',
    b'"a"b@c',
    b'"a"."b"@c',
    b'"a\0"@c',
    b'"a\t"@c',
    b"a@[]",
    b"a@[1.2.3.256]",
    b"a@[IPv6:1.2.3.4]",
    b"a@[x400:abc]",
    b"a@[IPv6:fe80::1%lo]",
    b"a@[1.2.3.4",
    b"@x:a",
    b"@:a@b",
    b"x:a@b",
    b"@x,y:a@b",
    b"a" * 65 + b"@b",
    b"a@" + b"b" * 64,
    b"a@" + b"b." * 127 + b"bb",
    b"a\\@b",
    b"a;b@c",
    b"(c)a@b",
    b"\x7f@b",
]


@pytest.mark.parametrize("address", GOOD)
def test_addresses(address: bytes) -> None:
    assert read_path(b"FROM:<" + address + b">", b"FROM:") == Path(address, b"")
    assert read_path(b"to:  <" + address + b">  A=1 B ", b"TO:") == Path(address, b"A=1 B")
    assert read_path(b"TO:<@r.example,@s.example:" + address + b">", b"TO:") == Path(address, b""), "a route is dropped"


@pytest.mark.parametrize("address", BAD)
def test_no_addresses(address: bytes) -> None:
    assert isinstance(read_path(b"FROM:<" + address + b">", b"FROM:"), Fault)
    assert parse_path(b"FROM:<" + address + b">", b"FROM:") is None


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        (b"", Fault.SHAPE),
        (b"a@b", Fault.SHAPE),
        (b"FROM:a@b", Fault.SHAPE),
        (b"FROM <a@b>", Fault.SHAPE),
        (b"FROM:<a@b", Fault.SHAPE),
        (b"FROM:<a@b>x", Fault.SHAPE),
        (b"FROM:<>", Fault.ADDRESS),
        (b"FROM:<postmaster>", Fault.ADDRESS),
        (b"FROM:<\xe4@b>", Fault.NOT_ASCII),
        (b"FROM:<a@\xc3\xa4.example>", Fault.NOT_ASCII),
        (b"FROM:\xe4@b", Fault.NOT_ASCII),
    ],
)
def test_faults(argument: bytes, fault: Fault) -> None:
    assert read_path(argument, b"FROM:") is fault


def test_what_stands_without_a_domain() -> None:
    assert read_path(b"FROM:<> SIZE=1", b"FROM:", null=True) == Path(b"", b"SIZE=1")
    assert read_path(b"TO:<PostMaster>", b"TO:", postmaster=True) == Path(b"PostMaster", b"")
    assert read_path(b"TO:<>", b"TO:", postmaster=True) is Fault.ADDRESS


@given(st.binary(max_size=40) | st.text('ab.@<>"\\-[] :,', max_size=40).map(lambda text: text.encode()))
def test_the_common_form_is_part_of_the_grammar(text: bytes) -> None:
    for argument in (b"TO:" + text, b"TO:<" + text + b">", b"TO:<a@" + text + b">"):
        common, strict = parse_path(argument, b"TO:"), read_path(argument, b"TO:", null=True, postmaster=True)
        if common is not None:
            assert common == strict


def test_hello_names_and_literals() -> None:
    assert all(is_hello_name(name) for name in (b"a", b"a.example", b"[192.0.2.1]", b"[IPv6:::1]", b"my_pc", b"x" * 255))
    assert not any(is_hello_name(name) for name in (b"", b"a b", b"a\0", b"\xe4", b"a;b", b"(a)", b"a@b", b"x" * 256))
    assert is_address_literal(b"[127.0.0.1]")
    assert not is_address_literal(b"[127.0.0.01]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"SIZE=0", Parameters()),
        (b"size=12345 body=8bitmime", Parameters(size_bytes=12345, body="8BITMIME")),
        (b"RET=full ENVID=a+2Bb+20c", Parameters(ret="FULL", env_id="a+b c")),
        (b"BODY=7BIT", Parameters(body="7BIT")),
        *[
            (text, None)
            for text in (b"SIZE", b"SIZE=", b"SIZE=1x", b"SIZE=" + b"9" * 21, b"BODY=", b"RET=", b"ENVID=", b"ENVID=+0D", b"ENVID=+e4", b"ENVID=+E4")
        ],
        *[
            (text, None)
            for text in (b"ENVID=" + b"x" * 101, b"SIZE=1 SIZE=2", b"X=1", b"=1", b"SIZE=1=2", b"\xff", b"NOTIFY=NEVER", b"BODY=BINARYMIME")
        ],
    ],
)
def test_mail_parameters(text: bytes, expected: Parameters | None) -> None:
    assert mail_parameters(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"NOTIFY=NEVER", Parameters(notify=NOTIFY_NEVER)),
        (b"notify=success,Delay", Parameters(notify=NOTIFY_SUCCESS | NOTIFY_DELAY)),
        (b"ORCPT=rfc822;a+2Bb@c NOTIFY=FAILURE", Parameters(notify=NOTIFY_FAILURE, orcpt="rfc822;a+b@c")),
        *[
            (text, None)
            for text in (b"NOTIFY=", b"NOTIFY=NEVER,DELAY", b"NOTIFY=X", b"NOTIFY=DELAY,", b"NOTIFY=DELAY NOTIFY=DELAY", b"ORCPT=a", b"ORCPT=;a")
        ],
        *[(text, None) for text in (b"ORCPT=rfc822;", b"ORCPT=rfc822;a+0Ab", b"ORCPT=rfc822;" + b"a" * 500, b"SIZE=1")],
    ],
)
def test_rcpt_parameters(text: bytes, expected: Parameters | None) -> None:
    assert rcpt_parameters(text) == expected


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30), st.integers(0, 15))
def test_xtext_and_recipient_parameters_come_back(text: str, notify: int) -> None:
    assert decode_xtext(encode_xtext(text).encode()) == text
    notify = NOTIFY_NEVER if notify & NOTIFY_NEVER else notify
    orcpt = f"rfc822;{text}" if text else ""
    assert rcpt_parameters(format_rcpt_parameters(notify, orcpt).encode()) == (Parameters(notify=notify, orcpt=orcpt) or NO_PARAMETERS)
