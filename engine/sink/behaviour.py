"""What the sink answers, and what it has counted.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from engine.mail.reply import Reply, reply
from engine.smtp.extensions import Parameters
from engine.smtp.server import GO_AHEAD, RECIPIENT_OK, SENDER_OK, ServerLimits

STAGES = ("greeting", "mail", "rcpt", "data", "dot")
BLACKLISTED = reply(550, "5.1.1 Recipient is on the blacklist of this sink")
THROWN_AWAY = reply(250, "2.6.0 Message received and thrown away")
UNBOUNDED = 1 << 30  # a sink turns nobody away for refusals that it was told to give
ENTRIES_MOST = 1_000_000


class BehaviourError(ValueError):
    """What the sink was told makes no sense; the text says why."""


@dataclass(frozen=True, slots=True)
class SinkLimits(ServerLimits):
    """A server's limits, and what it lists after EHLO."""

    offers: tuple[str, ...] = ("PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN")

    def __post_init__(self) -> None:
        ServerLimits.__post_init__(self)
        object.__setattr__(self, "ehlo", Reply(250, (f"{self.host_name} says hello", *self.offers)).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one sink answers.

    *replies*: by stage, instead of the usual ones.  *blacklist*: addresses and domains, lower case; *bounce_percent* of the recipients that are on it
    (of all, where it is None) are refused, at random.
    """

    host_name: str = "sink.invalid"
    replies: Mapping[str, Reply] = field(default_factory=dict)
    latency_s: float = 0.0
    blacklist: frozenset[str] | None = None
    bounce_percent: float = 0.0
    pipelining: bool = True
    chunking: bool = False  # CHUNKING and BINARYMIME are offered
    await_slot: bool = False  # who finds it full waits, instead of 421

    def limits(self) -> SinkLimits:
        """For the protocol's core."""
        offers = ("PIPELINING",) * self.pipelining + ("SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN") + ("CHUNKING", "BINARYMIME") * self.chunking
        return SinkLimits(self.host_name, max_errors=UNBOUNDED, max_commands_without_mail=UNBOUNDED, chunking=self.chunking, offers=offers)

    def is_blacklisted(self, address: str) -> bool:
        """Whether *address*, or its domain, is on the blacklist; everybody is where there is none."""
        if self.blacklist is None:
            return True
        lowered = address.lower()
        return lowered in self.blacklist or lowered.rpartition("@")[2] in self.blacklist


def read_blacklist(text: str) -> frozenset[str]:
    """Addresses and domains, one a line; empty lines and those that begin with # do not count.

    BehaviourError: too many, or a line of several words.
    """
    entries = set()
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip().lower().removeprefix("@")
        if not entry or entry.startswith("#"):
            continue
        if len(entry.split()) > 1:
            raise BehaviourError(f"line {number} of the blacklist: an address or a domain is expected, not {line.strip()[:60]!r}")
        entries.add(entry)
        if len(entries) > ENTRIES_MOST:
            raise BehaviourError(f"more than {ENTRIES_MOST} entries in the blacklist")
    return frozenset(entries)


def read_replies(texts: Iterable[str]) -> dict[str, Reply]:
    """From `rcpt=451 4.3.0 later` and the like.  BehaviourError: no such stage, or no reply."""
    found: dict[str, Reply] = {}
    for text in texts:
        stage, equals, said = text.partition("=")
        code, _, words = said.strip().partition(" ")
        if stage not in STAGES or not equals:
            raise BehaviourError(f"{text!r}: STAGE=CODE TEXT is expected, with a stage of {', '.join(STAGES)}")
        if not (len(code) == 3 and code.isascii() and code.isdigit() and code[0] in "245") or not (words.isascii() and words.isprintable()):
            raise BehaviourError(f"{text!r}: {said.strip()!r} is not a reply of 2xx, 4xx or 5xx and words")
        if stage in ("greeting", "data") and code[0] == "2":
            raise BehaviourError(f"{text!r}: here only 4xx and 5xx can take the place of the usual reply")
        found[stage] = Reply(int(code), (words or "as told",))
    return found


@dataclass(slots=True)
class Counts:
    """What a sink has seen since it began."""

    connections: int = 0
    messages: int = 0
    recipients: int = 0  # of messages that were taken
    refused: int = 0  # recipients, messages and connections that were answered 4xx or 5xx
    bytes: int = 0  # of content, in wire form

    def in_words(self, seconds: float) -> str:
        """The summary on one line."""
        rate = f", {self.messages / seconds:.0f} messages/s" if seconds >= 1 else ""
        return (
            f"{self.connections} connections, {self.messages} messages for {self.recipients} recipients, {self.refused} refused, "
            f"{self.bytes} bytes in {seconds:.1f}s{rate}"
        )


class Session:
    """Decides for one connection, as `smtp.server.Handler`."""

    def __init__(self, behaviour: Behaviour, counts: Counts, random: Random, on_refused: Callable[[str], None] | None = None) -> None:
        self._behaviour = behaviour
        self._replies = behaviour.replies
        self._counts = counts
        self._random = random
        self._on_refused = on_refused
        self._accepted = 0

    def hello(self, name: str, extended: bool) -> None:
        """Nobody is asked who he is."""

    def starttls(self) -> bool:
        """Never: it is not offered."""
        return False

    def mail(self, sender: str, parameters: Parameters) -> Reply:
        """Any sender, unless told otherwise."""
        self._accepted = 0
        return self._say("mail", SENDER_OK)

    def rcpt(self, address: str, parameters: Parameters) -> Reply:
        """Any recipient, unless told otherwise or chosen to bounce."""
        behaviour = self._behaviour
        if behaviour.bounce_percent and behaviour.is_blacklisted(address) and self._random.random() * 100 < behaviour.bounce_percent:
            self._counts.refused += 1
            if self._on_refused is not None:
                self._on_refused(address)
            return BLACKLISTED
        answer = self._say("rcpt", RECIPIENT_OK)
        self._accepted += answer.positive
        return answer

    def no_address(self, argument: bytes) -> Reply | None:
        """The syntax error's own reply."""
        return None

    def data(self) -> Reply:
        """Let it come, unless told otherwise."""
        return self._say("data", GO_AHEAD)

    def body(self, chunk: bytes) -> Reply | None:
        """Thrown away."""
        self._counts.bytes += len(chunk)
        return None

    def end(self) -> Reply | None:
        """Done with."""
        answer = self._say("dot", THROWN_AWAY)
        if answer.positive:
            self._counts.messages += 1
            self._counts.recipients += self._accepted
        self._accepted = 0
        return answer

    def reset(self) -> None:
        """Nothing is kept that could be forgotten."""
        self._accepted = 0

    def _say(self, stage: str, usual: Reply) -> Reply:
        answer = self._replies.get(stage, usual)
        if not answer.positive:
            self._counts.refused += 1
        return answer
