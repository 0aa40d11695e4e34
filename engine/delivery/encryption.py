"""The TLS of one slot's connections out: contexts, sessions to resume, and who has failed at it lately."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from engine.config.tls import ClientTls
from engine.delivery.pool import Route
from engine.tls.context import Contexts, TlsSetupError, client_context
from engine.tls.files import Files
from engine.tls.pump import Pump, TlsError
from engine.tls.session import SessionCache

REMEMBERED_S: Final = 600.0  # a host that failed at optional TLS is spoken to in the clear for so long
FAILED_MOST: Final = 10_000
HANDSHAKE_S: Final = 30.0  # for the whole handshake, however steadily it drips

_Failed = tuple[str, str, int, ClientTls]


class Encryption:
    """Sessions are kept per MX, policy and source IP; failures per MX and policy."""

    def __init__(self, files: Files) -> None:
        self._contexts: Contexts[ClientTls] = Contexts(files, client_context)
        self._sessions = SessionCache()
        self._failed: OrderedDict[_Failed, float] = OrderedDict()  # until when, the oldest first

    def mode(self, route: Route, now_s: float) -> str:
        """Whether a new connection along *route* is to have TLS: "off", "may", "must"."""
        mode = route.tls.mode
        if mode == "may" and self._failed and self._failed.get(_mx(route), 0.0) > now_s:
            return "off"
        return mode

    def pump(self, route: Route) -> Pump:
        """For a handshake along *route*.  TlsError: there can be none."""
        try:
            context = self._contexts.of(route.tls)
        except TlsSetupError as error:
            raise TlsError(str(error)) from error
        session = self._sessions.get(route, context) if route.tls.resumes else None
        return Pump(context, server_name=route.host, session=session)

    def established(self, route: Route, pump: Pump) -> None:
        """*pump* has shaken hands and heard the peer's first words: its session can be resumed."""
        if route.tls.resumes:
            self._sessions.put(route, pump.context, pump.session)  # not today's: files may have changed since it began

    def failed(self, route: Route, now_s: float) -> bool:
        """TLS along *route* failed: whether another connection at once may do better.

        Where a session was to be resumed that may be why: the next handshake is a whole one.  Where TLS is optional the next connection is without.
        """
        if route in self._sessions:
            self._sessions.forget(route)
            return True
        if route.tls.mode != "may":
            return False
        self._failed[_mx(route)] = now_s + REMEMBERED_S
        self._failed.move_to_end(_mx(route))
        if len(self._failed) > FAILED_MOST:
            self._failed.popitem(last=False)
        return True

    def refresh(self) -> list[str]:
        """Once a second: files that have changed are in use for handshakes to come; a line for the log about each."""
        return self._contexts.refresh()


def _mx(route: Route) -> _Failed:
    return route.host, route.address, route.port, route.tls
