"""Ids in both their forms."""

from __future__ import annotations

from base64 import b32hexencode

import hypothesis.strategies as st
from hypothesis import example, given

from engine.mail import message_id


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, (1 << 48) - 1))
@example(0xFFFF, 0xFFFFFFFF, (1 << 48) - 1)
def test_text_is_base32hex_and_parses_to_what_was_packed(shard: int, epoch: int, counter: int) -> None:
    packed = message_id.pack(shard, epoch, counter)
    shown = message_id.text(packed)
    assert shown.encode() == b32hexencode(packed).lower().rstrip(b"=")
    assert message_id.parse(shown) == message_id.parse(shown.upper()) == packed
    assert message_id.unpack(packed) == (shard, epoch, counter)
