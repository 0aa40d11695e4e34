"""Sessions that may be resumed, by everything that they were made under."""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

MOST: Final = 2_000  # a session is some KB


class SessionCache:
    """The last session with each of at most *most* peers; the least recently used goes first.  A session never resumes under another context."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._sessions: OrderedDict[Hashable, tuple[ssl.SSLContext, ssl.SSLSession]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._sessions

    def get(self, key: Hashable, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """The session of *key*, if it was made under *context*."""
        found = self._sessions.get(key)
        if found is None:
            return None
        if found[0] is not context:  # its certificate or its settings have changed since
            del self._sessions[key]
            return None
        self._sessions.move_to_end(key)
        return found[1]

    def put(self, key: Hashable, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        """Remember *session*, if there is one."""
        if session is None:
            return
        self._sessions[key] = context, session
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._most:
            self._sessions.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """The peer would not have it."""
        self._sessions.pop(key, None)
