"""The value of an acct-file's privacy-policy."""

from __future__ import annotations

from typing import NamedTuple

from engine.config.lexer import Arguments, ValueProblem
from engine.config.values import ValueType

_HASHES = ("siphash", "siphash-hexkey", "hmac-sha256", "hmac-sha256-hexkey")
_SIPHASH_KEY_BYTES = 16


class Masking(NamedTuple):
    """How recipients are shown."""

    method: str  # "retain", "redact", "siphash" or "hmac-sha256"
    key: bytes = b""  # of redact: the text that takes their place


def _parse(arguments: Arguments) -> Masking:
    start = arguments.position
    method = arguments.word().lower()
    if method not in ("retain", "redact", *_HASHES):
        raise ValueProblem("not a privacy policy", start)
    start = arguments.position
    text = "" if arguments.at_end or method == "retain" else arguments.word()
    if method not in _HASHES:
        return Masking(method, (text or "redacted").encode() if method == "redact" else b"")
    try:
        key = bytes.fromhex(text) if method.endswith("-hexkey") else text.encode()
    except ValueError:
        raise ValueProblem("its key is not hexadecimal", start) from None
    method = method.removesuffix("-hexkey")
    if not key or (method == "siphash" and len(key) != _SIPHASH_KEY_BYTES):
        raise ValueProblem(f"its key has not {_SIPHASH_KEY_BYTES} bytes" if method == "siphash" else "its key is missing", start)
    return Masking(method, key)


masking = ValueType("retain, redact [text], siphash key, siphash-hexkey key, hmac-sha256 key or hmac-sha256-hexkey key", _parse, secret=True)
