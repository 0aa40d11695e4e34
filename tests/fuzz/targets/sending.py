"""What a host answers us: the client core, and under it the scanner of replies."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine import _reference, fastpath
from engine.errors import RemoteProtocolError
from engine.smtp.client import MAX_REPLY_BYTES, ClientConnection, Event, Finished, SendBody, Stage, Transaction

THREE = Transaction("a@example.com", ("b@example.net", "c@example.net", "d@example.net"), 1000, False)
TRANSACTIONS = 3  # begun on one connection, at most


def client(data: bytes) -> object:
    """A host that says *data* regardless, one write for each stretch between NULs; the first byte says whether we pipeline."""
    pieces = [piece for piece in data[1:].split(b"\0") if piece]
    for piece in pieces:
        _scan(piece)
    return [Talk(bool(data[:1] and data[0] & 1)).run(way) for way in (pieces, [piece[i : i + 1] for piece in pieces for i in range(len(piece))])]


def _scan(data: bytes) -> None:
    end = fastpath.scan_reply(data)
    assert end == _reference.scan_reply(data)
    if end >= 0:
        lines = data[:end].split(b"\n")[:-1]
        assert len({line[:3] for line in lines}) == 1 and 200 <= int(lines[0][:3]) <= 599
        assert all(line[3:4] == b"-" for line in lines[:-1]) and lines[-1][3:4] != b"-"


@dataclass
class Talk:
    """One connection to a host, and what the invariants need to know of it."""

    pipelining: bool
    begun: int = 0
    ended: int = 0
    dotted: bool = False  # the final dot of the open transaction was given out
    seen: list[object] = field(default_factory=list)

    def run(self, pieces: list[bytes]) -> list[object]:
        """All that can be seen."""
        core = ClientConnection("me.example", ignore_pipelining=not self.pipelining)
        try:
            for piece in pieces:
                for event in core.receive(piece):
                    self._event(core, event)
                assert len(getattr(core, "_held", b"")) <= MAX_REPLY_BYTES  # hidden where it is compiled
                if core.stage is Stage.IDLE and self.begun < TRANSACTIONS:
                    core.start(THREE)
                    self.begun, self.dotted = self.begun + 1, False
                self._said(core.to_send())
                self.seen.append(core.stage.name)
        except RemoteProtocolError as error:
            self.seen.append(str(error))
        stage = core.stage
        lost = core.lost()
        open_ones = self.begun - self.ended
        assert open_ones in (0, 1) and len(lost.replies) == 3 * open_ones, "each transaction ends in exactly one of Finished and lost"
        assert lost.unknown == (open_ones == 1 and stage is Stage.FINAL_DOT and None in lost.replies)
        assert all(outcome is None or not outcome.reply.positive for outcome in lost.replies), "nobody was delivered before the end"
        self._said(core.to_send())
        return [*self.seen, stage.name, [outcome and (outcome.reply, outcome.stage.name) for outcome in lost.replies]]

    def _event(self, core: ClientConnection, event: Event) -> None:
        self.seen.append(type(event).__name__)
        if isinstance(event, SendBody):
            assert event.accepted and core.end_of_body() == b".\r\n"
            self.dotted = True
            self.seen.append(event.accepted)
        elif isinstance(event, Finished):
            self.ended += 1
            assert self.ended <= self.begun and len(event.replies) == 3
            for outcome in event.replies:
                delivered = outcome.reply.positive
                assert not delivered or (self.dotted and outcome.stage is Stage.FINAL_DOT and event.accepted_final), "delivered by a final 2xx only"
            self.seen.append([(outcome.reply, outcome.stage.name) for outcome in event.replies])

    def _said(self, data: bytes) -> None:
        for line in data.split(b"\r\n")[:-1]:
            assert line.isascii() and line.split(b" ")[0] in (b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA", b"RSET", b"."), line
        assert not data or data.endswith(b"\r\n")
        self.seen.append(data)
