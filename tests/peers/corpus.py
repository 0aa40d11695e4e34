"""The messages that must come through untouched, and how to say where they did not."""

from __future__ import annotations

import re

from tests.sinks import Message

_HEADER = (
    b"From: <from@client.example>\r\nTo: <to@d0.example>\r\nSubject: %s\r\nMessage-ID: <%s@client.example>\r\n"
    b"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n"
)
_ADDED = re.compile(rb"(?:(?:Received|Return-Path|X-[A-Za-z-]+|Delivered-To):[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*)*")


def _message(name: bytes, body: bytes) -> bytes:
    return _HEADER % (name, name) + body


def large(size_bytes: int = 30 * 1024 * 1024) -> bytes:
    """A message of that size, in lines of 76."""
    line = bytes(range(0x21, 0x21 + 76)) + b"\r\n"
    return _message(b"large", line * (size_bytes // len(line)))


CORPUS = {
    "plain": _message(b"plain", b"Hello.\r\n\r\nA second paragraph.\r\n"),
    "dots": _message(b"dots", b".\r\n..\r\n...\r\n.leading\r\n..twice\r\ntrailing.\r\n" + b".\r\n" * 500 + b"end\r\n"),
    "dot-last": _message(b"dot-last", b"text\r\n.\r\n"),
    "eight-bit": _message(b"eight-bit", "Grüße, 日本, кириллица\r\n".encode() + bytes(range(0x80, 0x100)) + b"\r\n"),
    "long-lines": _message(b"long-lines", (b"0123456789" * 500 + b"\r\n") * 5 + b"short\r\n"),
    "empty": _message(b"empty", b""),
    "blank-lines": _message(b"blank-lines", b"\r\n\r\nafter\r\n\r\n\r\n"),
}
"""name -> message with CRLF line ends; each ends with one."""


def assert_untouched(received: bytes, sent: bytes) -> None:
    """*received* is *sent* with nothing but header fields of the kinds that a relay adds in front."""
    prefix = received[: len(received) - len(sent)]
    if received.endswith(sent) and _ADDED.fullmatch(prefix) and b"Received:" in prefix:
        return
    where = next(
        (number for number, (one, other) in enumerate(zip(received[::-1], sent[::-1], strict=False)) if one != other), min(len(received), len(sent))
    )
    raise AssertionError(
        f"changed on its way: {len(sent)} bytes sent, {len(received)} received; counted from the end, byte {where} is the first to differ\n"
        f"sent      ...{sent[-where - 1 :][:60]!r}\nreceived  ...{received[-where - 1 :][:60]!r}\nadded     {prefix[:400]!r}"
    )


def assert_all_untouched(messages: list[Message], sent: bytes, recipients: list[str]) -> None:
    """Every recipient got *sent* exactly once, over all *messages*."""
    assert sorted(address for message in messages for address in message.recipients) == sorted(recipients)
    for message in messages:
        assert_untouched(message.content, sent)


def recipients_in_domains(count: int = 20, domains: int = 3) -> list[str]:
    """u0@d0.example, u1@d1.example, ..."""
    return [f"u{number}@d{number % domains}.example" for number in range(count)]
