"""Mends what a scan (`engine.spool.check`) found, as far as that costs no mail: what can be counted again is, what nobody names is removed.

Mended: counts of recipients, of messages and their bytes; which queues a message names; names and numbers of queues that one of the two tables
lost; segments that no row knows or that can never go; a recipient that waits twice; numbers that were given already; files that no row names.
Left as it is, queued, for a person to judge: a body that is damaged or gone (delivery puts its message aside, hour by hour, and never bounces it), a
message whose recipients are gone, a recipient whose message is gone, a malformed row, records that are missing.  While there is a recipient without
its message, or a row that does not say where its body lies, no file is removed: the body may lie there.  With a damaged page in the index nothing is
touched.
"""

from __future__ import annotations

from pathlib import Path

import lmdb

from engine.errors import SpoolError
from engine.mail.envelope import DUE_KEY
from engine.mail.message_id import PACKED_SIZE, text
from engine.spool import format
from engine.spool.changes import Ledger, Segment
from engine.spool.check import check, parse_message, queue_numbers
from engine.spool.offline import Offline, opened

ADVICE = "move it away whole and start with an empty one or a backup: its bodies/ still hold the mail"
_HEAD = format.MESSAGE_HEAD


def repair(root: Path) -> list[str]:
    """What was mended in the spool in *root*, whose lock the caller holds: one line each.  SpoolError, StartError: nothing was."""
    for problem in check(root, bodies=False):
        if problem.kind in ("spool", "index"):
            raise SpoolError(f"spool {root} cannot be repaired, and nothing was touched: {problem}; {ADVICE}")
    with opened(root) as spool:
        try:
            epochs = spool.close_epochs()
            with spool.env.begin(write=True) as txn:
                mending = Mending(spool, txn)
                mending.numbers()
                mending.queues()
                mending.messages()
                mending.segments()
            with spool.env.begin() as txn:
                spool.ledger = Ledger(txn, spool.tables)  # other numbers come next
            orphans = spool.remove_orphans() if mending.files_known else 0
        except (lmdb.Error, OSError) as error:
            raise SpoolError(f"spool {root} cannot be repaired: {error}; no mail was touched; {ADVICE}") from error
    closed = [f"{epochs} epochs closed: their workers are gone"] if epochs else []
    return closed + mending.done + ([f"{orphans} files that no row names removed"] if orphans else [])


class Mending:
    """One write transaction, table by table in the order of `repair`."""

    def __init__(self, spool: Offline, txn: lmdb.Transaction[bytes]) -> None:
        self.done: list[str] = []
        self.files_known = True  # every file that somebody may need is named by a message
        self._files = spool.files
        self._tables = spool.tables
        self._ledger = spool.ledger
        self._txn = txn
        self._live: dict[Segment, tuple[int, int]] = {}  # messages and bytes, as `message` says

    def numbers(self) -> None:
        """The next epoch and the next queue were never given."""
        epochs = [segment[0] for segment, _ in self._files.names()]
        epochs += [_HEAD.unpack_from(value)[1] for _, value in self._txn.cursor(self._tables.message) if len(value) >= _HEAD.size]
        numbers = [int.from_bytes(key, "big") for key, _ in self._txn.cursor(self._tables.queue_name)]
        numbers += [int.from_bytes(value, "big") for _, value in self._txn.cursor(self._tables.queue)]
        for key, found, given in (
            (format.NEXT_EPOCH, self._ledger.next_epoch, max(epochs, default=0)),
            (format.NEXT_QUEUE, self._ledger.next_queue, max(numbers, default=0)),
        ):
            if found <= given:
                self._txn.put(key, format.U32.pack(given + 1), db=self._tables.state)
                self.done.append(f"{key.decode()}: {found} was given already, {given + 1} is next")

    def queues(self) -> None:
        """A pair that one table has is put into the other, unless that says otherwise."""
        for source, target in ((self._tables.queue, self._tables.queue_name), (self._tables.queue_name, self._tables.queue)):
            for key, value in list(self._txn.cursor(source)):
                if self._txn.get(value, db=target) is None:
                    self._txn.put(value, key, db=target)
                    name, number = (key, value) if target is self._tables.queue_name else (value, key)
                    self.done.append(f"queue {name!r} and its number {int.from_bytes(number, 'big')} know each other again")

    def messages(self) -> None:
        """Each counts the recipients that wait, and names their queues."""
        waiting: dict[bytes, int] = {}  # bits of the recipients
        unnamed: dict[bytes, set[bytes]] = {}
        twice: list[bytes] = []
        for key, _ in self._txn.cursor(self._tables.due):
            if len(key) != DUE_KEY.size:
                continue
            number, identity, bit = key[:4], key[13:25], 1 << int.from_bytes(key[25:], "big")
            if waiting.get(identity, 0) & bit:
                twice.append(key)
                continue
            waiting[identity] = waiting.get(identity, 0) | bit
            row = self._txn.get(identity, db=self._tables.message)
            if row is None:
                self.files_known = False
            elif parse_message(row) is not None and number not in queue_numbers(row):
                unnamed.setdefault(identity, set()).add(number)
        for key in twice:
            self._txn.delete(key, db=self._tables.due)
            self.done.append(f"recipient {key.hex()}: waited twice")
        mended: list[tuple[bytes, bytes]] = []
        for identity, value in self._txn.cursor(self._tables.message):
            message = parse_message(value)
            if message is None or len(identity) != PACKED_SIZE:
                self.files_known = False
                continue
            place = message.body.epoch, message.body.segment
            messages, live = self._live.get(place, (0, 0))
            self._live[place] = messages + 1, live + message.body.size_bytes
            old, numbers = _HEAD.unpack_from(value), sorted({*queue_numbers(value), *unnamed.get(identity, ())})
            waits = waiting[identity].bit_count() if identity in waiting else old[0]
            new = (waits, *place, message.body.size_bytes, len(numbers))
            if new != old:
                mended.append((identity, b"".join((_HEAD.pack(*new), *numbers, value[_HEAD.size + 4 * old[4] :]))))
                self.done.append(f"message {text(identity)}: {_said(new)}, not {_said(old)}")
        self._txn.cursor(self._tables.message).putmulti(mended)

    def segments(self) -> None:
        """Each counts what lies in it, and is sealed: nobody writes any more."""
        table = self._tables.segment
        rows = dict(self._txn.cursor(table))
        wanted = {format.SEGMENT_KEY.pack(*segment): format.SEGMENT_ROW.pack(*counted, 1) for segment, counted in self._live.items()}
        for key in sorted(rows.keys() | wanted.keys()):
            if rows.get(key) == wanted.get(key):
                continue
            name = format.segment_name(*format.SEGMENT_KEY.unpack(key)) if len(key) == format.SEGMENT_KEY.size else key.hex()
            if key in wanted:
                self._txn.put(key, wanted[key], db=table)
                messages, live, _ = format.SEGMENT_ROW.unpack(wanted[key])
                self.done.append(f"segment {name}: holds {messages} messages of {live} bytes, and is sealed")
            elif self.files_known:
                self._txn.delete(key, db=table)
                self.done.append(f"segment {name}: holds nothing")


def _said(head: tuple[int, ...]) -> str:
    opened, epoch, segment, size, queues = head
    return f"{opened} recipients in {queues} queues and {size} bytes in {format.segment_name(epoch, segment)}"
