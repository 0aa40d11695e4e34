"""The definition of every fastpath function in plain Python: what `_fastpath.pyx` must do, and the oracle of its tests.

Made to be read, not to be fast; `ENGINE_FASTPATH=off` runs the engine on it.
"""

from __future__ import annotations

import re

Buffer = bytes | bytearray | memoryview

NEED_DATA = -1
BARE_EOL = -2
MALFORMED = -3

# States of scan_body that a caller looks at: they say how many bytes of what may be the final dot line are in its hands already.
BODY_START = 0
BODY_LINE = 1  # in the middle of a line
BODY_CR = 2  # behind a CR in it
BODY_DOT = 3  # a dot at a line start
BODY_DOT_CR = 4  # the same and a CR
BODY_LENIENT = 8  # flag: BARE_EOL was answered

_BLANKS = b" \t"


# What a state remembers: the end of what went before, as far as it matters (line start, in a line, CR, dot at a line start, the same and CR).
_BEFORE = (b"\r\n", b"", b"\r", b"\r\n.", b"\r\n.\r")
_TAILS = ((b"\r\n.\r", BODY_DOT_CR), (b"\r\n.", BODY_DOT), (b"\r\n", BODY_START), (b"\r", BODY_CR))
_STRICT_EVENT = re.compile(rb"\r\n\.\r\n|\r(?!\n|\Z)|(?<!\r)\n")


def scan_body(data: Buffer, start: int, state: int) -> tuple[int, int]:
    """(offset just past the message's final dot line, state), or NEED_DATA in place of the offset: go on with the next chunk in that state.

    The first chunk comes with BODY_START.  The end is CRLF . CRLF and nothing else (`. CRLF` at the very start of a body); RFC 5321 §4.1.1.4.
    BARE_EOL: a CR or LF that is no CRLF comes before it.  Then call again with the *same* data and start and the state returned: from there on bare
    ones are passed over, so that the true end is found and the message can be refused there.
    """
    before = _BEFORE[state & ~BODY_LENIENT]
    text = before + bytes(data[start:])
    if state & BODY_LENIENT:
        at = text.find(b"\r\n.\r\n")
    else:
        event = _STRICT_EVENT.search(text)
        if event is not None and event.end() - event.start() == 1:
            return BARE_EOL, state | BODY_LENIENT
        at = event.start() if event is not None else -1
    if at >= 0:
        return start + at + 5 - len(before), BODY_START
    for tail, then in _TAILS:
        if text.endswith(tail):
            return NEED_DATA, then | (state & BODY_LENIENT)
    return NEED_DATA, BODY_LINE | (state & BODY_LENIENT)


def stuff(data: Buffer) -> bytes:
    """*data*, whole CRLF lines, in wire form: a dot is put before every line that starts with one.  RFC 5321 §4.5.2."""
    text = bytes(data).replace(b"\r\n.", b"\r\n..")
    return b"." + text if text.startswith(b".") else text


def unstuff(data: Buffer) -> bytes:
    """The lines that *data* is the wire form of: the first character of every line that starts with a dot is dropped.  RFC 5321 §4.5.2."""
    text = bytes(data).replace(b"\r\n.", b"\r\n")
    return text[1:] if text.startswith(b".") else text


def has_8bit(data: Buffer) -> bool:
    """Whether any byte of *data* is over 127."""
    return not bytes(data).isascii()


def find_fields(data: Buffer, names: tuple[bytes, ...]) -> tuple[int, list[tuple[int, int, int]]]:
    """(end of the header section with its blank line, [(index in *names*, start, stop)] for each field of one of these names, in order).

    *names* are lower case.  A field reaches over its folded lines and the CRLF that ends it; blanks between its name and the colon do not
    hide it.  Where no blank line is, the header section is all of *data*.
    """
    text = bytes(data)
    found: list[tuple[int, int, int]] = []
    at = 0
    current = -1  # index of the wanted field that we are in
    begun = 0
    while at < len(text):
        crlf = text.find(b"\r\n", at)
        stop = len(text) if crlf < 0 else crlf + 2
        line = text[at:stop]
        if not line.startswith((b" ", b"\t")):
            if current >= 0:
                found.append((current, begun, at))
                current = -1
            if line == b"\r\n":
                return stop, found
            name, colon, _ = line.partition(b":")
            name = name.rstrip(_BLANKS).lower()
            if colon and name in names:
                current, begun = names.index(name), at
        at = stop
    if current >= 0:
        found.append((current, begun, len(text)))
    return len(text), found


