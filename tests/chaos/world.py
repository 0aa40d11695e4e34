"""The engine under test: its configuration, an impatient supervisor, and who sends from which address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.processes import tree
from engine.config import build, read
from tests.chaos.temper import TEMPERS
from tests.system.engine import Engine

HUNG_S = 2.0
TIMING = {"hung_s": HUNG_S, "first_backoff_s": 0.02, "longest_backoff_s": 0.3}  # that many kills look like a crash loop
SLOTS = 2
LATER_S = 7_200  # until somebody who is put off for ever is tried again

CONF = f"""
delivery-workers {SLOTS}
listener-workers {SLOTS}
total-max-smtp-in 300
shutdown-timeout 20s
<source 127.0.0.1>
    always-allow-relaying yes
    default-virtual-mta pool
    log-connections no
</source>
<virtual-mta mta1>
    smtp-source-host 127.0.0.11 mta1.example
</virtual-mta>
<virtual-mta mta2>
    smtp-source-host 127.0.0.12 mta2.example
</virtual-mta>
<virtual-mta-pool pool>
    virtual-mta mta1
    virtual-mta mta2
</virtual-mta-pool>
<domain *>
    max-smtp-out 8
    max-msg-per-connection 10
    retry-after 1s
    retry-recipients-after 2s
    bounce-upon-5xx-greeting false
</domain>
<domain never.example>
    retry-recipients-after {LATER_S}s
</domain>
"""


def configuration(ports: Mapping[str, int]) -> str:
    """The configuration's text; *ports*: of each temper's listener."""
    return CONF + "".join(f"<domain {name}.example>\n    smtp-hosts [127.0.0.1]:{port}\n</domain>\n" for name, port in ports.items())


class ChaosEngine(Engine):
    """An engine whose watchdog is quick, and whose supervisor may be killed a hundred times."""

    def __init__(self, directory: Path, ports: Mapping[str, int]) -> None:
        super().__init__(directory, configuration(ports))

    def command(self, *words: str) -> list[str]:
        """See EngineProcess."""
        command = super().command(*words)
        if words[0] != "start":
            return command
        return [command[0], "-m", "tests.system.impatient", str(self.conf), json.dumps(TIMING)]

    def gone(self) -> str | None:
        """What it said, if the start has ended by itself; None while it lives.  Forgets the killed starts that have ended."""
        self._abandoned = [start for start in self._abandoned if start.alive()]
        return None if self._measured is not None and self._measured.alive() else self.said()

    def roles(self) -> dict[str, list[int]]:
        """Pids by role of those that have their title, survivors of a killed supervisor left out."""
        found: dict[str, list[int]] = {}
        for process in tree(self._measured.keeper) if self._measured is not None else ():
            if "/" in process.role or process.role == "supervisor":
                found.setdefault(process.role, []).append(process.pid)
        return found

    def senders(self) -> dict[str, frozenset[str]]:
        """The source addresses of each delivery process."""
        config = build(read(str(self.conf))).config
        assert config is not None
        return {f"delivery/{index}": frozenset(slot.source_ips) for index, slot in enumerate(config.slots(SLOTS))}


NAMES = tuple(TEMPERS)
ROLES = ("supervisor", "spool/0", "accounting/0", *(f"{role}/{index}" for role in ("delivery", "listener") for index in range(SLOTS)))
