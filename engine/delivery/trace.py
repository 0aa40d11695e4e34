"""What a <domain> has logged of its dialogues: log-connections, -commands, -data, -tls, -resolution.  Peers choose the text; it is escaped.

Only who asked for it pays: a connection without a trace costs one attribute test for each read and write.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.delivery.pool import Route
from engine.dns import NoTargets, Targets
from engine.log import EventLog, escape
from engine.mail.content import SECRET_FIELDS, FieldCutter
from engine.scheduler.queue import Queue

LINES_MOST = 50  # of one read or write: pipelined groups of thousands are cut
LINE_CHARS = 200
DATA_CHARS = 1000  # of each piece of a message
TARGETS_MOST = 20


class Trace:
    """Of one connection, while it serves *queue*."""

    def __init__(self, log: EventLog, queue: Queue, route: Route) -> None:
        settings = queue.settings
        self._log = log
        self._commands = settings.log_commands
        self._data = settings.log_data
        self._connections = settings.log_connections
        self._tls = settings.log_tls
        self._cutter = FieldCutter(SECRET_FIELDS)
        self._where = f"queue={queue.name} source={route.source_ip or '-'} mx={route.host}[{route.address}]:{route.port}"

    def opened(self) -> None:
        """It is connected."""
        if self._connections:
            self._log.event("connected", self._where)

    def secured(self, protocol: str, cipher: str, resumed: bool) -> None:
        """Its TLS handshake is done."""
        if self._tls:
            self._log.event("tls", f"{self._where} protocol={protocol} cipher={cipher} resumed={'yes' if resumed else 'no'}")

    def closed(self, transactions: int, why: str) -> None:
        """It is gone."""
        if self._connections:
            self._log.event("disconnected", f'{self._where} transactions={transactions} reason="{escape(why)}"')

    def sent(self, data: bytes) -> None:
        """Commands of ours went out."""
        if self._commands:
            self._lines("<<<", data)

    def got(self, data: bytes) -> None:
        """Replies came, whole or in part."""
        if self._commands:
            self._lines(">>>", data)

    def begin_body(self) -> None:
        """A message goes out from here on."""
        self._cutter = FieldCutter(SECRET_FIELDS)

    def body(self, parts: Sequence[bytes]) -> None:
        """A piece of it went out."""
        if not self._data:
            return
        for part in parts:
            if part:
                shown = self._cutter.feed(part)
                self._log.event("data", f'{self._where} <<< {len(part)} bytes "{escape(shown[: DATA_CHARS + 1], DATA_CHARS)}"')

    def _lines(self, direction: str, data: bytes) -> None:
        lines = data.split(b"\r\n", LINES_MOST)
        for line in lines[:LINES_MOST]:
            if line:
                shown = b"AUTH ..." if line[:5].upper() == b"AUTH " else line  # no secrets
                self._log.event("dialogue", f'{self._where} {direction} "{escape(shown[: LINE_CHARS + 1], LINE_CHARS)}"')
        if len(lines) > LINES_MOST and lines[-1]:
            self._log.event("dialogue", f"{self._where} {direction} and {len(lines[-1])} bytes more")


def log_resolution(log: EventLog, queue: Queue, found: Targets | NoTargets) -> None:
    """What a look-up gave."""
    if isinstance(found, NoTargets):
        log.event("resolved", f'queue={queue.name} {found.kind} status={found.status} reason="{escape(found.text)}"')
        return
    shown = " ".join(f"{t.preference} {escape(t.host)}[{t.address}]:{t.port}" for t in found.targets[:TARGETS_MOST])
    log.event("resolved", f"queue={queue.name} ttl={found.ttl_s:.0f}s {shown}")
