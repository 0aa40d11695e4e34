"""Patterns over domains, networks and addresses, and the sets that find what matches without trying each entry."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Literal, TypeVar

import idna

from engine.config.regex import Regex

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Reach = Literal["all", "exact", "subdomains", "tree", "network"]
T = TypeVar("T")

MAX_DOMAIN = 255
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def domain_name(text: str) -> str:
    """*text* as a domain name in lower case and A-labels, without its root dot.  ValueError if it is none."""
    name = text.lower().removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise ValueError("not a domain name: not valid in IDNA") from None
    labels = name.split(".")
    if not name or len(name) > MAX_DOMAIN:
        raise ValueError("not a domain name")
    for label in labels:
        if not label or len(label) > 63 or not _LABEL.issuperset(label) or label[0] == "-" or label[-1] == "-":
            raise ValueError(f"not a domain name: the label {label[:64]!r}")
    return name


def parse_network(text: str) -> Network:
    """An IP address or CIDR, prefixes abbreviated as PowerMTA allows (`0/0`, `10/8`, `173.194/16`).  ValueError if it is neither."""
    host, slash, prefix = text.partition("/")
    if slash and ":" not in host and host.count(".") < 3:
        host += ".0" * (3 - host.count("."))
    if slash and not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3):
        raise ValueError("not an IP address or CIDR: the prefix is a number of bits")
    if "%" in host:
        raise ValueError("not an IP address or CIDR: zones are not supported")
    try:
        return ipaddress.ip_network(f"{host}/{prefix}" if slash else host, strict=False)
    except ValueError:
        raise ValueError("not an IP address or CIDR") from None


def parse_address(text: str) -> Address:
    """An IP address; ValueError if it is none."""
    try:
        if "%" in text:
            raise ValueError
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("not an IP address") from None


@dataclass(frozen=True, slots=True)
class DomainPattern:
    """`*` (all), a name or `{queue}` (exact), `*.name` (subdomains), `[*.]name` (tree: both), or `[ip/mask]` (network: address literals)."""

    reach: Reach
    name: str = ""
    network: Network | None = None

    @classmethod
    def parse(cls, text: str) -> DomainPattern:
        """The pattern *text*, macros already expanded.  ValueError if it is none."""
        if text == "*":
            return cls("all")
        if text.startswith("[*.]"):
            return cls("tree", domain_name(text[4:]))
        if text.startswith("*."):
            return cls("subdomains", domain_name(text[2:]))
        if text.startswith("[") and text.endswith("]"):
            inner = text[1:-1]
            return cls("network", network=parse_network(inner[5:] if inner.lower().startswith("ipv6:") else inner))
        if text.startswith("{") and text.endswith("}"):
            return cls("exact", text)
        if "*" in text:
            raise ValueError("a * stands only alone, or as *. or [*.] before a name")
        return cls("exact", domain_name(text))

    @property
    def is_everything(self) -> bool:
        """Whether it leaves out no domain, or no address literal of its family."""
        return self.reach == "all" or (self.network is not None and self.network.prefixlen == 0)

    def matches(self, domain: str) -> bool:
        """Whether *domain*, lower case and A-labels as `mail.address.split` gives it, is meant."""
        if self.reach == "all":
            return True
        if self.reach == "network":
            address = literal_address(domain)
            return address is not None and self.network is not None and address in self.network
        if self.reach != "subdomains" and domain == self.name:
            return True
        return self.reach != "exact" and domain.endswith(f".{self.name}")

    def __str__(self) -> str:
        return {"all": "*", "exact": self.name, "subdomains": f"*.{self.name}", "tree": f"[*.]{self.name}", "network": f"[{self.network}]"}[
            self.reach
        ]


def literal_address(domain: str) -> Address | None:
    """The address of an address literal `[10.1.0.2]` or `[IPv6:2001::1]`, IPv4 in IPv6 as IPv4; None if *domain* is none."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    inner = domain[1:-1]
    try:
        address = parse_address(inner[5:] if inner[:5].lower() == "ipv6:" else inner)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


class NetworkMap(Generic[T]):
    """Values under networks; a look-up costs one probe per prefix length in use, not one per network."""

    __slots__ = ("_by_prefix",)

    def __init__(self) -> None:
        self._by_prefix: dict[tuple[int, int], dict[int, list[T]]] = {}  # (version, prefix length) -> network number -> values

    def add(self, network: Network, value: T) -> None:
        self._by_prefix.setdefault((network.version, network.prefixlen), {}).setdefault(int(network.network_address), []).append(value)

    def freeze(self) -> NetworkMap[T]:
        """Puts wider networks first; call once, after the last `add`."""
        self._by_prefix = dict(sorted(self._by_prefix.items()))
        return self

    def find(self, address: Address) -> Iterator[tuple[int, T]]:
        """(prefix length, value) of every network that holds *address*, widest first, in the order of adding within one network."""
        number, bits = int(address), address.max_prefixlen
        for (version, prefix), networks in self._by_prefix.items():
            if version == address.version:
                for value in networks.get(number >> (bits - prefix) << (bits - prefix), ()):
                    yield prefix, value

    def items(self) -> Iterator[tuple[str, T]]:
        """(network, value) of all there are."""
        for (version, prefix), networks in self._by_prefix.items():
            for number, values in networks.items():
                address = ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)
                for value in values:
                    yield (str(address) if prefix == address.max_prefixlen else f"{address}/{prefix}"), value


