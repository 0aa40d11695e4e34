"""privacy-policy: the local parts of recipients, wherever a record shows them, as a word or a keyed hash.  Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache

import msgspec

from engine.config.privacy import Masking
from engine.mail.record import RecipientRecord

_WORD = 0xFFFF_FFFF_FFFF_FFFF
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class Mask:
    """What *policy* makes of records."""

    def __init__(self, policy: Masking) -> None:
        self._policy = policy
        self._of = lru_cache(maxsize=8192)(self._made)

    def record(self, record: RecipientRecord) -> RecipientRecord:
        """*record* without a local part of its recipient: not in rcpt, orcpt, the reply, or a sender made by VERP."""
        local, at, domain = record.rcpt.rpartition("@")
        if not at:
            local, domain = record.rcpt, ""
        kind, semicolon, original = record.orcpt.partition(";")
        first, original_at, original_domain = original.rpartition("@")
        if not original_at:
            first, original_domain = original, ""
        diag, orig = record.dsn_diag, record.orig
        for each in sorted({*_forms(local), *_forms(first)}, key=len, reverse=True):
            hidden = self._of(each)
            diag = _hide(each, "", hidden, diag)
            if domain:
                orig = _hide(each, f"(?=={re.escape(domain)})", hidden, orig)
        given = f"{kind}{semicolon}{self._of(first)}{original_at}{original_domain}" if semicolon else record.orcpt and self._of(record.orcpt)
        return msgspec.structs.replace(
            record,
            rcpt=f"{self._of(local)}{at}{domain}",
            orcpt=given,
            dsn_diag=diag,
            orig=orig,
        )

    def _made(self, text: str) -> str:
        method, key = self._policy
        if method == "redact":
            return key.decode()
        data = text.encode("utf-8", "surrogateescape")
        return hmac.digest(key, data, hashlib.sha256).hex() if method == "hmac-sha256" else siphash(key, data).hex()


def siphash(key: bytes, data: bytes) -> bytes:
    """The eight bytes of SipHash-2-4 of *data* under the 16 bytes of *key* (Aumasson and Bernstein, 2012)."""
    first, second = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    state = [first ^ 0x736F6D6570736575, second ^ 0x646F72616E646F6D, first ^ 0x6C7967656E657261, second ^ 0x7465646279746573]
    whole = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(whole), 8):
        word = int.from_bytes(whole[at : at + 8], "little")
        state[3] ^= word
        _rounds(state, 2)
        state[0] ^= word
    state[2] ^= 0xFF
    _rounds(state, 4)
    return (state[0] ^ state[1] ^ state[2] ^ state[3]).to_bytes(8, "little")


def _rounds(state: list[int], count: int) -> None:
    a, b, c, d = state
    for _ in range(count):
        a = (a + b) & _WORD
        b = _left(b, 13) ^ a
        a = _left(a, 32)
        c = (c + d) & _WORD
        d = _left(d, 16) ^ c
        a = (a + d) & _WORD
        d = _left(d, 21) ^ a
        c = (c + b) & _WORD
        b = _left(b, 17) ^ c
        c = _left(c, 32)
    state[:] = a, b, c, d


def _left(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & _WORD


def _forms(local: str) -> set[str]:
    """How a local part may stand in a reply: as it is, and without its quotes."""
    plain = _QUOTED_PAIR.sub(r"\1", local[1:-1]) if len(local) > 2 and local[0] == local[-1] == '"' else local
    return {each for each in (local, plain) if each}


def _hide(local: str, behind: str, hidden: str, text: str) -> str:
    """*text* with *hidden* in place of *local* wherever it stands as a word of its own, in any case of letters, and *behind* (a pattern) follows."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(local)}(?![A-Za-z0-9]){behind}", lambda _: hidden, text, flags=re.IGNORECASE)
