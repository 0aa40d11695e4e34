"""May this client send to this recipient?  The one place that says so; what no rule allows is refused (never an open relay).

The decision falls on the domain that the recipient will be *routed* by - what stands behind the last `@`, in canonical form - and a recipient
that only a relay-domain or relay-address admits may carry nothing that a later host could take for routing of its own (`%`, `!`, a second
`@`), however it is quoted.
"""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from functools import lru_cache
from typing import NamedTuple
from unicodedata import normalize

from engine.config import Config
from engine.mail.address import canonical_domain, is_written_plainly, split
from engine.mail.reply import Reply, reply


class Rule(Enum):
    """What admitted a recipient."""

    CLIENT = "client"  # always-allow-relaying, of its <source> or global
    RELAY_DOMAIN = "relay-domain"
    RELAY_ADDRESS = "relay-address"
    LOCAL = "local"  # postmaster, abuse or an alias of our own


class Target(NamedTuple):
    """One address that mail for an admitted recipient is queued for."""

    address: str
    domain: str  # canonical: the first half of its queue's name
    orcpt: str = ""  # RFC 3461 §4.2, where the address is not the one that the client gave


class Admitted(NamedTuple):
    """A recipient that may be accepted."""

    rule: Rule
    targets: tuple[Target, ...]  # never empty; several only for a forwarded postmaster or alias


DENIED = reply(550, "5.7.1 relaying denied")
DENIED_FOR_NOW = reply(450, "4.7.1 relaying denied")  # instead of it under relay-debug
UNKNOWN_USER = reply(550, "5.1.1 no such user here")
NO_DOMAIN = reply(501, "5.1.3 recipient address needs a domain")
BAD_DOMAIN = reply(501, "5.1.3 bad domain in recipient address")

