"""What each function answers to known input, from both implementations."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from engine import _fastpath, _reference, fastpath

N, B, M = fastpath.NEED_DATA, fastpath.BARE_EOL, fastpath.MALFORMED


@pytest.mark.parametrize(
    ("data", "start", "expected"),
    [
        (b"", 0, N),
        (b"NOOP", 0, N),
        (b"NOOP\r", 0, N),
        (b"NOOP\r\n", 0, 6),
        (b"\r\n", 0, 2),
        (b"NOOP\r\nQUIT\r\n", 6, 12),
        (b"NOOP\r\n", 6, N),
        (b"NOOP\n", 0, B),
        (b"\n", 0, B),
        (b"NO\rOP\r\n", 0, B),
        (b"NO\rOP", 0, B),
        (b"NOOP\r\r\n", 0, B),
        (b"NOOP\r\nQUIT\n", 0, 6),
        (b"NOOP\n\r\n", 0, B),
    ],
)
def test_read_command_finds_line_ends(loops: Any, data: bytes, start: int, expected: int) -> None:
    assert loops.read_command(data, start)[0] == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b".\r\n", 3),
        (b"text\r\n.\r\n", 9),
        (b"text\r\n.\r\nMAIL", 9),
        (b"text\r\n..\r\n.\r\n", 13),
        (b"text.\r\n", N),
        (b"text\r\n.", N),
        (b"text\r\n.\r", N),
        (b"", N),
        (b"text\n.\r\n", B),
        (b"text\r\n.\n", B),
        (b"text\r.\r\n", B),
        (b"text\r\n.\r\r\n", B),
        (b"\n", B),
        (b"x" * 2000 + b"\r\n.\r\n", 2005),
        (b"x" * 2000 + b"\n" + b"x" * 2000, B),
        (b"x" * 2000 + b"\r" + b"x" * 2000, B),
    ],
)
def test_scan_body(loops: Any, data: bytes, expected: int) -> None:
    assert loops.scan_body(data, 0, fastpath.BODY_START)[0] == expected


def test_scan_body_goes_on_after_a_bare_one(loops: Any) -> None:
    data = b"text\nmore\r\n.\n.\r\r\n.\r\nbehind"
    end, state = loops.scan_body(data, 0, fastpath.BODY_START)
    assert end == B
    assert state & fastpath.BODY_LENIENT
    assert loops.scan_body(data, 0, state) == (data.index(b"behind"), fastpath.BODY_START)


def test_states_that_callers_look_at(loops: Any) -> None:
    assert loops.scan_body(b"a\r\n.", 0, loops.BODY_START) == (N, loops.BODY_DOT)
    assert loops.scan_body(b"a\r\n.\r", 0, loops.BODY_START) == (N, loops.BODY_DOT_CR)


@pytest.mark.parametrize(
    ("plain", "wire"),
    [
        (b"", b""),
        (b"text\r\n", b"text\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"a\r\n.b\r\n..\r\n", b"a\r\n..b\r\n...\r\n"),
        (b"a.\r\n", b"a.\r\n"),
        (b"a\n.b", b"a\n.b"),
    ],
)
def test_stuffing(loops: Any, plain: bytes, wire: bytes) -> None:
    assert loops.stuff(plain) == wire
    assert loops.unstuff(wire) == plain
    assert loops.stuff(bytearray(plain)) == wire


@pytest.mark.parametrize(("data", "expected"), [(b"", False), (b"\x7f" * 100, False), (b"a" * 100 + b"\x80", True), (b"\xff", True)])
def test_has_8bit(loops: Any, data: bytes, expected: bool) -> None:
    assert loops.has_8bit(data) is expected


HEADER = b"Received: from a\r\n\tby b\r\nTo: c\r\nx-virtual-mta : v1\r\nReceived: d\r\n\r\nReceived: in the body\r\n"


def test_find_fields(loops: Any) -> None:
    end, found = loops.find_fields(HEADER, (b"received", b"x-virtual-mta"))
    assert HEADER[end:] == b"Received: in the body\r\n"
    assert [(index, HEADER[start:stop]) for index, start, stop in found] == [
        (0, b"Received: from a\r\n\tby b\r\n"),
        (1, b"x-virtual-mta : v1\r\n"),
        (0, b"Received: d\r\n"),
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (0, [])),
        (b"\r\nTo: x\r\n", (2, [])),
        (b"To: x", (5, [(0, 0, 5)])),
        (b"To: x\r\n folded", (14, [(0, 0, 14)])),
        (b" To: x\r\nTo: y\r\n", (15, [(0, 8, 15)])),
        (b"Too: x\r\nT: x\r\nTo\r\nTo\n: x\r\n", (26, [])),
    ],
)
def test_find_fields_at_the_edges(loops: Any, data: bytes, expected: object) -> None:
    assert loops.find_fields(data, (b"to",)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"", (b"", b"")),
        (b"quit", (b"QUIT", b"")),
        (b"Mail FROM:<a@b> ", (b"MAIL", b"FROM:<a@b>")),
        (b"NOOP\t x\ty ", (b"NOOP", b"x\ty")),
        (b" NOOP", (b"", b"NOOP")),
        (b"\xe4\xff x", (b"\xe4\xff", b"x")),
    ],
)
def test_read_command_splits(loops: Any, line: bytes, expected: tuple[bytes, bytes]) -> None:
    assert loops.read_command(b"x\r\n" + line + b"\r\nNOOP x\r\n", 3) == (5 + len(line), *expected)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (b"FROM:<a@b>", (b"a@b", b"")),
        (b"from:<a.b+c=d@Example.COM> SIZE=1  BODY=7BIT ", (b"a.b+c=d@Example.COM", b"SIZE=1  BODY=7BIT")),
        (b"FROM:<" + b"a" * 64 + b"@b>", (b"a" * 64 + b"@b", b"")),
        (b"FROM:<" + b"a" * 65 + b"@b>", None),
        (b"FROM:<a@" + b"b" * 63 + b">", (b"a@" + b"b" * 63, b"")),
        (b"FROM:<a@" + b"b" * 64 + b">", None),
        (b"FROM:<a@" + b"b." * 127 + b"b>", (b"a@" + b"b." * 127 + b"b", b"")),
        (b"FROM:<a@" + b"b." * 128 + b"b>", None),
        *[
            (b"FROM:" + rest, None)
            for rest in (
                b"<>",
                b"a@b",
                b" <a@b>",
                b"<a@b",
                b"<a@b>x",
                b"<a..b@c>",
                b"<.a@b>",
                b"<a.@b>",
                b"<@b>",
                b"<a@>",
                b"<a@b@c>",
                b"<a@-b>",
                b"<a@b->",
                b"<a@b..c>",
                b"<a@.b>",
                b"<a@b.>",
                b"<a@[1.2.3.4]>",
                b'<"a"@b>',
                b"<\xe4@b>",
                b"<a@\xe4>",
                b"<a b@c>",
                b"<a\0@c>",
                b"<@x:a@b>",
                b"<a_b@c_d>",
            )
        ],
        (b"TO:<a@b>", None),
        (b"FROM", None),
    ],
)
def test_parse_path(loops: Any, argument: bytes, expected: object) -> None:
    assert loops.parse_path(argument, b"FROM:") == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", N),
        (b"2", N),
        (b"250", N),
        (b"250 Ok", N),
        (b"250 Ok\r", N),
        (b"250 Ok\r\n", 8),
        (b"250\r\n", 5),
        (b"250\n", 4),
        (b"250 Ok\n354 go\r\n", 7),
        (b"250-a\r\n250-b\r\n", N),
        (b"250-a\r\n250 b\r\n", 14),
        (b"250-a\r\n250\r\n", 12),
        (b"250-a\r\n25", N),
        (b"250-a\r\n251 b\r\n", M),
        (b"250-a\r\n3", M),
        (b"150 x\r\n", M),
        (b"650", M),
        (b"HTTP", M),
        (b"\r\n", M),
        (b"25\r\n", M),
        (b"2500 Ok\r\n", M),
        (b"250\tOk\r\n", M),
        (b"250\rOk\r\n", M),
        (b"250-\r\n250 \xff\0\r\n", 14),
    ],
)
def test_scan_reply(loops: Any, data: bytes, expected: int) -> None:
    assert loops.scan_reply(data) == expected
    assert loops.scan_reply(b"220 hi\r\n" + data, 8) == (expected + 8 if expected >= 0 else expected)


def test_every_function_has_its_twin_and_its_export() -> None:
    names = set(fastpath.__all__) - {"COMPILED"}
    assert names <= set(dir(_fastpath))
    assert names <= set(dir(_reference))
    assert all(getattr(_fastpath, name) == getattr(_reference, name) for name in names if name.isupper())


@pytest.mark.parametrize(("setting", "module"), [("off", "engine._reference"), ("", "engine._fastpath")])
def test_the_environment_chooses(setting: str, module: str) -> None:
    program = "from engine import fastpath; print(fastpath.COMPILED, fastpath.read_command.__module__)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ENGINE_FASTPATH": setting},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=os.path.dirname(os.path.dirname(fastpath.__file__)),
    )
    assert run.stdout.split() == [str(setting != "off"), module]
