"""Has each source address a name that leads back to it, and is that the name it gives itself?  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from engine.doctor.finding import Finding

# of networks behind address translation: the world sees another address
_TRANSLATED = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))


class Named(NamedTuple):
    """What DNS says about *address*, from which mail leaves with EHLO *ehlo*.

    *behind* is our own address where *address* is the public one of a translation.  *pointers*: its PTR names, with the addresses of each.
    """

    address: str
    ehlo: str
    behind: str = ""
    pointers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ehlo_addresses: tuple[str, ...] = ()
    trouble: str = ""  # why DNS could not say


def translated(address: str) -> bool:
    """Whether the world sees *address* as another one."""
    ip = ip_address(address)
    return any(ip in network for network in _TRANSLATED if network.version == ip.version)


def judge(named: Iterable[Named]) -> list[Finding]:
    """A finding for each address, and more where its name is of a kind that receivers distrust."""
    return [finding for each in named for finding in _one(each)]


def _one(each: Named) -> list[Finding]:
    subject = f"{each.address} (we: {each.behind})" if each.behind else each.address
    confirmed = [name for name, addresses in each.pointers if each.address in addresses]

    def finding(severity: str, text: str, advice: str = "") -> list[Finding]:
        return [Finding(severity, "name", subject, text, advice)]  # type: ignore[arg-type]

    if "." not in each.ehlo or each.ehlo.endswith((".local", ".localdomain", ".localhost")):
        advice = f"name it: smtp-source-host {each.behind or each.address} mail.example.com, or host-name"
        return finding("problem", f"says EHLO {each.ehlo}, which is no name in DNS: many receivers refuse it", advice)
    if translated(each.address):
        text = f"is an address of a private network, and {each.ehlo}, its EHLO name, has no public address in DNS: nobody can check its name"
        return finding("problem", text, f"publish {_kind(each)} for {each.ehlo}: the address that the world sees (curl https://ifconfig.me)")
    if each.trouble:
        return finding("warning", f"DNS could not say its name: {each.trouble}", "ask again later, or another --name-server")
    if not each.pointers:
        text = "has no name (PTR) in DNS: Gmail, Outlook and many others refuse mail from it"
        return finding("problem", text, f"have the owner of the address (your provider) set its PTR to {each.ehlo}{_forward(each)}")
    if not confirmed:
        name, addresses = each.pointers[0]
        text = f"is called {name}, but {name} has {', '.join(addresses[:3]) or 'no address'}: a name that does not lead back counts as none"
        return finding("problem", text, f"publish {_kind(each)} {each.address} for {name}, or have the PTR set to {each.ehlo}{_forward(each)}")
    if each.ehlo.lower() not in confirmed:
        text = f"is called {confirmed[0]}, but says EHLO {each.ehlo}"
        return finding(
            "warning", text, f"smtp-source-host {each.behind or each.address} {confirmed[0]}, or set its PTR to {each.ehlo}{_forward(each)}"
        )
    found = finding("ok", f"is called {each.ehlo}, and back; its EHLO says the same")
    if _generic(each.ehlo, each.address):
        text = f"the name {each.ehlo} contains the address, as names do that providers give to everybody: some receivers refuse those"
        found += finding("warning", text, "choose a name of your own, such as mail1.example.com, for PTR, address and smtp-source-host")
    if len(each.pointers) > 1:
        text = f"has {len(each.pointers)} names ({', '.join(name for name, _ in each.pointers[:4])}): receivers look at any one of them"
        found += finding("hint", text, f"leave {each.ehlo} alone in its PTR")
    return found


def _forward(each: Named) -> str:
    return "" if each.address in each.ehlo_addresses else f", and publish {_kind(each)} {each.address} for {each.ehlo}"


def _kind(each: Named) -> str:
    return "AAAA" if ":" in each.address else "A"


def _generic(name: str, address: str) -> bool:
    """Whether *name* spells out an IPv4 *address*, in either direction."""
    if ":" in address:
        return False
    numbers = [str(int(number)) for number in re.findall(r"\d{1,3}", name)]
    octets = address.split(".")
    return any(numbers[at : at + 4] in (octets, octets[::-1]) for at in range(len(numbers) - 3))
