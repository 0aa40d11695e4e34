"""A simulated name server: zones whose answers vary while the world is unkind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from engine.dns import codec
from engine.dns.answer import TemporaryFailure
from engine.dns.codec import Mx, Question, Record, Response
from tests.simulation.ledger import Ledger

MOODS = ("servfail", "silent", "nxdomain", "null-mx", "no-mx")


@dataclass(frozen=True)
class Zone:
    """One domain: its MXs (preference, host), or none (then the domain itself has the address); *moods*: share of each odd answer."""

    exchanges: tuple[tuple[int, str], ...]
    moods: tuple[float, ...] = (0.0,) * len(MOODS)
    ttl_s: int = 30


class NameServer:
    """In the place of engine.dns.exchange.NameServer."""

    def __init__(self, zones: dict[str, Zone], addresses: dict[str, tuple[str, ...]], random: Random, ledger: Ledger) -> None:
        self.zones = zones
        self.addresses = addresses  # by host
        self.kind = False
        self.resting_until_s = 0.0
        self._random = random
        self._ledger = ledger

    async def ask(self, question: Question, timeout_s: float) -> Response | TemporaryFailure:
        """The answer of the day."""
        random = self._random
        zone = self.zones.get(question.name)
        mood = ""
        if zone is not None and not self.kind and question.type == codec.MX:
            mood = random.choices(("", *MOODS), (1.0, *zone.moods))[0]
        if mood == "silent":
            await asyncio.sleep(timeout_s)
            return TemporaryFailure("timeout", "no answer")
        await asyncio.sleep(random.uniform(0.0005, 0.05))
        if mood:
            self._ledger.say("dns", f"{question.name} {mood}")
        if mood in ("nxdomain", "null-mx", "no-mx"):
            self._ledger.refused_domains.add(question.name)
        if mood == "servfail":
            return Response(1, codec.SERVFAIL, False, question)
        if mood == "nxdomain":
            return Response(1, codec.NXDOMAIN, False, question, (), 10)
        return Response(1, codec.NOERROR, False, question, self._records(question, zone, mood), 10)

    def _records(self, question: Question, zone: Zone | None, mood: str) -> tuple[Record, ...]:
        if mood == "null-mx":
            return (Record(question.name, codec.MX, 5, Mx(0, ".")),)
        if mood == "no-mx":
            return (Record(question.name, codec.MX, 5, Mx(10, "nowhere.example")),)
        if question.type == codec.MX and zone is not None:
            return tuple(Record(question.name, codec.MX, zone.ttl_s, Mx(preference, host)) for preference, host in zone.exchanges)
        if question.type == codec.A:
            return tuple(Record(question.name, codec.A, 30, address) for address in self.addresses.get(question.name, ()))
        return ()

    def close(self) -> None:
        """Nothing is open."""

    def __str__(self) -> str:
        return "the name server"
