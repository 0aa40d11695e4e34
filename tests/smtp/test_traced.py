"""What a traced connection shows of lines that a listener's tests cannot cut at will."""

from __future__ import annotations

from typing import Any

import pytest

from engine.smtp.server import ServerLimits
from engine.smtp.traced import TracedConnection
from tests.smtp.postbox import Postbox


def test_the_end_of_a_line_that_is_too_long_is_not_shown() -> None:
    shown: list[tuple[str, bytes]] = []
    handler: Any = None  # no command here reaches it
    limits = ServerLimits("mx.engine.example")
    core = TracedConnection(handler, limits, lambda direction, line: shown.append((direction, line)), commands=True, data=True)
    assert core.receive(b"AUTH PLAIN " + b"c2VjcmV0" * 400) == b""
    assert core.receive(b"c2VjcmV0\r\n").startswith(b"500 5.5.2 ")
    assert core.receive(b"NOOP\n").startswith(b"521 ")
    assert shown == [
        (">>>", b"(a line that is too long)"),
        ("<<<", b"500 5.5.2 Line too long"),
        ("<<<", b"521 5.5.2 Bare CR or LF in a command; lines end with CRLF"),
    ]


@pytest.mark.parametrize("said", [b"AUTH=PLAIN AHNlY3JldA==", b" AUTH PLAIN AHNlY3JldA==", b"auth:plain AHNlY3JldA=="])
def test_a_password_behind_a_misspelt_auth_is_not_shown(said: bytes) -> None:
    shown: list[bytes] = []
    core = TracedConnection(Postbox(), ServerLimits("mx"), lambda _, line: shown.append(line), commands=True, data=False)
    core.receive(b"EHLO c\r\n" + said + b"\r\n")
    assert shown and not any(b"AHNlY3JldA" in line for line in shown)
