"""Configurations that differ in everything that a reload can change, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

BROKEN = (
    "max-smtp-outt 3\n",
    "<domain *>\n    max-smtp-out three\n</domain>\n",
    "<virtual-mta mta9>\n",
    "total-max-smtp-out -1\n",
    "include /nonexistent/file.conf\n",
)
RESTARTS = ("user daemon\n", "log-file @dir@/other.log\n")


@dataclass(frozen=True, slots=True)
class Choice:
    """One configuration."""

    text: str
    per_queue: int
    total: int
    addresses: dict[str, tuple[str, ...]]


def draw(rng: random.Random, sink_port: int) -> Choice:
    """A good configuration.  mta1 and the listener at @port@ are in each of them; everything else comes, goes and moves."""
    addresses = {"mta1": ("127.0.0.11",) if rng.random() < 0.7 else ("127.0.0.11", "127.0.0.21")}
    if rng.random() < 0.7:
        addresses["mta2"] = (rng.choice(("127.0.0.12", "127.0.0.22", "127.0.0.11")),)  # with mta1's address they share an owner
    if rng.random() < 0.5:
        addresses["mta3"] = (rng.choice(("127.0.0.13", "127.0.0.21")),)
    per_queue, total = rng.choice((1, 2, 3)), rng.choice((4, 6, 30))
    lines = [
        f"delivery-workers {rng.choice((1, 2, 2, 3))}",
        f"listener-workers {rng.choice((1, 2))}",
        f"total-max-smtp-out {total}",
        f"total-max-smtp-in {rng.choice((50, 60))}",
        "smtp-listener 127.0.0.1:@port@",
    ]
    if rng.random() < 0.5:
        lines.append(f"smtp-listener 127.0.0.1:{rng.choice(('@port2@', '@port3@'))}")
    lines += ["<source 127.0.0.0/8>", "    always-allow-relaying yes", "    default-virtual-mta pool"]
    lines += [f"    max-rcpt-per-message {rng.choice((10, 20))}", "</source>"]
    for name, ips in addresses.items():
        lines += [f"<virtual-mta {name}>", *(f"    smtp-source-host {ip} {name}.example" for ip in ips), "</virtual-mta>"]
    lines += ["<virtual-mta-pool pool>", *(f"    virtual-mta {name}" for name in addresses), "</virtual-mta-pool>"]
    lines += ["<domain *>", f"    smtp-hosts [127.0.0.1]:{sink_port}", f"    max-smtp-out {per_queue}"]
    lines += [f"    connection-idle-timeout {rng.choice(('1s', '2s'))}", "    retry-after 1s", "    retry-recipients-after 1s", "</domain>"]
    lines += ["<spool @dir@/spool>", f"    min-free-space {rng.choice(('1M', '2M'))}", "</spool>"]
    lines += ["<acct-file @dir@/acct.csv>", f"    records {rng.choice(('d,b,t,tq', 'd,b'))}", "</acct-file>"]
    if rng.random() < 0.3:
        lines += ["<acct-file @dir@/more.csv>", "    records d", "</acct-file>"]
    return Choice("\n".join(lines) + "\n", per_queue, total, addresses)


def spoil(rng: random.Random, choice: Choice) -> str:
    """*choice* with something that stops a reload."""
    return choice.text + rng.choice(BROKEN + RESTARTS)
