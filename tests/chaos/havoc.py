"""What happens to the engine: kills drawn from a seeded generator, with the moments between which each took effect."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.account import EVERYBODY, Kill, Outage
from tests.chaos.world import HUNG_S, ROLES, ChaosEngine

SHARES = {"delivery": 24, "spool": 24, "listener": 13, "accounting": 10, "supervisor": 9, "all": 9, "stop": 5, "two": 6, "pause": 4}
TAKES_EFFECT_S = 0.2  # from SIGKILL to the end of who got it, and of who ends with it
UP_WITHIN_S = 30.0
HASTE = 0.25  # so often it does not wait until what was killed before is back


@dataclass(slots=True)
class Stopped:
    """A process that stands still until the watchdog comes."""

    role: str
    pid: int
    from_s: float


@dataclass(slots=True)
class Havoc:
    """Kills *engine*'s processes; `kills` and `outages` are what it did."""

    engine: ChaosEngine
    seed: int
    mean_s: float = 0.7  # between what is up again and the next kill
    kills: list[Kill] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)  # by what was meant
    refused: list[str] = field(default_factory=list)  # starts that ended by themselves, with what they said
    _stopped: list[Stopped] = field(default_factory=list)
    _chance: random.Random = field(init=False)
    senders: dict[str, frozenset[str]] = field(init=False)  # the source addresses of each delivery process

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self.senders = self.engine.senders()

    def until(self, kills: int, deadline_s: float) -> Iterator[int]:
        """One thing after another until there were so many kills, or until the deadline; yields their number so far."""
        while len(self.kills) + len(self._stopped) < kills and time.monotonic() < deadline_s:
            time.sleep(min(3.0, 0.03 + self._chance.expovariate(1 / self.mean_s)))  # the pace of the havoc itself
            self.mind()
            if self._chance.random() > HASTE:
                self.wait_until_up()
            self._happen(self._chance.choices(tuple(SHARES), tuple(SHARES.values()))[0])
            yield len(self.kills)

    def mind(self) -> None:
        """Start it again if it has ended by itself, which it never should; see who of the stopped has been killed."""
        said = self.engine.gone()
        if said is not None:
            self.refused.append(said)
            self.engine.start(wait=False)
        for stopped in list(self._stopped):
            if not os.path.exists(f"/proc/{stopped.pid}"):
                self._stopped.remove(stopped)
                self._killed(stopped.role, stopped.from_s, 0.0)

    def wait_until_up(self, everybody: bool = False) -> None:
        """Return when each role has a process that is not stopped, or at a deadline; *everybody*: TimeoutError at the deadline."""
        deadline_s = time.monotonic() + UP_WITHIN_S
        while time.monotonic() < deadline_s:
            self.mind()
            standing = {stopped.role for stopped in self._stopped}
            if not (everybody and standing) and set(ROLES) - standing <= set(self.engine.roles()):
                return
            time.sleep(0.05)
        if everybody:
            raise TimeoutError(f"not up within {UP_WITHIN_S:.0f} s: {self.engine.roles()}\n{self.engine.said()}")

    def _happen(self, what: str) -> None:
        roles = self.engine.roles()
        children = [role for role in roles if role != "supervisor"]
        if what in ("all", "supervisor"):
            self._end(what)
        elif not children or "supervisor" not in roles:
            return  # it is only starting: next time
        elif what == "stop":
            role = self._chance.choice(children)
            if role not in {stopped.role for stopped in self._stopped}:
                self._stopped.append(Stopped(role, roles[role][0], time.monotonic()))
                _signal(roles[role][0], signal.SIGSTOP)
                self.done[what] += 1
        elif what == "pause":
            self._pause(self._chance.choice([*children, "supervisor"]), roles)
        elif what == "two":
            for role in self._chance.sample(children, k=min(2, len(children))):
                self._kill(role, roles[role][0])
            self.done[what] += 1
        elif chosen := [role for role in children if role.startswith(f"{what}/")]:
            role = self._chance.choice(chosen)
            self._kill(role, roles[role][0])
            self.done[what] += 1

    def _end(self, what: str) -> None:
        """Kill all of it, or its head alone, and start again at once."""
        from_s = time.monotonic()
        if what == "all":
            self.engine.kill9_all()
        elif "supervisor" in self.engine.roles():
            self.engine.kill9_supervisor()
        else:
            return
        self._killed(what, from_s)
        self.done[what] += 1
        self.engine.start(wait=False)

    def _kill(self, role: str, pid: int) -> None:
        from_s = time.monotonic()
        _signal(pid, signal.SIGKILL)
        self._killed(role, from_s)

    def _killed(self, what: str, from_s: float, effect_s: float = TAKES_EFFECT_S) -> None:
        senders = frozenset([EVERYBODY]) if what in ("all", "supervisor") else self.senders.get(what, frozenset())
        self.kills.append(Kill(what, from_s, time.monotonic() + effect_s, senders))

    def _pause(self, role: str, roles: dict[str, list[int]]) -> None:
        """Stop it for less than the watchdog's patience."""
        pid, from_s = roles[role][0], time.monotonic()
        if pid in {stopped.pid for stopped in self._stopped}:
            return
        _signal(pid, signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.1, HUNG_S / 3))
        _signal(pid, signal.SIGCONT)
        self.done["pause"] += 1
        until_s = time.monotonic()
        peers = frozenset().union(*self.senders.values()) if role.startswith("spool/") else self.senders.get(role, frozenset())
        self.outages += [Outage(peer, from_s, until_s) for peer in peers]


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
