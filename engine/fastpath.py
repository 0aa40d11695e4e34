"""The loops over bytes that everybody imports: compiled where they are built, otherwise (or with ENGINE_FASTPATH=off) their plain twins.

`COMPILED` says which.  What each function means is said in `_reference.py`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine import _reference as _chosen

    COMPILED: bool
else:
    _chosen = None
    if os.environ.get("ENGINE_FASTPATH") != "off":
        try:
            from engine import _fastpath as _chosen
        except ImportError:
            _chosen = None
    COMPILED = _chosen is not None
    if not COMPILED:
        from engine import _reference as _chosen

NEED_DATA = _chosen.NEED_DATA
BARE_EOL = _chosen.BARE_EOL
MALFORMED = _chosen.MALFORMED
BODY_START = _chosen.BODY_START
BODY_LINE = _chosen.BODY_LINE
BODY_CR = _chosen.BODY_CR
BODY_DOT = _chosen.BODY_DOT
BODY_DOT_CR = _chosen.BODY_DOT_CR
BODY_LENIENT = _chosen.BODY_LENIENT
scan_body = _chosen.scan_body
stuff = _chosen.stuff
unstuff = _chosen.unstuff
has_8bit = _chosen.has_8bit
find_fields = _chosen.find_fields
parse_path = _chosen.parse_path
read_command = _chosen.read_command
scan_reply = _chosen.scan_reply
shared_add = _chosen.shared_add

__all__ = [
    "BARE_EOL", "BODY_CR", "BODY_DOT", "BODY_DOT_CR", "BODY_LENIENT", "BODY_LINE", "BODY_START", "COMPILED", "MALFORMED", "NEED_DATA",
    "find_fields", "has_8bit", "parse_path", "read_command", "scan_body", "scan_reply", "shared_add", "stuff", "unstuff",
]  # fmt: skip
