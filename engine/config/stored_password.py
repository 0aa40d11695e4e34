"""What may stand for a password in a configuration: itself, or an Argon2id string as `engine hash-password` makes them.  Pure."""

from __future__ import annotations

import re

MAX_MEMORY_KB = 1 << 18  # of one verification: 256 MB
MAX_WORK_KB = 1 << 20  # memory times iterations: seconds
_ARGON2ID = re.compile(r"\$argon2id\$v=19\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,3})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})")


def is_hash(stored: str) -> bool:
    """Whether *stored* is the Argon2id string of a password, not the password."""
    return stored.startswith("$argon2")


def cost_kb(stored: str) -> int:
    """How much work the verification of the Argon2id string *stored* is: memory in KB times iterations."""
    found = _ARGON2ID.fullmatch(stored)
    return int(found[1]) * int(found[2]) if found else 0


def fault(stored: str) -> str:
    """Why *stored* can be nobody's password; "" if it can."""
    if not stored:
        return "the password is empty"
    if not is_hash(stored):
        return "" if len(stored.encode()) <= 1024 else "the password is longer than 1024 bytes"
    found = _ARGON2ID.fullmatch(stored)
    if found is None:
        return "this is no Argon2id string ($argon2id$v=19$m=..,t=..,p=..$salt$hash): make one with `engine hash-password`"
    memory, iterations, lanes = int(found[1]), int(found[2]), int(found[3])
    if not (1 <= lanes <= 16 and 8 * lanes <= memory <= MAX_MEMORY_KB and iterations >= 1 and memory * iterations <= MAX_WORK_KB):
        return f"this Argon2id string asks for too much or too little work (m={memory}, t={iterations}, p={lanes})"
    return ""
