"""How a stranger comes to our listeners: from which address, and with what tricks (envelopes only, never a message).  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from engine.config import Config, ListenerSettings
from engine.doctor.listeners import IMPLICIT_TLS_PORT

# domains that exist and take no mail (RFC 2606, RFC 7505): a server that checks names still has to say whether it relays
_ELSEWHERE: Final = ("example.org", "example.net", "example.com")
_USER: Final = "engine-doctor"
_STRANGERS: Final = {4: "198.51.100.99", 6: "2001:db8::99"}  # of networks for documentation: no rule means them
_LOOPBACK: Final = ("127.0.0.1", "127.0.0.2", "127.83.77.84", "127.200.1.1")  # every one of 127/8 is ours


class Trick(NamedTuple):
    """One envelope that no rule should admit."""

    name: str
    sender: str
    recipient: str  # as it stands between < and >


class Door(NamedTuple):
    """A listener to look at, from *client* ("": as the kernel likes), trying *tricks*; *untried*: why none.

    *role* is the port that *port* stands for, the same unless something translates it; *immediate_tls*: it speaks TLS from the first byte.
    """

    address: str
    port: int
    role: int
    client: str
    host_name: str
    immediate_tls: bool
    tricks: tuple[Trick, ...] = ()
    untried: str = ""

    @property
    def where(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def door_of(
    config: Config,
    place: tuple[str, int, int],
    local: Sequence[IPv4Address | IPv6Address],
    *,
    listener: ListenerSettings | None = None,
    client: str = "",
    own: str = "",
) -> Door:
    """The door at *place*, (address, port, role), or at an address of this host's where that is a wildcard.

    *listener*: the smtp-listener that made it, if it is one of ours; *local*: the addresses of this host; *client*: where to come from, if it
    is of the same family; *own*: where we would come from, to a listener of another host's.
    """
    address, port, role = place
    source = "" if listener is None else listener.source
    address = _concrete(address, local)
    version = ip_address(address).version
    host_name = config.server.host_name[0]
    domains = config.relay_domains
    elsewhere = next((domain for domain in _ELSEWHERE if domain not in domains and domain not in config.server.host_name), _ELSEWHERE[0])
    relayed = next((pattern.name for pattern in config.server.relay_domain if pattern.reach in ("exact", "tree")), "")
    immediate_tls = role == IMPLICIT_TLS_PORT if listener is None else listener.immediate_tls
    door = Door(address, port, role, "", host_name, immediate_tls, tricks(host_name, address, elsewhere, relayed))
    if client and ip_address(client).version == version:
        return door._replace(client=client)
    if own:
        if not _relays(config, own, source):
            return door
        return door._replace(tricks=(), untried=f"{own}, from where we come, may relay there")
    candidates = _candidates(address, local)
    found = next((each for each in candidates if not _relays(config, each, source) and config.client(each, source).smtp_service), None)
    found = found or next((each for each in candidates if not _relays(config, each, source)), None)
    if found is not None:
        return door._replace(client=found)
    if ip_address(address).is_loopback:
        return door._replace(tricks=(), untried="whoever reaches it may relay, and only this host does")
    if _relays(config, _STRANGERS[version], source):  # everybody may: then any address is a stranger's
        return door._replace(client=candidates[0])
    return door._replace(tricks=(), untried="every address of this host may relay there")


def tricks(host_name: str, address: str, elsewhere: str, relayed: str = "") -> tuple[Trick, ...]:
    """What to try at the listener on *address* of the server *host_name*, to reach a mailbox at *elsewhere*.

    *relayed*: a domain that anyone may send to, which is relayed on to somebody else; "" without one.
    """
    victim = f"{_USER}@{elsewhere}"
    literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    found = [
        Trick("a stranger to a stranger", f"{_USER}@example.com", victim),
        Trick("from nobody", "", victim),
        Trick("as if from us", f"postmaster@{host_name}", victim),
        Trick("percent", "", f"{_USER}%{elsewhere}@{host_name}"),
        Trick("percent, to our address", "", f"{_USER}%{elsewhere}@{literal}"),
        Trick("bang", "", f"{elsewhere}!{_USER}@{host_name}"),
        Trick("quoted address", "", f'"{victim}"'),
        Trick("quoted address at us", "", f'"{victim}"@{host_name}'),
        Trick("quoted percent at us", "", f'"{_USER}%{elsewhere}"@{host_name}'),
        Trick("two @", "", f"{victim}@{host_name}"),
        Trick("source route", "", f"@{host_name}:{victim}"),
        Trick("no domain", "", f"{_USER}%{elsewhere}"),
    ]
    if relayed:
        found.append(Trick("percent by a relayed domain", "", f"{_USER}%{elsewhere}@{relayed}"))
    return tuple(found)


def relaying(config: Config) -> tuple[str, ...]:
    """The <source> sections whose hosts may send to anybody."""
    return tuple(network for network, entry in config.sources.items() if entry.values.get("always_allow_relaying"))


def _relays(config: Config, client: str, source: str) -> bool:
    return config.client(client, source).always_allow_relaying


def _concrete(address: str, local: Sequence[IPv4Address | IPv6Address]) -> str:
    ip = ip_address(address)
    if not ip.is_unspecified:
        return address
    usable = [str(each) for each in local if each.version == ip.version and not each.is_loopback and not each.is_link_local]
    return usable[0] if usable else "127.0.0.1" if ip.version == 4 else "::1"


def _candidates(address: str, local: Sequence[IPv4Address | IPv6Address]) -> list[str]:
    """Where a stranger to *address* could come from on this host, the likeliest first."""
    ip = ip_address(address)
    if ip.is_loopback:
        return [address, *_LOOPBACK] if ip.version == 4 else [address]
    others = [str(each) for each in local if each.version == ip.version and each != ip and not each.is_loopback and not each.is_link_local]
    return [address, *others]
