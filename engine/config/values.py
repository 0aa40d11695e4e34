"""The value types of the language: what a directive's arguments may be, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine import units
from engine.config.lexer import Arguments, ValueProblem
from engine.config.pattern import Address, AddressPattern, Network, domain_name, parse_address, parse_network
from engine.config.queue_pattern import QueuePattern
from engine.config.regex import Regex, RegexProblem
from engine.config.snapshot import FileText
from engine.config.tls import ServerTls

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValueType(Generic[T]):
    """How arguments become a value; `parse` raises ValueProblem."""

    name: str  # as the documentation calls it
    parse: Callable[[Arguments], T]
    secret: bool = False  # never quote its text


@dataclass(frozen=True, slots=True)
class SourceHost:
    """Addresses that we send from, and the name we say there ("": the virtual MTA's own)."""

    network: Network
    host_name: str = ""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One next hop of `smtp-hosts`: a host name, an IP address (literal), or a domain whose MXs are taken (lookup_mx)."""

    host: str
    port: int | None = None  # None: default-smtp-port
    literal: bool = False
    lookup_mx: bool = False


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One `smtp-listener`: every local address in *network*; *source* names a `<source>` to apply to its clients."""

    network: Network
    port: int = 25
    source: str = ""
    immediate_tls: bool = False  # from the first byte (RFC 8314)
    tls: ServerTls | None = None  # None: the server's
    proxies: tuple[Network, ...] = ()  # whose PROXY header is believed, and demanded


def parse_value(value_type: ValueType[T], text: str) -> T:
    """*text* as *value_type*; ValueProblem if it is not, or if something is left over."""
    arguments = Arguments(text)
    value = value_type.parse(arguments)
    arguments.end()
    return value


def one(name: str, read: Callable[[str], T], *, secret: bool = False) -> ValueType[T]:
    """A type of one word, made by *read*, which raises ValueError."""

    def parse(arguments: Arguments) -> T:
        return _read(arguments, read)

    return ValueType(name, parse, secret)


def _read(arguments: Arguments, read: Callable[[str], T], stops: str = "") -> T:
    word = arguments.word(stops)
    return _convert(word, arguments.position - len(word), read)


def _convert(text: str, offset: int, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except ValueProblem:
        raise
    except ValueError as error:
        raise ValueProblem(
            f"{text[:60]!r} is {error}" if str(error).startswith(("not ", "a ")) else f"{text[:60]!r}: {error}", max(0, offset)
        ) from None


def many(name: str, read: Callable[[str], T], *, most: int | None = None, separators: str = ",") -> ValueType[tuple[T, ...]]:
    """A type of several values with commas between; `""` is none."""

    def parse(arguments: Arguments) -> tuple[T, ...]:
        items = arguments.list(separators)
        if most is not None and len(items) > most:
            raise ValueProblem(f"more than {most} values", items[most][1])
        return tuple(_convert(item, offset, read) for item, offset, _ in items)

    return ValueType(name, parse)


def choice(*words: str) -> ValueType[str]:
    """One of *words*, in any case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueProblem(f"{text[:60]!r}: one of {', '.join(words)} is expected{did_you_mean(text, words)}")
        return text.lower()

    return one("|".join(words), read)


def did_you_mean(word: str, known: Any) -> str:
    """`; did you mean 'x'?` for the nearest of *known*, or nothing."""
    import difflib  # only where something is wrong already

    near = difflib.get_close_matches(word.lower()[:64], list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in ("yes", "true"):
        return True
    if word in ("no", "false"):
        return False
    raise ValueError("neither yes, true, no nor false")


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise ValueError("not a whole number")
        if not least <= int(text) <= most:
            raise ValueError(f"not between {least} and {most}")
        return int(text)

    return read


_MOST = 2**31 - 1
_count = _number(1, _MOST)
_port = _number(1, 65535)


def _limit(text: str) -> int:
    return 0 if text.lower() == "unlimited" else _number(0, _MOST)(text)


def _seconds(text: str) -> float:
    return float(units.parse_seconds(text))


def _positive_seconds(text: str) -> float:
    seconds = units.parse_seconds(text)
    if seconds < 1:
        raise ValueError("not at least 1s")
    return float(seconds)


def _idle_seconds(text: str) -> float:
    seconds = units.parse_seconds(text)
    if seconds > 600:
        raise ValueError("not at most 10m")
    return float(seconds)


def _or_never(text: str) -> float | None:
    return None if text.lower() == "never" else _seconds(text)


def _no_mx(text: str) -> float | None:
    if text.lower() in ("no", "false"):
        return None
    return 0.0 if text.lower() in ("yes", "true") else _seconds(text)


def _name(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("not a name")
    return text


def _mail_address(text: str) -> str:
    local, at, domain = text.rpartition("@")
    if not at:
        local, domain = text, ""
    if not local or len(text) > 320 or any(c.isspace() or c in "<>" for c in text):
        raise ValueError("not a mail address")
    try:
        return f"{local}@{domain_name(domain)}" if at else local
    except ValueError:
        raise ValueError("not a mail address") from None


def _path(text: str) -> str:
    if not text:
        raise ValueError("not a file name")
    return text


def _address_port(text: str) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("not an IP address with an optional :port")
        port = rest[1:]
        if rest and not port:
            raise ValueError("not an IP address with an optional :port")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    return str(parse_address(host)), _port(port) if port else 53


def _listener_address(text: str) -> tuple[Network, int]:
    network, colon, port = text.rpartition(":")
    if not colon or (":" in network and "[" not in network and "/" not in network):  # no port, or one group of a bare IPv6 address
        network, port = text, ""
    if network.startswith("["):
        inner, bracket, rest = network[1:].partition("]")
        if not bracket or (rest and not rest.startswith("/")) or not text.endswith(("]", *"0123456789")):
            raise ValueError("not an address such as 0/0:25 or [::1]:25")
        network = inner + rest
    return parse_network(network), _port(port) if port else 25


def _parse_listener(arguments: Arguments) -> ListenerSettings:
    network, port = _read(arguments, _listener_address)
    source = ""
    if not arguments.at_end:
        start = arguments.position
        key, equals, value = arguments.word().partition("=")
        if key.lower() != "source" or not equals:
            raise ValueProblem("only source=NAME may follow the address", start)
        source = value or arguments.word()
        if source.startswith('"'):
            source = source.strip('"')
    return ListenerSettings(network, port, source)


def _parse_source_host(arguments: Arguments) -> SourceHost:
    start = arguments.position
    word = arguments.word()
    try:
        network = parse_network(word)
    except ValueError as error:
        reason = f"{word[:60]!r} is {error}"
        if not arguments.at_end:
            try:
                parse_network(arguments.word())
            except ValueError:
                pass
            else:
                reason = "the address comes first, then the host name"
        raise ValueProblem(reason, start) from None
    if arguments.at_end:
        arguments.notes.append(("no host name follows the address: EHLO says host-name instead", arguments.position))
        return SourceHost(network)
    return SourceHost(network, _read(arguments, domain_name))


def _source_address(text: str) -> SourceHost:
    return SourceHost(parse_network(text))


def _host_spec(text: str) -> HostSpec:
    if text.lower().startswith("lookup-mx:"):
        return HostSpec(domain_name(text[len("lookup-mx:") :]), lookup_mx=True)
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("not an address literal with an optional :port")
        address = parse_address(inner[5:] if inner.lower().startswith("ipv6:") else inner)
        return HostSpec(str(address), _port(rest[1:]) if rest else None, literal=True)
    if text.count(":") > 1:
        raise ValueError("not a host: IPv6 addresses stand in brackets")
    host, colon, port = text.partition(":")
    try:
        return HostSpec(str(parse_address(host)), _port(port) if colon else None, literal=True)  # a bare IPv4 address
    except ValueError:
        return HostSpec(domain_name(host), _port(port) if colon else None)


def _parse_smtp_hosts(arguments: Arguments) -> tuple[tuple[HostSpec, ...], ...]:
    groups: list[list[HostSpec]] = []
    for item, offset, separator in arguments.list(",;"):
        if separator != ",":
            groups.append([])
        groups[-1].append(_convert(item, offset, _host_spec))
    return tuple(tuple(group) for group in groups)


def slashed(arguments: Arguments) -> tuple[str, int]:
    """The text between two slashes and its offset; a slash inside is written `\\/`.  Quotes may stand around the whole."""
    text, start = arguments.remaining()
    if text[start : start + 2] == '"/':
        quoted = Arguments(arguments.word())
        pattern, _ = slashed(quoted)
        quoted.end()
        return pattern, start + 2
    at = start + 1
    while at < len(text) and text[at] != "/":
        at += 2 if text[at] == "\\" else 1
    if text[start : start + 1] != "/" or at >= len(text):
        raise ValueProblem("a pattern between slashes is expected" if text[start : start + 1] != "/" else "the pattern does not end with /", start)
    arguments.position = at + 1
    return text[start + 1 : at], start + 1


def compile_regex(text: str, offset: int) -> Regex:
    """The pattern *text*; ValueProblem with the place inside it."""
    try:
        return Regex(text)
    except RegexProblem as error:
        raise ValueProblem(f"in the pattern: {error.text}", offset + error.offset) from None


def _parse_address_pattern(arguments: Arguments) -> AddressPattern:
    text, start = arguments.remaining()
    if text[start : start + 1] == "/":
        return AddressPattern(regex=compile_regex(*slashed(arguments)))
    return AddressPattern(address=_read(arguments, _mail_address).lower())


def _parse_network_and(read: Callable[[str], Any]) -> Callable[[Arguments], tuple[Network, Any] | None]:
    def parse(arguments: Arguments) -> tuple[Network, Any] | None:
        network, bound = _read(arguments, parse_network), _read(arguments, read)
        return (network, bound) if bound else None  # None: unlimited

    return parse


def _per_hour(text: str) -> units.Rate | None:
    bound = _limit(text)
    return units.Rate(bound, 3600) if bound else None


def _every_network_limit(text: str) -> tuple[Network, int] | None:
    bound = _limit(text)
    return (parse_network("0/0"), bound) if bound else None


def _parse_name_limit(arguments: Arguments) -> tuple[str, int] | None:
    pattern, bound = _read(arguments, _name), _read(arguments, _limit)
    return (pattern, bound) if bound else None  # None: unlimited


def _parse_words(least: int, most: int) -> Callable[[Arguments], tuple[str, ...]]:
    def parse(arguments: Arguments) -> tuple[str, ...]:
        words = [arguments.word()]
        while not arguments.at_end and len(words) < most:
            words.append(arguments.word())
        if len(words) < least:
            raise ValueProblem("argument missing", arguments.position)
        return tuple(words)

    return parse


def _parse_rest(arguments: Arguments) -> str:
    if arguments.at_end:
        raise ValueProblem("argument missing", arguments.position)
    return arguments.rest()


def _parse_domain_key(arguments: Arguments) -> tuple[str, ...]:
    items = arguments.list(",")
    if len(items) != 3 and not (len(items) == 2 and items[1][0] == "{domain}"):
        raise ValueProblem("SELECTOR, DOMAIN, FILE is expected", items[0][1] if items else 0)
    return tuple(item for item, _, _ in items)


def _parse_record_fields(arguments: Arguments) -> tuple[str, tuple[tuple[str, int], ...]]:
    record = _read(arguments, record_type)
    return record, tuple((item, offset) for item, offset, _ in arguments.list(","))


RECORD_TYPES = {
    "delivery": "d",
    "bounce": "b",
    "transient": "t",
    "transient-queue": "tq",
    "receipt": "r",
    "feedback-loop": "f",
    "remote-bounce": "rb",
    "remote-status": "rs",
}


def record_type(text: str) -> str:
    """The short name of a record type.  ValueProblem if *text* is none."""
    word = text.lower()
    if word in RECORD_TYPES.values():
        return word
    if word in RECORD_TYPES:
        return RECORD_TYPES[word]
    raise ValueProblem(f"{text[:60]!r}: one of {', '.join(RECORD_TYPES.values())} is expected{did_you_mean(text, RECORD_TYPES)}")


def _rate_word(text: str) -> str:
    units.parse_rate(text)
    return text


def _acct_size(text: str) -> int:
    size_bytes = units.parse_size(text)
    if 0 < size_bytes < 1 << 20:
        raise ValueError("at least 1M")
    return size_bytes


def _sign(text: str) -> str:
    if text.lower() == "if-x-dkim-options-present":
        return text.lower()
    return "yes" if _boolean(text) else "no"


def _privacy(text: str) -> str:
    if text.lower() not in ("retain", "redact", "siphash", "siphash-hexkey", "hmac-sha256", "hmac-sha256-hexkey"):
        raise ValueError("not a privacy policy")
    return text.lower()


def _parse_privacy(arguments: Arguments) -> str:
    policy = _read(arguments, _privacy)
    if not arguments.at_end:
        arguments.rest()  # its key
    return policy


def _header_name(text: str) -> bytes:
    name = text.removesuffix(":").lower()
    if not name or not all("!" <= char <= "~" and char != ":" for char in name):
        raise ValueError("not the name of a header field")
    return name.encode("ascii")


boolean = one("bool", _boolean)
count = one("N", _count)
limit = one("N or unlimited", _limit)
number = one("N", _number(0, 10**17))
edns_length = one("N", lambda text: min(max(_number(0, _MOST)(text), 512), 2048) if text != "0" else 0)
percent = one("N", _number(0, 100))
spool_priority = one("N", _number(1, 100))
port = one("port", _port)
latency = one("ms", _number(0, 600_000))
address_text = one("IP", lambda text: str(parse_address(text)))
port_or_off = one("port", _number(0, 65535))
seconds = one("time", _seconds)
positive_seconds = one("time", _positive_seconds)
idle_seconds = one("time up to 10m", _idle_seconds)
seconds_or_never = one("time or never", _or_never)
no_mx = one("bool or time", _no_mx)
seconds_list = many("times", _positive_seconds, most=30)
size = one("size", units.parse_size)
rate = one("rate", units.parse_rate)
per_hour = one("N or unlimited", _per_hour)  # old forms, read as the value of what replaced them
every_network_limit = one("N or unlimited", _every_network_limit)
data_rate = one("data rate", units.parse_rate)
name = one("name", _name)
names = many("names", _name)
networks = many("CIDRs", parse_network)
text = ValueType("text", _parse_rest)
macro = ValueType("name, values", _parse_rest)  # the quoting of single values is read with the macros
secret = ValueType("text", _parse_rest, secret=True)
words = ValueType("words", _parse_words(1, 100))
two_words = ValueType("two values", _parse_words(2, 2))
file = one("file", _path)
file_text = one("file", lambda text: FileText(_path(text)))
file_and_password = ValueType("file [password]", _parse_words(1, 2), secret=True)
mail_address = one("address", _mail_address)
mail_address_or_empty = one("address or nothing", lambda text: _mail_address(text) if text else "")
mail_addresses = many("addresses", _mail_address)
host_name = one("host name", domain_name)
address: ValueType[Address] = one("IP", parse_address)
network: ValueType[Network] = one("IP or CIDR", parse_network)
address_port = one("IP[:port]", _address_port)
listener = ValueType("CIDR:port [source=name]", _parse_listener)
listener_address = one("address:port", _listener_address)
source_host = ValueType("IP or CIDR, host name", _parse_source_host)
source_address = one("IP or CIDR", _source_address)
smtp_hosts = ValueType("hosts", _parse_smtp_hosts)
address_pattern = ValueType("address or /regex/", _parse_address_pattern)
network_limit = ValueType("CIDR N", _parse_network_and(_limit))
network_rate = ValueType("CIDR rate", _parse_network_and(units.parse_rate))
name_limit = ValueType("name N", _parse_name_limit)
domain_pattern_texts = many("domain patterns", _name)
domain_key = ValueType("selector, domain, file", _parse_domain_key)
group_or_empty = one("name of a group", lambda text: _name(text) if text else "")
name_or_empty = one("name", lambda text: _name(text) if text else "")
rate_word = _rate_word
sign = one("bool or if-x-dkim-options-present", _sign)
privacy = ValueType("privacy policy", _parse_privacy, secret=True)
header_name = one("header name", lambda text: _header_name(text) if text else b"")
header_names = many("header names", _header_name)
record_types = many("record types", record_type)
queue_patterns = many("queue patterns", QueuePattern.parse)
acct_size = one("size of at least 1M", _acct_size)
record_fields = ValueType("record type and fields", _parse_record_fields)
