"""The transports that listener and delivery use: compiled where they are built, otherwise (or with ENGINE_FASTPATH=off) their plain twins.

What each name means is said in `_stream_reference.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.fastpath import COMPILED

if TYPE_CHECKING or not COMPILED:
    from engine._stream_reference import Stream, Streams
else:
    from engine._stream import Stream, Streams

__all__ = ["Stream", "Streams"]
