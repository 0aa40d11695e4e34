"""Delivery status notifications: no text of a peer or an author breaks out of its place."""

from __future__ import annotations

import email
import email.policy
import re
from typing import Any

from engine.bounce.classify import classify
from engine.bounce.dsn import Failure, report
from engine.fastpath import unstuff

FIELDS = b"To From Subject Date Message-ID Auto-Submitted X-PowerMTA-VirtualMTA MIME-Version Content-Type"
RECIPIENT_FIELDS = {"Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"}
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def dsn(data: bytes) -> object:
    """Texts between NULs: address, ORCPT, diagnostic, host, return path, envelope id, then the message, as its author wrote it."""
    texts = [piece.decode("utf-8", "surrogateescape") for piece in data.split(b"\0", 6)]
    address, orcpt, diag, mta, sender, env_id, original = (*texts, *[""] * (7 - len(texts)))
    full = original.startswith("F")
    content = _as_stored(original.encode("utf-8", "surrogateescape"))
    failure = Failure(address, orcpt, "5.0.0", diag, mta, "failed", 0)
    wire = report(
        host="mail.example.com", vmta="vmta1", return_path=sender, failures=(failure,), original_headers=content, original=[content], env_id=env_id,
        ret="FULL" if full else "HDRS", arrival_ms=1_700_000_000_000, now_ms=1_700_000_200_000, id_text="0123456789abcdefghij",
    )  # fmt: skip
    _check(wire, full)
    return wire, classify("5.0.0", diag)


def _as_stored(content: bytes) -> bytes:
    """*content* as reception lets it into the spool: whole CRLF lines, dots stuffed."""
    text = BARE.sub(b"", content)
    text = text if text.endswith(b"\r\n") or not text else text + b"\r\n"
    text = text.replace(b"\r\n.", b"\r\n..")
    return b"." + text if text.startswith(b".") else text


def _check(wire: bytes, full: bool) -> None:
    assert wire.endswith(b"--\r\n") and b"\r\n.\r\n" not in wire and BARE.search(wire) is None
    if not full:
        assert max(map(len, wire.split(b"\r\n"))) <= 998
    head = wire[: wire.index(b"\r\n\r\n")]
    assert b" ".join(line.split(b":")[0] for line in head.split(b"\r\n") if line[:1] not in b" \t") == FIELDS
    parts: Any = email.message_from_bytes(unstuff(wire), policy=email.policy.compat32).get_payload()
    returned = "message/rfc822" if full else "text/rfc822-headers"
    assert [part.get_content_type() for part in parts] == ["text/plain", "message/delivery-status", returned]
    _, recipient = parts[1].get_payload()
    assert set(recipient.keys()) <= RECIPIENT_FIELDS and recipient["Status"] == "5.0.0"
    assert parts[1].as_bytes().isascii()
