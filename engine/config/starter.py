"""A first configuration: small, commented, and nobody's open relay.  Pure: `engine init` asks and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config.pattern import Address, Network

VIRTUAL_MTA = "mta{}"
POOL = "all"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an operator has to say before the first start."""

    host_name: str
    postmaster: str
    relay_from: tuple[Network, ...]
    ips: tuple[Address, ...] = ()  # none: whichever the machine chooses


def starter(wishes: Wishes) -> str:
    """The text of an engine.conf that passes check-config."""
    names = [VIRTUAL_MTA.format(number) for number in range(1, len(wishes.ips) + 1)]
    chosen = "" if not names else names[0] if len(names) == 1 else POOL
    parts = [
        _HEAD.format(host_name=wishes.host_name, postmaster=wishes.postmaster),
        "# Who may send through us to anybody: these, and nobody else.\n",
        *(_source(network, chosen) for network in wishes.relay_from),
        "\n# Where mail leaves: the address, and the name we say there.  Its A or AAAA record and the address's PTR record should say the same.\n"
        if names
        else "",
        *(_virtual_mta(name, ip, _ehlo_name(wishes, at)) for at, (name, ip) in enumerate(zip(names, wishes.ips, strict=True))),
        _pool(names) if len(names) > 1 else "",
        _TAIL,
    ]
    return "".join(parts)


_HEAD = """\
# Written by `engine init`.  `engine check-config -c THIS` says what it means, `engine show settings -c THIS DOMAIN` what a domain gets;
# docs/config.md describes every directive.

host-name {host_name}
postmaster {postmaster}

smtp-listener 0/0:25
log-file /var/log/engine/log
<spool /var/spool/engine>
</spool>
<acct-file /var/log/engine/acct.csv>    # a line for each delivery and each bounce
    records d, b
</acct-file>

"""

_TAIL = """
# What every destination gets; a <domain gmail.com> of its own wins over this, each directive for itself.
<domain *>
    max-smtp-out 20                     # connections at once
    retry-after 10m,20m,1h
    bounce-after 4d12h
</domain>
"""


def _source(network: Network, virtual_mta: str) -> str:
    text = str(network.network_address) if network.num_addresses == 1 else str(network)
    chosen = f"    default-virtual-mta {virtual_mta}\n" if virtual_mta else ""
    return f"<source {text}>\n    always-allow-relaying yes\n{chosen}</source>\n"


def _ehlo_name(wishes: Wishes, at: int) -> str:
    """The host's name for the first address, one beside it for each further one."""
    host, _, domain = wishes.host_name.partition(".")
    return wishes.host_name if at == 0 else f"{host}{at + 1}.{domain}" if domain else f"{host}{at + 1}"


def _virtual_mta(name: str, ip: Address, ehlo_name: str) -> str:
    return f"<virtual-mta {name}>\n    smtp-source-host {ip} {ehlo_name}\n</virtual-mta>\n"


def _pool(names: Sequence[str]) -> str:
    members = "".join(f"    virtual-mta {name}\n" for name in names)
    return f"<virtual-mta-pool {POOL}>                  # they take turns\n{members}</virtual-mta-pool>\n"
