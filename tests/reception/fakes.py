"""Stand-ins for what reception and the listener depend on: configuration, spool link, segments, log."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.config import ClientSettings, Config, build, from_text
from engine.errors import SpoolError
from engine.mail import message_id
from engine.mail.envelope import Body, Due, Message
from engine.spool.ops import Accept


class FakeLog:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, kind: str, text: str) -> None:
        self.events.append((kind, text))

    def flush(self) -> None:
        pass

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def text(self, kind: str) -> str:
        return "\n".join(text for each, text in self.events if each == kind)


class FakeLarge:
    def __init__(self, segments: FakeSegments, identity: bytes) -> None:
        self.segments, self.identity, self.data, self.state = segments, identity, b"", "open"

    def write(self, data: bytes) -> None:
        if self.segments.failing:
            raise SpoolError(self.segments.failing)
        self.data += data

    def finish(self) -> Body:
        if self.segments.failing:
            raise SpoolError(self.segments.failing)
        self.state = "finished"
        return self.segments.store(self.identity, self.data)

    def abort(self) -> None:
        self.state = "aborted"


class FakeSegments:
    """Keeps bodies by message id; while `failing` says why, every write fails."""

    def __init__(self) -> None:
        self.bodies: dict[bytes, bytes] = {}
        self.large: list[FakeLarge] = []
        self.failing = ""

    def write(self, identity: bytes, parts: Sequence[bytes]) -> Body:
        if self.failing:
            raise SpoolError(self.failing)
        return self.store(identity, b"".join(parts))

    def store(self, identity: bytes, data: bytes) -> Body:
        self.bodies[identity] = data
        return Body(1, 1, 64, len(data), zlib.crc32(data))

    def begin_large(self, identity: bytes) -> FakeLarge:
        if self.failing:
            raise SpoolError(self.failing)
        self.large.append(FakeLarge(self, identity))
        return self.large[-1]


class FakeLink:
    """Acknowledges at once (`reply` None or a reason), or holds operations in `held` until `release`."""

    def __init__(self) -> None:
        self.pending_bytes = 0
        self.accepted: list[Accept] = []
        self.reply: str | None = None
        self.holding = False
        self.held: list[Callable[[str | None], None]] = []
        self._count = 0

    def new_id(self) -> bytes:
        self._count += 1
        return message_id.pack(1, 1, self._count)

    def submit(self, operation: Any, done: Callable[[str | None], None]) -> None:
        assert isinstance(operation, Accept)
        if self.holding:
            self.accepted.append(operation)
            self.held.append(done)
            return
        if self.reply is None:
            self.accepted.append(operation)
        done(self.reply)

    def release(self, reply: str | None = None) -> None:
        held, self.held = self.held, []
        for done in held:
            done(reply)

    def messages(self) -> list[Message]:
        return [msgspec.msgpack.decode(accept.message, type=Message) for accept in self.accepted]

    def recipients(self) -> list[tuple[str, Due]]:
        return [(r.queue, msgspec.msgpack.decode(r.due, type=Due)) for accept in self.accepted for r in accept.recipients]


def client(**changes: Any) -> ClientSettings:
    settings: dict[str, Any] = {"always_allow_relaying": True, "process_x_virtual_mta": True, "max_message_hops": 3, "smtp_data_timeout_s": 300.0}
    return ClientSettings(**{**settings, "smtp_command_timeout_s": 300.0, **changes})


CONFIG = """
host-name mx.engine.example
postmaster ops@corp.example
log-file /tmp/log
<virtual-mta a>
  smtp-source-host 127.0.0.11 a.example
  host-name a.example
</virtual-mta>
<virtual-mta b>
  smtp-source-host 127.0.0.12 b.example
</virtual-mta>
<virtual-mta-pool p>
  virtual-mta a
  virtual-mta b
</virtual-mta-pool>
<smtp-user foo>
  password barbaz
</smtp-user>
"""


def config(clients: dict[str, ClientSettings] | None = None, relay_domain: str = "relay.example", spool: str = "", **changes: Any) -> Config:
    """A Config; *clients* by IP address, *changes* of the settings of all others."""
    loaded = build(from_text(f"{CONFIG}relay-domain {relay_domain}\n<spool /tmp/spool>\n{spool}\n</spool>\n"))
    assert loaded.config is not None, loaded.problems
    by_ip = clients or {}
    default = client(**changes)
    object.__setattr__(loaded.config, "client", lambda ip, listener_source="", user="": by_ip.get(ip, default))
    return loaded.config
