"""Simulated mail hosts: the real server core, in moods: refusing, failing, hanging up, falling silent, at any stage and behind any byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

from engine.mail.address import split
from engine.mail.reply import Reply, reply
from engine.smtp.extensions import Parameters
from engine.smtp.server import GO_AHEAD, RECIPIENT_OK, SENDER_OK, Phase, ServerConnection, ServerLimits
from tests.simulation.ledger import Ledger
from tests.simulation.network import Cut, Endpoint, Line, Network

STAGES = ("greeting", "mail", "rcpt", "data", "body", "end")
FATES = ("4xx", "5xx", "421", "drop", "mute", "garbage")
ENTRIES = ("refuse", "blackhole", "unreachable")
_NO = {"4xx": 451, "5xx": 554, "421": 421}
_LIMITS = ServerLimits("mx.example", hard_max_rcpt=1000, max_errors=100, max_commands_without_mail=1000)


@dataclass(frozen=True)
class Manners:
    """How a host behaves while the world is unkind: shares of connections, replies, writes."""

    line: Line
    entries: tuple[float, ...] = (0.0,) * len(ENTRIES)  # of the connections that do not come about
    fates: dict[str, tuple[float, ...]] = field(default_factory=dict)  # by stage: share of each fate
    too_many: float = 0.0  # of the RCPTs that are answered 452, when there are some accepted
    cut_share: float = 0.0  # of the connections that end behind a byte
    slow_share: float = 0.0  # of the final dots that are answered late
    slow_s: float = 20.0
    most: int = 0  # connections at once; 0: any number
    no_ehlo: bool = False
    no_pipelining: bool = False
    multi_line: bool = False
    idle_s: float = 0.0  # after which it closes; 0: never


class Host:
    """One address that answers on port 25."""

    def __init__(self, address: str, manners: Manners, network: Network, random: Random, ledger: Ledger, limits: Callable[[str], Any]) -> None:
        self.address = address
        self.manners = manners
        self.network = network
        self.random = random
        self.ledger = ledger
        self.limits = limits  # the engine's settings for a domain, from this host's side: what it must not exceed
        self.domains: list[str] = []  # whose mail comes here
        self.kind = False
        self.open = 0

    def entry(self) -> str:
        """What becomes of an attempt to connect: "" or one of ENTRIES."""
        return "" if self.kind else self.random.choices(("", *ENTRIES), (1.0, *self.manners.entries))[0]

    def fate(self, stage: str) -> str:
        """What happens in the place of an orderly answer at *stage*: "" or one of FATES."""
        shares = None if self.kind else self.manners.fates.get(stage)
        return self.random.choices(("", *FATES), (1.0, *shares))[0] if shares else ""

    def cuts(self) -> tuple[Cut | None, Cut | None]:
        """Where a new connection breaks, by direction."""
        random = self.random
        if self.kind or random.random() >= self.manners.cut_share:
            return None, None
        cut = Cut(random.randrange(600), random.choice(("reset", "close", "stall")))
        return (cut, None) if random.random() < 0.5 else (None, cut)

    def answer(self, end: Endpoint) -> None:
        """A connection is there."""
        peer = Peer(self, end)
        end.protocol = peer
        end.on_closed = peer.gone
        self.open += 1
        peer.greet()


class Peer:
    """One connection, and the handler of its core."""

    def __init__(self, host: Host, end: Endpoint) -> None:
        self.host = host
        self.side = end
        self.core = ServerConnection(self, _LIMITS)
        self.muted = False
        self.dropped = False
        self.garbage = False
        self.transactions = 0
        self.sender = ""
        self.addresses: list[str] = []
        self.content: list[bytes] = []
        self._deaf = host.manners.no_ehlo
        self._heard = b""
        self._unsaid: list[tuple[str, list[str], bytes]] = []  # taken, and not told yet

    # --- what the network calls -------------------------------------------------------------------------------------------------------

    def greet(self) -> None:
        """The first words."""
        host = self.host
        fate = host.fate("greeting")
        if not host.kind and host.manners.most and host.open > host.manners.most:
            fate = fate or "421"
        if fate in _NO:
            if fate == "5xx":
                host.ledger.refused_domains.update(host.domains)
            self._say(self.core.open(reply(_NO[fate], "no service today")))
            self.side.close()
        else:
            self._strange(fate)
            self._say(self.core.open())

    def data_received(self, data: bytes) -> None:
        """Commands and content."""
        if self.dropped or self.core.phase is Phase.CLOSED:
            return
        if self._deaf:  # to EHLO, which is the first line
            self._heard += data
            if self._heard.endswith(b"\r\n"):
                self._deaf = False
                self._say(b"502 5.5.1 what?\r\n")
            return
        out = self.core.receive(data)
        if self.host.manners.no_pipelining:
            out = out.replace(b"250-PIPELINING\r\n", b"").replace(b"250 PIPELINING\r\n", b"250 HELP\r\n")
        self._say(out)
        if self.core.phase is Phase.CLOSED:
            self.side.close()

    def eof_received(self) -> bool:
        """The engine hung up."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.core.lost()

    def gone(self) -> None:
        """One connection less."""
        self.host.open -= 1

    def pause_writing(self) -> None:
        """Never so much."""

    def resume_writing(self) -> None:
        """Never so much."""

    # --- what the core asks -----------------------------------------------------------------------------------------------------------

    def hello(self, name: str, extended: bool) -> None:
        """EHLO or HELO."""

    def mail(self, sender: str, parameters: Parameters) -> Reply:
        """A transaction begins."""
        self.sender, self.addresses, self.content = sender, [], []
        self.transactions += 1
        answer = self._fated("mail", SENDER_OK)
        if answer.permanent:
            self.host.ledger.refused((), sender)
        return answer

    def rcpt(self, address: str, parameters: Parameters) -> Reply:
        """A recipient; it must not be one too many."""
        host = self.host
        settings = host.limits(split(address)[1])
        if len(self.addresses) >= settings.max_rcpt_per_message:
            host.ledger.fail(f"{address} is recipient {len(self.addresses) + 1} of a transaction")
        if settings.max_msg_per_connection and self.transactions > settings.max_msg_per_connection:
            host.ledger.fail(f"{address} is sent to in message {self.transactions} of a connection")
        if not host.kind and self.addresses and host.random.random() < host.manners.too_many:
            return reply(452, "4.5.3 too many recipients")
        answer = self._fated("rcpt", RECIPIENT_OK)
        if answer.permanent:
            host.ledger.refused((address,))
        elif answer.positive:
            self.addresses.append(address)
        return answer

    def no_address(self, argument: bytes) -> Reply | None:
        """The core's own words do."""
        return None

    def data(self) -> Reply:
        """The content may come, perhaps."""
        return self._refusable(self._fated("data", GO_AHEAD))

    def body(self, chunk: bytes) -> Reply | None:
        """A piece of it."""
        self.content.append(chunk)
        answer = self._fated("body", GO_AHEAD)
        return None if answer is GO_AHEAD else self._refusable(answer)

    def end(self) -> Reply | None:
        """All of it is here."""
        answer = self._refusable(self._fated("end", reply(250, "2.0.0 taken")))
        host = self.host
        if not host.kind and host.random.random() < host.manners.slow_share:
            host.network.later(host.random.uniform(0.1, host.manners.slow_s), self._answer_late, host.network.context, answer)
            return None
        self._take(answer)
        return answer

    def reset(self) -> None:
        """The transaction is void."""
        self.addresses, self.content = [], []

    # --- inside -----------------------------------------------------------------------------------------------------------------------

    def _fated(self, stage: str, good: Reply) -> Reply:
        fate = self.host.fate(stage)
        if fate in _NO:
            return reply(_NO[fate], f"{_NO[fate] // 100}.7.0 so it is written")
        self._strange(fate)
        return good

    def _strange(self, fate: str) -> None:
        self.dropped |= fate == "drop"
        self.muted |= fate == "mute"
        self.garbage |= fate == "garbage"

    def _refusable(self, answer: Reply) -> Reply:
        if answer.permanent:
            self.host.ledger.refused(self.addresses)
        return answer

    def _answer_late(self, answer: Reply) -> None:
        if self.core.phase is Phase.WAITING:
            self._take(answer)
            self._say(self.core.answered(answer))
            if self.core.phase is Phase.CLOSED:
                self.side.close()

    def _take(self, answer: Reply) -> None:
        if answer.positive:
            self._unsaid.append((self.sender, self.addresses, b"".join(self.content)))

    def _say(self, out: bytes) -> None:
        if self.garbage and out:
            self.garbage = False
            out = b"what is this\r\n" + out
            self.muted = True
            self.side.write(out[:14])
        elif self.dropped:
            self.side.abort()
        elif out and not self.muted:
            if self.host.manners.multi_line:
                out = b"".join(line[:3] + b"-so\r\n" + line if line[3:4] == b" " and line[:3] != b"354" else line for line in out.splitlines(True))
            self.side.write(out)
        taken, self._unsaid = self._unsaid, []
        for sender, addresses, content in taken:
            offset = inf if self.dropped or self.muted else self.side.written
            self.host.ledger.taken(sender, addresses, content, self.side, offset)


async def connect(host: Host | None, line: Line) -> None:
    """As sock_connect: return when the connection is there; OSError, or never."""
    entry = host.entry() if host is not None else "unreachable"
    if entry == "blackhole":
        await asyncio.sleep(100_000)
    await asyncio.sleep(line.latency_s * 2)
    if entry == "refuse":
        raise ConnectionRefusedError(111, "Connection refused")
    if entry == "unreachable":
        raise OSError(113, "No route to host")
