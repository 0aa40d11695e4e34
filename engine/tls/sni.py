"""Which certificate a client gets that names a host (RFC 6066 §3)."""

from __future__ import annotations

import ssl
from collections.abc import Iterable


class Choice:
    """The contexts of several certificates by the names that those are for; the first that has a name keeps it."""

    def __init__(self, contexts: Iterable[tuple[ssl.SSLContext, tuple[str, ...]]]) -> None:
        self._by_name: dict[str, ssl.SSLContext] = {}
        for context, names in contexts:
            for name in names:
                self._by_name.setdefault(name, context)

    def of(self, host: str | None) -> ssl.SSLContext | None:
        """The context for *host*: its own name, then a wildcard for its first label; None: the default one's turn."""
        if not host:
            return None
        name = host.lower().rstrip(".")
        return self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])

    def callback(self, connection: ssl.SSLObject, host: str | None, _context: ssl.SSLContext) -> None:
        """For `SSLContext.sni_callback`.  An unknown name is no error: a client that verifies will see for itself."""
        chosen = self.of(host)
        if chosen is not None:
            connection.context = chosen
