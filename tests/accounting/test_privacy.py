"""privacy-policy: what a record shows of its recipient."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
import pytest

from engine.accounting.layout import Layout
from engine.accounting.privacy import Mask, siphash
from engine.config import build, from_text
from engine.config.privacy import Masking
from engine.mail.record import RecipientRecord
from tests.accounting.test_layout import recipient

KEY = bytes(range(16))


def masked(policy: str, **changes: Any) -> RecipientRecord:
    """What a file with this privacy-policy is told of a record."""
    loaded = build(from_text(f"log-file /l\n<acct-file /a.csv>\nprivacy-policy {policy}\n</acct-file>\n"))
    assert loaded.config is not None, loaded.problems
    return Mask(loaded.config.acct_files[0].privacy_policy).record(msgspec.structs.replace(recipient(), **changes))


@pytest.mark.parametrize(
    ("rcpt", "diag", "shown"),
    [
        ("joe@b.example", "smtp;550 <joe@b.example> unknown", "smtp;550 <X@b.example> unknown"),
        ("joe@b.example", "smtp;550 JOE@B.example unknown, Joe", "smtp;550 X@B.example unknown, X"),
        ("joe@b.example", "smtp;550 joel@b.example mojoe", "smtp;550 joel@b.example mojoe"),
        ("j.o+e@b.example", "smtp;550 (j.o+e) jxo+e", "smtp;550 (X) jxo+e"),
        ('"j e"@b.example', 'smtp;550 "j e"@b.example or j e', "smtp;550 X@b.example or X"),
        ("nobody", "smtp;550 nobody", "smtp;550 X"),
    ],
)
def test_redaction(rcpt: str, diag: str, shown: str) -> None:
    record = masked("redact X", rcpt=rcpt, dsn_diag=diag, orcpt="", orig="joe@a.example")
    assert (record.rcpt, record.dsn_diag, record.orig) == ("X" + rcpt[rcpt.find("@") :] if "@" in rcpt else "X", shown, "joe@a.example")


def test_the_original_recipient_and_a_sender_made_by_verp() -> None:
    said: dict[str, Any] = {"orcpt": "rfc822;Jane.Doe@c.example", "orig": "news-joe=b.example@a.example", "dsn_diag": "smtp;550 jane.doe is joe"}
    record = masked("redact", rcpt="joe@b.example", **said)
    assert record.orcpt == "rfc822;redacted@c.example" and record.orig == "news-redacted=b.example@a.example"
    assert record.dsn_diag == "smtp;550 redacted is redacted"
    assert masked("redact", rcpt="joe@b.example", orcpt="x400;all of it").orcpt == "x400;redacted"


def test_keyed_hashes_tell_recipients_apart_and_nothing_else() -> None:
    digest = hmac.digest(b"sesame", b"joe", hashlib.sha256).hex()
    for policy in ("hmac-sha256 sesame", f"HMAC-SHA256-hexkey {b'sesame'.hex()}"):
        assert masked(policy, rcpt="joe@b.example", dsn_diag="smtp;joe").rcpt == f"{digest}@b.example"
    for policy in ("siphash 0123456789abcdef", f"siphash-hexkey {b'0123456789abcdef'.hex()}"):
        assert masked(policy, rcpt="joe@b.example").rcpt == f"{siphash(b'0123456789abcdef', b'joe').hex()}@b.example"


@pytest.mark.parametrize(("size", "word"), [(15, 0xA129CA6149BE45E5), (0, 0x726FDB47DD0E0E31), (8, 0x93F5F5799A932462)])
def test_siphash_is_that_of_its_authors(size: int, word: int) -> None:
    assert siphash(KEY, bytes(range(size))) == word.to_bytes(8, "little")


@pytest.mark.parametrize(
    "wrong",
    ["hide", "siphash", "siphash short", "siphash-hexkey zz", "hmac-sha256", "hmac-sha256-hexkey xy", "retain key", "redact a b"],
)
def test_a_policy_without_its_key_stops_the_start(wrong: str) -> None:
    loaded = build(from_text(f"log-file /l\n<acct-file /a.csv>\nprivacy-policy {wrong}\n</acct-file>\n"))
    assert loaded.config is None


def test_a_file_shows_what_its_own_policy_lets_it() -> None:
    one, other = Layout(("d",), {"d": ("rcpt",)}, mask=Mask(Masking("redact", b"X"))), Layout(("d",), {"d": ("rcpt",)})
    record = msgspec.structs.replace(recipient(), rcpt="joe@b.example")
    assert (one.line(record), other.line(record)) == (b"d,X@b.example\r\n", b"d,joe@b.example\r\n")
