"""What is true of every recipient, whatever the engine believes: told by the peers and by the model of the spool, checked as it happens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from engine.config.model import Config
from engine.mail.envelope import Due, Message
from engine.mail.message_id import text as id_text
from engine.mail.record import RecipientRecord, decode
from engine.scheduler.scheduler import EXPIRED
from engine.spool.ops import Settle, Settlement
from tests.simulation.loop import Clock, Process

if TYPE_CHECKING:
    from tests.simulation.network import Endpoint

STEP_MS = 60_000  # a step of the wall clock from which on nobody is bounced for age, for
CONFIRM_S = 900.0
_decode_due = msgspec.msgpack.Decoder(Due).decode
_RCPT = re.compile(rb"RCPT TO:<([^>]*)>")


@dataclass(eq=False)
class Delivery:
    """A peer took the message for a recipient; the engine knows once *offset* bytes of the peer's have reached it."""

    end: Endpoint  # the peer's side
    offset: float
    excused: bool = False  # what the engine had heard died with it, or was not stored

    @property
    def heard(self) -> bool:
        """The answer arrived."""
        return self.end.other.received >= self.offset


@dataclass(eq=False)
class Recipient:
    """One recipient of one message, from the commit that accepted it on."""

    address: str
    queue: str
    message: bytes
    due_ms: int
    deferred: bool = False  # at least once: no more new mail, which is due by its stamp whatever the clock says
    was_due: bool = False  # before the wall clock stepped
    ended: str = ""  # delivered or bounced, once that is committed
    attempts: int = 0
    refused: bool = False  # a peer said 5xx to it, or to its transaction
    deliveries: list[Delivery] = field(default_factory=list)

    @property
    def domain(self) -> str:
        """Of its queue."""
        return self.queue.rpartition("/")[0]

    @property
    def vmta(self) -> str:
        """Of its queue."""
        return self.queue.rpartition("/")[2]