_LINE_END = re.compile(rb"\r\n|\r(?!\Z)|\n")


def read_command(data: Buffer, start: int = 0) -> tuple[int, bytes, bytes]:
    """(offset just past the CRLF of the command line at *start*, its verb in upper case, its argument without the blanks around it).

    In place of the offset: NEED_DATA while there is no CRLF (a CR that is the last byte may become one); BARE_EOL if a CR or LF that is no CRLF
    comes before it.  RFC 5321 §2.3.8, §2.4.
    """
    found = _LINE_END.search(data, start)
    if found is None:
        return NEED_DATA, b"", b""
    if found.end() - found.start() < 2:
        return BARE_EOL, b"", b""
    verb, *rest = re.split(rb"[ \t]", bytes(data[start : found.start()]), maxsplit=1)
    return found.end(), verb.upper(), rest[0].strip(_BLANKS) if rest else b""


_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_COMMON_PATH = re.compile(rb"<((%b(?:\.%b)*)@(%b(?:\.%b)*))>(?:[ \t]+(.*))?" % (_ATOM, _ATOM, _LABEL, _LABEL), re.DOTALL)


def parse_path(argument: Buffer, keyword: bytes) -> tuple[bytes, bytes] | None:
    """(address, parameters) of an argument `FROM:<local@domain> parameters` in its common form, None for any other: the grammar decides then.

    *keyword* is `FROM:` or `TO:`, in upper case.  Common is a dot-string of at most 64 bytes at a domain name of at most 255.  RFC 5321 §4.1.2.
    """
    text = bytes(argument)
    if text[: len(keyword)].upper() != keyword:
        return None
    found = _COMMON_PATH.fullmatch(text, len(keyword))
    if found is None or len(found[2]) > 64 or len(found[3]) > 255:
        return None
    return found[1], (found[4] or b"").strip(_BLANKS)


_REPLY_PREFIX = re.compile(rb"(?:[2-5](?:[0-9](?:[0-9](?:[ -].*|\r?\n|\r)?)?)?)?", re.DOTALL)


def scan_reply(data: Buffer, start: int = 0) -> int:
    """Offset just past the whole reply at *start*, all its lines; NEED_DATA while it is not there; MALFORMED as soon as it cannot become one.

    A line is a code from 200 to 599, then `-` where more lines follow, a blank or nothing where none do; all lines have the same code
    (RFC 5321 §4.2.1).  A line may end in LF alone: replies cannot smuggle anything.
    """
    text = bytes(data)
    code = b""
    at = start
    while True:
        newline = text.find(b"\n", at)
        line = text[at:] if newline < 0 else text[at : newline + 1]
        if not _REPLY_PREFIX.fullmatch(line) or (line[: len(code)] != code[: len(line)]):
            return MALFORMED
        if newline < 0:
            return NEED_DATA
        if len(line) < 4:
            return MALFORMED
        if line[3:4] != b"-":
            return newline + 1
        code = line[:3]
        at = newline + 1


def shared_add(buffer: bytearray | memoryview, index: int, delta: int) -> int:
    """Add *delta* to the int32 at *index* of *buffer*, and return the sum of all its int32 after that.

    The compiled function is atomic among processes that share the buffer; this one only within a process, so limits that span processes
    are approximate when the engine runs on it.  IndexError, or BufferError if *buffer* is read-only.
    """
    with memoryview(buffer) as view, view.cast("B") as octets, octets[: len(octets) & ~3] as whole, whole.cast("i") as counters:
        if view.readonly:
            raise BufferError("shared_add needs a writable buffer")
        if not 0 <= index < len(counters):
            raise IndexError("no such counter")
        counters[index] += delta
        return sum(counters)