class DomainMap(Generic[T]):
    """Values under domain patterns; a look-up costs O(labels of the domain), however many patterns there are."""

    __slots__ = ("_all", "_below", "_exact", "_itself", "_networks")

    def __init__(self) -> None:
        self._all: list[T] = []
        self._below: dict[str, list[T]] = {}  # under *.name and [*.]name
        self._itself: dict[str, list[T]] = {}  # [*.]name on the name
        self._exact: dict[str, list[T]] = {}
        self._networks: NetworkMap[T] = NetworkMap()

    def items(self) -> Iterator[tuple[str, T]]:
        """(pattern, value) of all there are."""
        for value in self._all:
            yield "*", value
        for name, values in self._exact.items():
            for value in values:
                yield name, value
        for name, values in self._below.items():
            trees = {id(value) for value in self._itself.get(name, ())}
            for value in values:
                yield (f"[*.]{name}" if id(value) in trees else f"*.{name}"), value
        for network, value in self._networks.items():
            yield f"[{network}]", value

    def add(self, pattern: DomainPattern, value: T) -> None:
        match pattern.reach:
            case "all":
                self._all.append(value)
            case "exact":
                self._exact.setdefault(pattern.name, []).append(value)
            case "network":
                assert pattern.network is not None
                self._networks.add(pattern.network, value)
            case "subdomains" | "tree":
                self._below.setdefault(pattern.name, []).append(value)
                if pattern.reach == "tree":
                    self._itself.setdefault(pattern.name, []).append(value)

    def freeze(self) -> DomainMap[T]:
        """Call once, after the last `add`."""
        self._networks.freeze()
        return self

    def find(self, domain: str) -> Iterator[tuple[int, T]]:
        """(rank, value) of all that match *domain*, weakest first; a higher rank is more specific, equal ranks come in the order of adding."""
        for value in self._all:
            yield 0, value
        if domain.startswith("["):
            address = literal_address(domain)
            if address is not None:
                for prefix, value in self._networks.find(address):
                    yield 1 + prefix, value
            return
        if self._below:
            at = domain.rfind(".", 0, len(domain))
            rank = 1
            while at >= 0:
                for value in self._below.get(domain[at + 1 :], ()):
                    yield rank, value
                at = domain.rfind(".", 0, at)
                rank += 1
        for value in self._itself.get(domain, ()):
            yield 500, value
        for value in self._exact.get(domain, ()):
            yield 501, value

    def singles_out(self, domain: str) -> bool:
        """Whether `find` may have more to say of *domain* than what is under `*`."""
        if domain in self._exact or domain in self._itself or domain.startswith("["):
            return True
        if self._below:
            at = domain.rfind(".")
            while at >= 0:
                if domain[at + 1 :] in self._below:
                    return True
                at = domain.rfind(".", 0, at)
        return False


class DomainSet:
    """A set of domain patterns, with `in` in O(labels)."""

    __slots__ = ("_map", "patterns")

    def __init__(self, patterns: Iterable[DomainPattern]) -> None:
        self.patterns = tuple(patterns)
        self._map: DomainMap[bool] = DomainMap()
        for pattern in self.patterns:
            self._map.add(pattern, True)
        self._map.freeze()

    def __contains__(self, domain: str) -> bool:
        return next(self._map.find(domain), None) is not None

    def matches(self, domain: str) -> bool:
        """Whether any pattern matches *domain*, lower case and A-labels."""
        return domain in self


@dataclass(frozen=True, slots=True)
class AddressPattern:
    """One address, or a regular expression over addresses; case makes no difference in either."""

    address: str = ""
    regex: Regex | None = None

    def matches(self, address: str) -> bool:
        """Whether *address* (`local@domain`) is meant; bounded time whatever the pattern and the text."""
        if self.regex is not None:
            return self.regex.search(address)
        return self.address == address.lower()

    def __str__(self) -> str:
        return self.address if self.regex is None else repr(self.regex)


@lru_cache(maxsize=4096)
def client_address(ip: str) -> Address:
    """The address of a client; IPv4 in IPv6 (`::ffff:192.0.2.1`) as IPv4.  ValueError if *ip* is none."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address
