"""What both kinds of mover do: make a message of another spool into mail of ours, and have it stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import msgspec

from engine.errors import SpoolError
from engine.mail.envelope import Body
from engine.spool import format
from engine.spool.link import SpoolLink
from engine.spool.ops import Accept, Move, NewRecipient
from engine.spool.reader import SpoolReader
from engine.spool.segments import SegmentWriter

_encode = msgspec.msgpack.Encoder().encode


class Copier:
    """Makes what lies in the spool behind *reader* into mail of ours, whose bodies *writer* writes."""

    def __init__(self, reader: SpoolReader, link: SpoolLink, writer: SegmentWriter) -> None:
        self._reader = reader
        self._link = link
        self._writer = writer

    def accept(self, identity: bytes, rows: Sequence[tuple[bytes, bytes]]) -> Accept:
        """Message *identity* with the recipients in *rows*, all of one queue, under an id of ours; Unreadable."""
        try:
            queue = self._reader.queue_name(format.U32.unpack(rows[0][0][:4])[0])
            message = self._reader.messages([identity])[identity]
        except (KeyError, UnicodeDecodeError, msgspec.DecodeError) as error:
            raise Unreadable(f"its row or its queue's is missing or damaged: {error!r}") from error
        new = self._link.new_id()
        try:
            body = self._copy(message.body, identity, new)
        except (format.BodyMissing, format.BodyCorrupt) as error:
            raise Unreadable(str(error)) from error
        recipients = [NewRecipient(queue, bytes(due), 255 - key[4]) for key, due in rows]
        encoded = _encode(msgspec.structs.replace(message, body=body))
        return Accept(new, encoded, body.epoch, body.segment, body.size_bytes, recipients)

    def _copy(self, body: Body, identity: bytes, new: bytes) -> Body:
        if body.size_bytes <= format.LARGE_BODY_BYTES:
            return self._writer.write(new, [self._reader.body(body, identity)])
        large = self._writer.begin_large(new)
        try:
            for chunk in self._reader.body_chunks(body, identity):
                large.write(chunk)
            return large.finish()
        except BaseException:
            large.abort()
            raise


class Unreadable(SpoolError):
    """A message that cannot be made into mail of ours."""


def by_message(rows: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """*rows*, in their order, in groups of one queue and message each."""
    for _, group in groupby(rows, key=lambda row: (row[0][:4], row[0][13:25])):
        yield list(group)


async def send(link: SpoolLink, moves: Iterable[Move], step_bytes: int) -> None:
    """Submit *moves* and wait until they are answered; SpoolError for the first that is refused: none behind it is applied then."""
    refused: list[str] = []
    size_bytes = 0
    try:
        for move in moves:
            link.submit(move, lambda reason: refused.append(reason) if reason is not None else None)
            size_bytes += move.accept.size_bytes if move.accept else 0
            if size_bytes >= step_bytes:
                await link.drain()
                size_bytes = 0
            if refused:
                break
    finally:  # a body that cannot be written does not undo what was sent before it
        await link.drain()
    if refused:
        raise SpoolError(refused[0])
