"""Header fields cut out of a message's wire form while it passes: remove-header when it is sent, secrets where it is logged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

SECRET_FIELDS = frozenset([b"x-dkim-key"])  # hold a private key: no log ever shows them
NAME_MAX_BYTES = 1000  # of a line, before its colon: longer is no field of anybody's


def without_fields(chunks: Iterable[bytes], names: Collection[bytes]) -> Iterator[bytes]:
    """*chunks*, a message cut anywhere, without the header fields of these lower-case *names*, folded lines included; all else as it is.

    What is held back is less than NAME_MAX_BYTES: the start of a line while its name may still be one of them.
    """
    pieces = iter(chunks)
    cutter = FieldCutter(names)
    for chunk in pieces:
        kept = cutter.feed(chunk)
        if kept:
            yield kept
        if cutter.done:
            yield from pieces
            return
    if cutter.held:
        yield cutter.held


class FieldCutter:
    """Reads a header section line by line; `done` after its empty line, and from then on everything is kept."""

    def __init__(self, names: Collection[bytes]) -> None:
        self._names = names
        self._cuts = False  # the field that we are in is unwanted
        self._inside = False  # a line has begun whose fate is known
        self.held = b""
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        """What is to be kept of *chunk* and of what was held."""
        if self.done:
            return chunk
        data = self.held + chunk
        self.held = b""
        kept: list[bytes] = []
        at, size = 0, len(data)
        while at < size:
            end = data.find(b"\n", at) + 1
            if not self._inside:
                if end and data[at:end] in (b"\r\n", b"\n"):
                    self.done = True
                    kept.append(data[at:])
                    break
                line = data[at : end or size]
                if not line.startswith((b" ", b"\t")):
                    name, colon, _ = line.partition(b":")
                    if not colon and not end and len(line) < NAME_MAX_BYTES:
                        self.held = line
                        break
                    self._cuts = bool(colon) and name.rstrip(b" \t").lower() in self._names
            if not self._cuts:
                kept.append(data[at : end or size])
            self._inside = not end
            at = end or size
        return b"".join(kept)