class Ledger:
    """Everything that a world has to account for.  `fail` ends it."""

    def __init__(self, clock: Clock, config: Config) -> None:
        self.clock = clock
        self.config = config
        self.trace: list[str] = []
        self.failure = ""
        self.on_failure: Callable[[], None] = lambda: None
        self.recipients: dict[tuple[bytes, int], Recipient] = {}
        self.of_message: dict[bytes, dict[str, Recipient]] = {}
        self.contents: dict[bytes, bytes] = {}  # -> message id
        self.senders: dict[bytes, str] = {}  # by message id
        self.vmtas = {str(host.network.network_address): name for name, vmta in config.virtual_mtas.items() for host in vmta.source_hosts}
        self.acknowledged: dict[str, None] = {}  # addresses of ours that a client has a 250 for
        self.refused_domains: set[str] = set()  # greeted with 5xx, or DNS said never
        self.last_step_s = -inf
        self.strict_s = inf  # how late an attempt may be, in a gentle world,
        self.crowded = ""  # but to this domain
        self.kind_since_s = inf
        self.settle_within_s = inf  # from the later of kind_since_s and its due time
        self.attempts = self.bounces = self.dsns = self.late_ms = 0

    # --- telling ----------------------------------------------------------------------------------------------------------------------

    def say(self, who: str, what: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.clock.now_s:.6f} {who} {what}")

    def fail(self, what: str) -> None:
        """A promise is broken; the first one counts."""
        if not self.failure:
            self.failure = what
            self.say("BROKEN", what)
            self.on_failure()

    def digest(self) -> str:
        """Of the whole trace."""
        return hashlib.sha256("\n".join(self.trace).encode("utf-8", "backslashreplace")).hexdigest()

    # --- the spool --------------------------------------------------------------------------------------------------------------------

    def accepted(self, message_id: bytes, message: Message, content: bytes, rows: Sequence[tuple[str, Due]], due_ms: int) -> None:
        """A message is committed."""
        shown = id_text(message_id)
        self.contents[content] = message_id
        self.senders[message_id] = message.return_path
        known = self.of_message[message_id] = {}
        for index, (queue, due) in enumerate(rows):
            recipient = Recipient(due.address, queue, message_id, due_ms)
            self.recipients[message_id, index] = known[due.address] = recipient
            self.say("spool", f"accepts {shown} {due.address} {queue}")
            if due.address.startswith("stranger"):
                self.fail(f"{due.address}: relayed for a stranger")
        if message.src_type == "local":
            self.dsns += len(rows)

    def settle_refused(self, settle: Settle) -> None:
        """Outcomes were not stored: who is in there is tried again."""
        self.say("spool", f"refuses a settle of {len(settle.rows)}")
        for row in settle.rows:
            self._excuse(self.recipients[row.key[13:25], int.from_bytes(row.key[25:], "big")])

    def killed(self, process: Process) -> None:
        """What it had heard and not stored is lost."""
        self.say(process.name, "is killed")
        for recipient in self.recipients.values():
            if not recipient.ended:
                self._excuse(recipient)

    @staticmethod
    def _excuse(recipient: Recipient) -> None:
        for delivery in recipient.deliveries:
            delivery.excused = True

    def settled(self, settle: Settle, rows: Sequence[tuple[Settlement, Due]], messages: Mapping[bytes, Message], process: Process | None) -> None:
        """Outcomes are committed; *rows* were still there."""
        bounced: list[str] = []
        for row, due in rows:
            recipient = self.recipients[row.key[13:25], int.from_bytes(row.key[25:], "big")]
            if recipient.ended:
                self.fail(f"{recipient.address} is settled after it was {recipient.ended}")
            record = decode(row.record) if row.record else None
            if record is not None and not isinstance(record, RecipientRecord):
                self.fail("a queue record in a recipient's place")
            elif row.again_ms:
                self._deferred(recipient, row, due, record)
            elif record is None:
                self.fail(f"{recipient.address} leaves without a record")
            else:
                self._left(recipient, due, record)
                bounced += [due.address] * (record.type == "b")
            if record is not None and (record.rcpt != due.address or record.queue != recipient.queue or record.id != id_text(recipient.message)):
                self.fail(f"{recipient.address}: its record is about {record.rcpt} in {record.queue}")
        if bounced:
            self._reported(settle, bounced, messages)

    def _deferred(self, recipient: Recipient, row: Settlement, due: Due, record: RecipientRecord | None) -> None:
        later = _decode_due(row.due)
        self.say("spool", f"defers {recipient.address} {record.dsn_diag if record else 'unrecorded'} by {row.again_ms - recipient.due_ms}")
        recipient.due_ms = row.again_ms
        recipient.deferred, recipient.was_due = True, False
        if (later.address, later.queued_ms, later.notify, later.orcpt) != (due.address, due.queued_ms, due.notify, due.orcpt):
            self.fail(f"{recipient.address} is another after its deferral")
        if record is None:
            return
        settings = self._settings(recipient)
        expiry_ms = due.queued_ms + int(settings.bounce_after_s * 1000)
        if record.type != "t" or later.attempts != due.attempts + 1 or later.first_attempt_ms != (due.first_attempt_ms or record.logged_ms):
            self.fail(f"{recipient.address}: a deferral of type {record.type} after {later.attempts} attempts")
        wait_ms = int(settings.retry_recipients_after_s * 1000)
        if not record.logged_ms + wait_ms <= row.again_ms <= record.logged_ms + int(wait_ms * 1.1) + 1 and row.again_ms != expiry_ms:
            self.fail(f"{recipient.address} is deferred by {row.again_ms - record.logged_ms} ms, not retry-recipients-after")

    def _left(self, recipient: Recipient, due: Due, record: RecipientRecord) -> None:
        self.say("spool", f"ends {recipient.address} {record.type} {record.dsn_diag}")
        recipient.ended = "delivered" if record.type == "d" else "bounced"
        discards = self._settings(recipient).type == "discard"
        if record.type == "d" and not discards and not any(delivery.heard for delivery in recipient.deliveries):
            self.fail(f"{recipient.address} counts as delivered, and no peer has told so")
        if record.type == "b":
            self.bounces += 1
            if record.dsn_status == EXPIRED and record.logged_ms < due.queued_ms + int(self._settings(recipient).bounce_after_s * 1000):
                self.fail(f"{recipient.address} bounced for age before bounce-after")
            if record.dsn_status != EXPIRED and not recipient.refused and recipient.domain not in self.refused_domains:
                self.fail(f"{recipient.address} bounced ({record.dsn_diag}), and nobody had refused it")
        if self.kind_since_s < inf:
            due_s = (recipient.due_ms - self.clock.offset_ms) / 1000
            late_s = self.clock.now_s - max(due_s, self.kind_since_s)
            self.late_ms = max(self.late_ms, int(late_s * 1000))
            if late_s > self.settle_within_s:
                self.fail(f"{recipient.address} was settled {late_s:.0f} s late")

    def _reported(self, settle: Settle, bounced: Sequence[str], messages: Mapping[bytes, Message]) -> None:
        message = messages[settle.rows[0].key[13:25]]
        if message.return_path and message.notify_sender and settle.accept is None:
            self.fail(f"{bounced[0]} bounced, and {message.return_path} hears nothing")
        if settle.accept is not None and (not message.return_path or _decode_due(settle.accept.recipients[0].due).address != message.return_path):
            self.fail(f"a DSN about {bounced[0]} goes to somebody else")

    # --- the network ------------------------------------------------------------------------------------------------------------------

    def sent(self, process: Process, data: bytes, source_ip: str) -> None:
        """The slot writes *data* to a peer, from *source_ip*: are the recipients in it due?"""
        if b"RCPT TO:<" not in data:
            return
        now_ms = self.clock.wall_ms()
        for found in _RCPT.findall(data):
            address = found.decode("ascii")
            self.attempts += 1
            self.say(process.name, f"tries {address} from {source_ip}")
            mine = [known[address] for known in self.of_message.values() if address in known and not known[address].ended]
            mine = [recipient for recipient in mine if self.vmtas[source_ip] == recipient.vmta]
            if not mine:
                self.fail(f"{address} is tried, and its end is committed")
                return
            early = [self._early(recipient, now_ms) for recipient in mine]  # DSNs to one address may be several
            if all(early):
                self.fail(f"{address} is tried {early[0]}")
            late_ms = now_ms - mine[0].due_ms
            if len(mine) == 1 and mine[0].domain != self.crowded and late_ms > self.strict_s * 1000:
                self.fail(f"{address} is tried {late_ms} ms after it was due, and nothing stood in the way")

    def _early(self, recipient: Recipient, now_ms: int) -> str:
        """How much too early an attempt is now; "" if it may be made."""
        if recipient.due_ms <= now_ms or recipient.was_due or (not recipient.deferred and recipient.due_ms <= self.stamp_ms()):
            return ""
        return f"{recipient.due_ms - now_ms} ms before it is due"

    def stepping(self) -> None:
        """The wall clock is about to step: what is due may stand in a window, and go out after it."""
        now_ms = self.clock.wall_ms()
        for recipient in self.recipients.values():
            recipient.was_due |= recipient.due_ms <= now_ms

    def stamp_ms(self) -> int:
        """New mail is stamped up to this: set by the world."""
        return 0

    def taken(self, sender: str, addresses: Sequence[str], content: bytes, end: Endpoint, offset: float) -> None:
        """A peer answers 2xx to the final dot, at *offset* of what it says."""
        message_id = self.contents.get(content)
        if message_id is None:
            self.fail(f"a peer got {len(content)} bytes from <{sender}> that nobody sent")
            return
        for address in addresses:
            recipient = self.of_message[message_id].get(address)
            if recipient is None:
                self.fail(f"{address} gets a message that is not for it")
                return
            self.say("peer", f"takes {id_text(message_id)} for {address}{'' if offset < inf else ' and says nothing'}")
            before = [delivery for delivery in recipient.deliveries if delivery.heard and not delivery.excused]
            if before or recipient.ended:
                self.fail(f"{address} gets its message again, {'after it was ' + recipient.ended if recipient.ended else 'though that is known'}")
            recipient.deliveries.append(Delivery(end, offset))

    def refused(self, addresses: Sequence[str], sender: str | None = None) -> None:
        """A peer says 5xx to these; or to MAIL from *sender*, and so to whoever would have come."""
        for known in self.of_message.values():
            for address, recipient in known.items():
                if address in addresses:
                    recipient.refused = True
        if sender is not None:
            for message_id, known in self.of_message.items():
                if self.senders.get(message_id) == sender:
                    for recipient in known.values():
                        recipient.refused = True

    # --- the end ----------------------------------------------------------------------------------------------------------------------

    def account(self) -> str:
        """Everybody is where he belongs; or `fail`.  The account in words."""
        counts = {"delivered": 0, "bounced": 0, "": 0}
        again = 0
        for recipient in self.recipients.values():
            counts[recipient.ended] += 1
            heard = [delivery for delivery in recipient.deliveries if delivery.heard and not delivery.excused]
            again += max(0, len(recipient.deliveries) - 1)
            if len(heard) > 1 or (recipient.ended == "bounced" and heard):
                self.fail(f"{recipient.address}, {recipient.ended}, was delivered {len(heard)} times")
        stored = {recipient.address for recipient in self.recipients.values()}
        for address in self.acknowledged:
            if address not in stored:
                self.fail(f"{address} was acknowledged and is lost")
        return f"{counts['delivered']} delivered, {counts['bounced']} bounced, {counts['']} queued, {again} again with excuse"

    def _settings(self, recipient: Recipient) -> Any:
        domain, _, vmta = recipient.queue.rpartition("/")
        return self.config.domain(domain, vmta)
