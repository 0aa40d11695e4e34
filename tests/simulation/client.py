"""A client that injects mail: the real client core, over a connection that may break."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import EngineError
from engine.fastpath import unstuff
from engine.smtp.client import ClientConnection, Finished, Ready, Refused, SendBody, Stage, Transaction
from tests.simulation.ledger import Ledger
from tests.simulation.network import Endpoint


@dataclass(frozen=True)
class Mail:
    """One message to inject."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes  # in wire form
    eight_bit: bool = False


class Client:
    """One session: its messages one after the other, as long as it lasts."""

    def __init__(self, name: str, mails: list[Mail], end: Endpoint, ledger: Ledger, ignore_pipelining: bool) -> None:
        self.name = name
        self.done = False
        self._mails = mails
        self._end = end
        self._ledger = ledger
        self._core = ClientConnection(name, ignore_pipelining=ignore_pipelining)
        self._mail: Mail | None = None
        end.protocol = self
        end.on_closed = self._over

    def data_received(self, data: bytes) -> None:
        """Replies."""
        if self._end.closed:
            return
        try:
            events = self._core.receive(data)
        except EngineError as error:
            self._ledger.fail(f"our listener broke the protocol to {self.name}: {error}")
            return
        for event in events:
            if isinstance(event, SendBody):
                assert self._mail is not None
                if self._core.by_chunks:
                    plain = unstuff(self._mail.content)
                    self._end.write(self._core.chunk(len(plain), True) + plain)
                else:
                    self._end.write(self._mail.content + self._core.end_of_body())
            elif isinstance(event, Finished):
                self._finished(event)
            elif isinstance(event, Refused):
                self._ledger.say(self.name, f"hears {event.reply.text}")
            else:
                assert isinstance(event, Ready)
        if self._core.stage is Stage.IDLE:
            self._next()
        self._end.write(self._core.to_send())
        if self._core.stage is Stage.CLOSED:
            self._end.abort()

    def eof_received(self) -> bool:
        """Over."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever is not acknowledged is not promised."""
        self._over()

    def pause_writing(self) -> None:
        """It keeps what it writes."""

    def resume_writing(self) -> None:
        """Nothing waits."""

    def _next(self) -> None:
        if not self._mails:
            self._core.quit()
            return
        mail = self._mail = self._mails.pop(0)
        self._core.start(Transaction(mail.sender, mail.recipients, len(mail.content), mail.eight_bit))

    def _finished(self, event: Finished) -> None:
        mail = self._mail
        assert mail is not None
        stored = {recipient.address for recipient in self._ledger.recipients.values()}
        for address, outcome in zip(mail.recipients, event.replies, strict=True):
            self._ledger.say(self.name, f"hears {outcome.reply.text} for {address}")
            if outcome.stage is Stage.FINAL_DOT and outcome.reply.positive:
                self._ledger.acknowledged[address] = None
                if address not in stored:
                    self._ledger.fail(f"{address} is acknowledged, and not stored")
            elif outcome.reply.permanent and not address.startswith("stranger"):
                self._ledger.fail(f"{address} is refused by our listener: {outcome.reply.text}")

    def _over(self) -> None:
        self.done = True
