"""What was sent and what was answered, and so what the tables may say: each message and recipient followed by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from engine.mail.envelope import DUE_KEY, Message
from engine.spool import format, wire
from engine.spool.ops import Accept, Exported, Operation, Settle, Settlement

Tables = dict[str, dict[bytes, bytes]]
Recipient = bytes  # message id and recipient number: the end of its key
_message = msgspec.msgpack.Decoder(Message).decode


SECOND = msgspec.msgpack.encode(["second"])  # a mark: whoever was before is dead, and nobody resumes


class Sent(NamedTuple):
    """One operation of a worker's stream."""

    epoch: int
    number: int
    operation: Operation


class Fate(NamedTuple):
    """What may be true of a recipient."""

    waits: bool
    again_ms: int  # 0: any
    records: frozenset[bytes]


class History:
    """The marks of a record up to some point."""

    def __init__(self) -> None:
        self.marks = 0
        self._sent: dict[tuple[int, int], Sent] = {}
        self._answered: dict[int, int] = {}  # epoch -> number
        self._refused: set[tuple[int, int]] = set()
        self._kept: set[tuple[int, int]] = set()  # not answered, and there after a power cut
        self._exporting: set[bytes] = set()  # records that accounting has in its files, or is about to
        self._accepts: dict[bytes, tuple[Sent, Accept, Message, Recipient | None]] = {}  # the last: for a notice, one whose settle it came with
        self._outcomes: dict[Recipient, list[tuple[Sent, Settlement]]] = {}
        self._exports: list[tuple[Sent, Exported]] = []
        self._records: dict[bytes, Sent] = {}  # that come with their operation, whatever becomes of its rows

    def feed(self, mark: bytes) -> None:
        """One more mark."""
        self.marks += 1
        kind, *values = msgspec.msgpack.decode(mark)
        if kind == "welcome":
            self._answered.setdefault(values[0], 0)
        elif kind == "answered":
            epoch, upto, refused = values
            self._answered[epoch] = max(upto, self._answered[epoch])
            self._refused |= {(epoch, number) for number in refused}
        elif kind == "exporting":
            self._exporting |= set(values[0])
        else:
            self._send(Sent(values[0], values[1], wire.decode_operation(values[2])))

    def _send(self, sent: Sent) -> None:
        operation = sent.operation
        self._sent[sent[:2]] = sent
        if isinstance(operation, Accept):
            self._expect(sent, operation, None)
        elif isinstance(operation, Exported):
            self._exports.append((sent, operation))
        elif isinstance(operation, Settle):
            for row in operation.rows:
                self._outcomes.setdefault(row.key[13:], []).append((sent, row))
            self._records |= dict.fromkeys(operation.records, sent)
            if operation.accept is not None:
                self._expect(sent, operation.accept, operation.rows[0].key[13:])

    def _expect(self, sent: Sent, accept: Accept, cause: Recipient | None) -> None:
        self._accepts[accept.id] = sent, accept, _message(accept.message), cause
        self._records |= dict.fromkeys(accept.records, sent)

    def _must(self, sent: Sent) -> bool:
        """Whether it was answered, and not refused."""
        return (sent.number <= self._answered[sent.epoch] or sent[:2] in self._kept) and sent[:2] not in self._refused

    def _may(self, sent: Sent) -> bool:
        return sent[:2] not in self._refused

    def decide(self, tables: Tables) -> None:
        """A power cut left *tables*: what was under way is there for good, or never will be."""
        applied: set[tuple[int, int]] = set()
        found = list(self.problems(tables, applied))
        assert not found, found
        for key, sent in self._sent.items():
            if not self._must(sent):
                (self._kept if key in applied else self._refused).add(key)

    # --- against the tables ------------------------------------------------------------------------------------------------------------

    def problems(self, tables: Tables, applied: set[tuple[int, int]] | None = None) -> Iterator[str]:
        """What the tables say that cannot be, or lack.  *applied* gets the operations of which something is seen."""
        applied = set() if applied is None else applied
        waiting: dict[bytes, dict[Recipient, int]] = {}  # message -> recipient -> due time
        for key in tables["due"]:
            _, _, due_ms, identity, _ = DUE_KEY.unpack(key)
            waiting.setdefault(identity, {})[key[13:]] = due_ms
        records = Counter(tables["outbox"].values())
        for identity in (waiting.keys() | tables["message"].keys()) - self._accepts.keys():
            yield f"message {identity.hex()} was never sent"
        for identity, (sent, accept, message, cause) in self._accepts.items():
            yield from self._message_problems(sent, accept, message, waiting.get(identity, {}), tables["message"].get(identity), applied, cause)
        for recipient, outcomes in self._outcomes.items():
            yield from self._recipient_problems(recipient, outcomes, waiting.get(recipient[:12], {}).get(recipient), records, applied)
        for record, sent in self._records.items():
            if self._must(sent) and not records[record] and record not in self._exporting:
                yield f"{record!r} of an answered operation is not in the outbox"
        known = self._records.keys() | {row.record for outcomes in self._outcomes.values() for _, row in outcomes}
        for record, count in records.items():
            if count > 1 or record not in known:
                yield f"{record!r} is {count} times in the outbox"
        yield from self._state_problems(tables["state"], applied)

    def _message_problems(
        self, sent: Sent, accept: Accept, message: Message, waiting: dict[Recipient, int], row: bytes | None, applied: set[tuple[int, int]],
        cause: Recipient | None,
    ) -> Iterator[str]:  # fmt: skip
        """An accept is there as a whole or not at all."""
        name = accept.id.hex()
        recipients = {accept.id + format.U32.pack(index) for index in range(len(accept.recipients))}
        settled = {recipient for recipient in recipients if self._may_be_settled(recipient)}
        if not self._may(sent) and (row is not None or waiting):
            yield f"message {name} is there, and was refused"
        if not waiting.keys() <= recipients:
            yield f"message {name} has recipients that it never had"
        if self._must(sent) and not recipients - settled <= waiting.keys():
            yield f"message {name} was accepted, and lacks {len(recipients - settled - waiting.keys())} of {len(recipients)} recipients"
        if (row is not None) != bool(waiting):
            yield f"message {name} has a row: {row is not None}, and {len(waiting)} recipients that wait"
        if not self._must(sent) and waiting and waiting.keys() != recipients:
            yield f"message {name} is there in part"
        if waiting:
            applied.add(sent[:2])
        if row is not None:
            found = _message(memoryview(row)[format.MESSAGE_HEAD.size + 4 * int(format.MESSAGE_HEAD.unpack_from(row)[4]) :])
            if msgspec.structs.replace(found, body=message.body) != message or (found.body.checksum, found.body.size_bytes) != (
                message.body.checksum,
                message.body.size_bytes,
            ):
                yield f"message {name} is not what was sent"

    def _may_be_settled(self, recipient: Recipient) -> bool:
        return any(not row.again_ms for sent, row in self._outcomes.get(recipient, []) if self._may(sent))

    def _recipient_problems(
        self, recipient: Recipient, outcomes: list[tuple[Sent, Settlement]], due_ms: int | None, records: Counter[bytes],
        applied: set[tuple[int, int]],
    ) -> Iterator[str]:  # fmt: skip
        """A recipient is as its last outcome says, or as the one before if that was not answered; the records say the same."""
        there = frozenset(row.record for _, row in outcomes if records[row.record] or row.record in self._exporting)
        answered = [row for sent, row in outcomes if self._must(sent)]
        fates = [self._fate(answered), self._fate([row for sent, row in outcomes if self._may(sent)])]
        for fate in fates:
            if fate.waits == (due_ms is not None) and fate.again_ms in (0, due_ms) and fate.records == there:
                applied |= {sent[:2] for sent, row in outcomes if row.record in there}
                return
        yield f"recipient {recipient.hex()} waits until {due_ms} with records {sorted(there)}; it may be {fates}"

    @staticmethod
    def _fate(outcomes: list[Settlement]) -> Fate:
        if not outcomes:
            return Fate(True, 0, frozenset())
        return Fate(outcomes[-1].again_ms > 0, outcomes[-1].again_ms, frozenset(row.record for row in outcomes))

    def _state_problems(self, state: dict[bytes, bytes], applied: set[tuple[int, int]]) -> Iterator[str]:
        """Epochs are not given twice, their numbers say what was applied, and accounting's positions are kept."""
        next_epoch = int.from_bytes(state.get(format.NEXT_EPOCH, b"\1"), "big")
        for epoch, answered in self._answered.items():
            if epoch >= next_epoch:
                yield f"epoch {epoch} would be given again"
            row = state.get(format.EPOCH_PREFIX + format.U32.pack(epoch))
            last = format.EPOCH_ROW.unpack_from(row)[0] if row is not None else None
            seen = max((number for of, number in applied if of == epoch), default=0)
            if last is not None and last < max(answered, seen):
                yield f"epoch {epoch} says that {last} was its last operation: {answered} was answered, {seen} is applied"
        exported = int.from_bytes(state.get(format.EXPORTED, b""), "big")
        upto = max((export.upto for sent, export in self._exports if self._must(sent)), default=0)
        if exported < upto:
            yield f"records up to {upto} were exported, the table says {exported}"
        for name, position in state.items():
            if name.startswith(format.POSITION_PREFIX) and int(position) != exported:
                yield f"accounting's position is {position!r}, and {exported} is exported"
