"""The targets by name.  Each takes any bytes, gives back what can be seen of them (compared between compiled modules and sources), and asserts."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.targets.access import access
from tests.fuzz.targets.bounce import dsn
from tests.fuzz.targets.content import body, headers
from tests.fuzz.targets.language import config
from tests.fuzz.targets.names import dns
from tests.fuzz.targets.receiving import command, server
from tests.fuzz.targets.sending import client

Target = Callable[[bytes], object]

TARGETS: dict[str, Target] = {
    "access": access,
    "body": body,
    "client": client,
    "command": command,
    "config": config,
    "dns": dns,
    "dsn": dsn,
    "headers": headers,
    "server": server,
}