LOCAL_DOMAIN = "local"  # PowerMTA's pseudo-domain of local aliases: our host-names
_LOCAL_USERS = frozenset({"postmaster", "abuse"})  # RFC 5321 §4.5.1, RFC 2142 §4
_ROUTING = re.compile(r"[%!@:,;<>\s\x00-\x1f\x7f]")  # in a local part: what Postfix's allow_untrusted_routing is about, and what breaks headers
_NAME = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class Access:
    """The relay rules of one configuration."""

    def __init__(self, config: Config) -> None:
        server = config.server
        self._host_names = frozenset(canonical_domain(name) for name in server.host_name)
        self._main_name = canonical_domain(server.host_name[0]) if server.host_name else "localhost"
        self._postmasters = server.postmaster
        self._aliases = _alias_table(server.alias, self._main_name)
        self._relay_domains = config.relay_domains
        self._relay_addresses = frozenset(pattern.address for pattern in server.relay_address if pattern.regex is None)
        self._relay_regexes = tuple(pattern for pattern in server.relay_address if pattern.regex is not None)

    def admit(self, address: str, may_relay: bool, local_ip: str = "") -> Admitted | Reply:
        """Admitted with its rule, or the Reply that refuses RCPT TO:<*address*>.

        *may_relay*: always-allow-relaying of the client (merged).  *local_ip*: the address that it connected to, for `postmaster@[ip]`;
        needed only where *address* ends in `]`.
        """
        local, domain = split(address)
        if not address.isascii() and not may_relay and not is_written_plainly(address.rpartition("@")[2]):
            return DENIED
        if not domain:
            if local.lower() == "postmaster":
                if self._aliases and (targets := self._alias(local, self._main_name)):
                    return Admitted(Rule.LOCAL, targets)
                return self._forwarded("postmaster", self._main_name)
            return NO_DOMAIN if may_relay else DENIED
        if domain[0] == "[":
            return self._literal(address, local, domain, may_relay, local_ip)
        if domain not in self._host_names:
            if not _is_name(domain):
                return BAD_DOMAIN if may_relay else DENIED
            if may_relay and self._aliases and (targets := self._alias(local, domain)):
                return Admitted(Rule.CLIENT, targets)
            if may_relay:
                return Admitted(Rule.CLIENT, (Target(address if address[-1] != "." else f"{local}@{domain}", domain),))
        return self._by_rule(local, domain, may_relay)

    def _by_rule(self, local: str, domain: str, may_relay: bool) -> Admitted | Reply:
        """For a client that no <source> admits, and for the domains that are our own names: those are ours even for clients that may relay."""
        bare = _unquoted(local)
        if not bare.isascii():
            bare = normalize("NFKC", bare)  # what a later host may make of it: U+FF20 is a compatible @
        if not bare or _ROUTING.search(bare):
            return UNKNOWN_USER if may_relay else DENIED
        address = f"{local}@{domain}"
        aliased = self._alias(local, domain) if self._aliases else ()
        if aliased and (domain in self._host_names or domain == LOCAL_DOMAIN):
            return Admitted(Rule.LOCAL, aliased)
        if domain in self._host_names and bare.lower() in _LOCAL_USERS:
            return self._forwarded(bare, domain)
        if domain in self._relay_domains:
            return Admitted(Rule.RELAY_DOMAIN, aliased or (Target(address, domain),))
        if address.lower() in self._relay_addresses or any(pattern.matches(address) for pattern in self._relay_regexes):
            return Admitted(Rule.RELAY_ADDRESS, aliased or (Target(address, domain),))
        return UNKNOWN_USER if domain in self._host_names else DENIED

    def _literal(self, address: str, local: str, domain: str, may_relay: bool, local_ip: str) -> Admitted | Reply:
        ip = literal_ip(domain)
        if ip is not None and local_ip and ip == _address(local_ip):
            if _unquoted(local).lower() in _LOCAL_USERS:
                return self._forwarded(_unquoted(local), domain)
            return UNKNOWN_USER if may_relay else DENIED
        if may_relay:
            return Admitted(Rule.CLIENT, (Target(address, domain),)) if ip is not None else BAD_DOMAIN
        return self._by_rule(local, domain, may_relay) if ip is not None else DENIED

    def forwarded(self, address: str) -> tuple[Target, ...]:
        """Where mail of our own making for *address*, a directive's value, goes: aliases and the domain that it may lack."""
        local, domain = split(address)
        domain = domain or self._main_name
        return self._alias(local, domain) or (Target(f"{local}@{domain}", domain),)

    def _alias(self, local: str, domain: str) -> tuple[Target, ...]:
        """Where the aliases send mail for `local@domain`, aliases of aliases included; () if it is none.

        An address that an alias leads back to is delivered to as it is: `alias joe joe, backup@example.com` keeps a copy.
        """
        first = self._alias_targets(local, domain)
        if not first:
            return ()
        orcpt = f"rfc822;{local}@{domain}"
        seen = {f"{local.lower()}@{domain}"}
        found: list[Target] = []
        waiting = list(reversed(first))
        while waiting:
            address, target_domain = waiting.pop()
            key = address.lower()
            further = self._alias_targets(address.rpartition("@")[0], target_domain) if key not in seen else ()
            if further:
                seen.add(key)
                waiting.extend(reversed(further))
            elif all(target.address != address for target in found):
                found.append(Target(address, target_domain, orcpt))
        return tuple(found)

    def _alias_targets(self, local: str, domain: str) -> tuple[tuple[str, str], ...]:
        """(address, domain) of each target of the alias for `local@domain`: its own, else that of its user at our host-names, else its domain's."""
        user = _unquoted(local).lower()
        own = self._aliases.get(f"{user}@{domain}")
        if own is None and (domain in self._host_names or domain == LOCAL_DOMAIN):
            own = self._aliases.get(user)
        return own or self._aliases.get(f"*@{domain}") or ()

    def _forwarded(self, local: str, domain: str) -> Admitted:
        """Mail for our own postmaster (and abuse) goes where the `postmaster` directive says.

        Where it says nothing, the mail is queued for the same user of our first host-name, whose MX may well be another machine;
        if that is ourselves, delivery finds the loop and bounces it with that text: nothing is ever thrown away.
        """
        orcpt = f"rfc822;{local}@{domain}"
        if not self._postmasters:
            return Admitted(Rule.LOCAL, (Target(f"{local}@{self._main_name}", self._main_name, orcpt),))
        targets = []
        for address in self._postmasters:
            user, at = split(address)
            targets.append(Target(address, at, orcpt) if at else Target(f"{user}@{self._main_name}", self._main_name, orcpt))
        return Admitted(Rule.LOCAL, tuple(targets))


def _alias_table(aliases: tuple[tuple[str, tuple[str, ...]], ...], main_name: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """By source (`user`, `user@domain`, `*@domain`) the (address, domain) of each target; repeated sources add up."""
    table: dict[str, tuple[tuple[str, str], ...]] = {}
    for source, addresses in aliases:
        user, domain = split(source)
        targets = []
        for address in addresses:
            local, at = split(address)
            at = at if at and at != LOCAL_DOMAIN else main_name
            targets.append((f"{local}@{at}", at))
        key = f"{user}@{domain}" if domain and domain != LOCAL_DOMAIN else user
        table[key] = (*table.get(key, ()), *targets)
    return table


@lru_cache(maxsize=4096)
def _is_name(domain: str) -> bool:
    """A host name in canonical form (RFC 1123, and `_`): nothing else may meet a pattern or name a queue."""
    return _NAME.fullmatch(domain) is not None


def literal_ip(domain: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that the literal *domain* (`[192.0.2.1]`, `[ipv6:2001:db8::1]`) stands for; None if it is none (RFC 5321 §4.1.3)."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    inner = domain[1:-1]
    v6 = inner[:5].lower() == "ipv6:"
    ip = _address(inner[5:] if v6 else inner)
    return ip if ip is not None and (ip.version == 6) == v6 else None


def _address(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(ip)
    except ValueError:
        return None


def _unquoted(local: str) -> str:
    """*local* without the quotes of a Quoted-string and its quoted pairs (RFC 5321 §4.1.2): what the user's name really is."""
    if len(local) >= 2 and local[0] == local[-1] == '"':
        local = local[1:-1]
    return _QUOTED_PAIR.sub(r"\1", local) if "\\" in local else local
