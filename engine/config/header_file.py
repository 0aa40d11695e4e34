"""Files of header fields (include-headers-from): what may stand in one, and its wire form."""

from __future__ import annotations

import re

MAX_LINE_BYTES = 998  # RFC 5322 §2.1.1

# ftext of RFC 5322 §3.6.8, but no dot first: a line that begins with one would have to be stuffed
_FIELD = re.compile(rb"[!-\-/-9;-~][!-9;-~]*:[\t -~]*")
_FOLD = re.compile(rb"[ \t]+[!-~][\t -~]*")


def wire_form(data: bytes) -> bytes:
    """The header fields in *data*, each line ended by CRLF; b"" for an empty file.  ValueError: it holds something else."""
    lines = [line.rstrip(b"\r") for line in data.rstrip().split(b"\n")] if data.strip() else []
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
        if not (_FIELD.fullmatch(line) or (number > 1 and _FOLD.fullmatch(line))):
            raise ValueError(f"line {number} is neither a header field in ASCII nor the continuation of one")
    return b"".join(line + b"\r\n" for line in lines)
