"""Variable envelope return paths: one sender address for each recipient, so that a bounce says by its address whom it is about."""

from __future__ import annotations

import re

_DOT_STRING = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+)*")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_TO_QUOTE = re.compile(r'(["\\])')


def sender_for(sender: str, recipient: str) -> str:
    """`user-rcpt=there@here` for *sender* `user@here` and *recipient* `rcpt@there`, quoted where it must be.

    *sender* itself where one of them has no domain.
    """
    user, at, here = sender.rpartition("@")
    name, there_at, there = recipient.rpartition("@")
    if not at or not there_at:
        return sender
    local = f"{_unquoted(user)}-{_unquoted(name)}={there}"
    if not _DOT_STRING.fullmatch(local):
        quoted = _TO_QUOTE.sub(r"\\\1", local)
        local = f'"{quoted}"'
    return f"{local}@{here}"


def _unquoted(local: str) -> str:
    return _QUOTED_PAIR.sub(r"\1", local[1:-1]) if len(local) >= 2 and local[0] == local[-1] == '"' else local
