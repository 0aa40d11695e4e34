"""Where mail lies until it is settled; the only user of lmdb.  Imports config and mail.

Workers use `SpoolLink` (operations), `SegmentWriter` (bodies) and `SpoolReader`; the spool process is `engine.spool.worker`.  Names load when they
are first used: the spool process needs no asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.spool.format import BodyCorrupt as BodyCorrupt
    from engine.spool.format import BodyMissing as BodyMissing
    from engine.spool.format import claim as claim
    from engine.spool.link import SpoolLink as SpoolLink
    from engine.spool.reader import SpoolReader as SpoolReader
    from engine.spool.segments import LargeBody as LargeBody
    from engine.spool.segments import SegmentWriter as SegmentWriter

_HOME = {
    "BodyCorrupt": "format",
    "BodyMissing": "format",
    "LargeBody": "segments",
    "SegmentWriter": "segments",
    "SpoolLink": "link",
    "SpoolReader": "reader",
    "claim": "format",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
