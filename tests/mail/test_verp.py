"""Sender addresses that name the recipient."""

from __future__ import annotations

import pytest

from engine.mail.verp import sender_for
from engine.smtp.grammar import Path, read_path


@pytest.mark.parametrize(
    ("sender", "recipient", "made"),
    [
        ("u@d.example", "x@y.example", "u-x=y.example@d.example"),
        ("news+list@d.example", "o'brien.j@y.example", "news+list-o'brien.j=y.example@d.example"),
        ('"a b"@d.example', "x@y.example", '"a b-x=y.example"@d.example'),
        ("u@d.example", '"x\\"y\\\\z"@y.example', '"u-x\\"y\\\\z=y.example"@d.example'),
        ("u@d.example", '"plain"@y.example', "u-plain=y.example@d.example"),
        ("u@d.example", "x@[192.0.2.1]", '"u-x=[192.0.2.1]"@d.example'),
        ("u@d.example", "x=z-w@y.example", "u-x=z-w=y.example@d.example"),
        ("", "x@y.example", ""),
        ("u@d.example", "postmaster", "u@d.example"),
    ],
)
def test_the_address_names_the_recipient_and_is_one(sender: str, recipient: str, made: str) -> None:
    assert sender_for(sender, recipient) == made
    if made:
        assert read_path(f"FROM:<{made}>".encode(), b"FROM:") == Path(made.encode(), b"")


def test_outside_ascii() -> None:
    assert sender_for("u@d.example", "jürgen@y.example") == "u-jürgen=y.example@d.example"
