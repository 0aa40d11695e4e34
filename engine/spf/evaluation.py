"""check_host() of RFC 7208 section 4 as a generator: it yields questions to DNS, is sent the answers, and returns the verdict.  Pure."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple, TypeAlias, TypeVar

from engine.dns.answer import Answer, Found, NoData, NxDomain, TemporaryFailure
from engine.dns.codec import AAAA, MX, PTR, TXT, A, Question
from engine.spf.macro import MacroString, SpfError, dotted, expand, needs_name
from engine.spf.record import Mechanism, Record, Result, find_record, parse_record

MAX_LOOKUPS: Final = 10  # terms that ask DNS (section 4.6.4)
MAX_VOID_LOOKUPS: Final = 2
MAX_NAMES: Final = 10  # MX or PTR records of one term

Address: TypeAlias = IPv4Address | IPv6Address
T = TypeVar("T")
Asking: TypeAlias = Generator[Question, Answer, T]

_LABEL = re.compile(r"[!-~]{1,63}\Z")


class Verdict(NamedTuple):
    """The result, and why: the *term* that decided, in the record of *domain*; *text* says what is wrong."""

    result: Result
    domain: str
    term: str = ""
    text: str = ""
    lookups: int = 0
    record: str = ""  # of the domain that was asked for


class _Temporary(Exception):
    """DNS could not say: temperror."""


async def answered(check: Asking[T], ask: Callable[[Question], Awaitable[Answer]]) -> T:
    """What *check* returns when *ask* answers its questions; the deadline is the caller's."""
    try:
        question = next(check)
        while True:
            question = check.send(await ask(question))
    except StopIteration as end:
        result: T = end.value
        return result


def check_host(
    client: Address, domain: str, *, sender: str = "", helo: str = "", max_void_lookups: int = MAX_VOID_LOOKUPS
) -> Generator[Question, Answer, Verdict]:
    """Whether *client* may send for *domain*; *sender*: the reverse path ("" for the HELO identity), *helo*: what the client calls itself.

    Questions: at most 10 terms with 11 each, besides the records themselves.
    """
    return _Check(client, sender or f"postmaster@{domain}", helo or domain, max_void_lookups).host(domain)


class _Check:
    def __init__(self, client: Address, sender: str, helo: str, max_void_lookups: int) -> None:
        mapped = client.ipv4_mapped if isinstance(client, IPv6Address) else None
        self._client: Address = mapped or client
        local, at, origin = sender.rpartition("@")
        self._sender = f"{local if at and local else 'postmaster'}@{origin}"
        self._helo = helo
        self._lookups = 0
        self._voids = 0
        self._max_voids = max_void_lookups
        self._names: list[str] | None = None

    def host(self, domain: str) -> Asking[Verdict]:
        try:
            verdict = yield from self._check(domain)
        except SpfError as error:
            verdict = Verdict("permerror", domain, text=str(error))
        except _Temporary as error:
            verdict = Verdict("temperror", domain, text=str(error))
        return verdict._replace(lookups=self._lookups)

    def _check(self, domain: str) -> Asking[Verdict]:
        domain = domain.lower().removesuffix(".")
        if not is_domain(domain):
            return Verdict("none", domain, text="not a domain name of several labels")
        answer = yield Question(domain, TXT)
        text = find_record(_found(answer, domain).texts)
        if text is None:
            return Verdict("none", domain, text="no such domain" if isinstance(answer, NxDomain) else "no SPF record")
        record = parse_record(text)
        shown = text.decode("ascii")
        for mechanism in record.mechanisms:
            if (yield from self._matches(mechanism, domain)):
                return Verdict(mechanism.result, domain, mechanism.text, record=shown)
        if record.redirect is None or any(mechanism.name == "all" for mechanism in record.mechanisms):
            return Verdict("neutral", domain, text="nothing in the record matches", record=shown)
        return (yield from self._redirected(record, record.redirect, domain))._replace(record=shown)

    def _redirected(self, record: Record, target: MacroString, domain: str) -> Asking[Verdict]:
        self._count(f"redirect= of {domain}")
        onward = yield from self._expanded(target, domain)
        verdict = yield from self._check(onward)
        if verdict.result == "none":
            raise SpfError(f"redirect={onward} leads to no SPF record")
        return verdict

    def _matches(self, mechanism: Mechanism, domain: str) -> Asking[bool]:
        if mechanism.name == "all":
            return True
        if mechanism.network is not None:
            return self._client.version == mechanism.network.version and self._client in mechanism.network
        self._count(f"{mechanism.text} of {domain}")
        target = domain if mechanism.domain is None else (yield from self._expanded(mechanism.domain, domain))
        if mechanism.name == "include":
            return (yield from self._included(target))
        if mechanism.name == "exists":
            return bool((yield from self._ask(target, A)).addresses)
        if mechanism.name == "ptr":
            names = yield from self._validated()
            return any(name == target.lower() or name.endswith(f".{target.lower()}") for name in names)
        hosts: Iterable[str] = (target,)
        if mechanism.name == "mx":
            exchanges = (yield from self._ask(target, MX)).exchanges
            if len(exchanges) > MAX_NAMES:
                raise SpfError(f"{mechanism.text}: {target} has more than {MAX_NAMES} MX records")
            hosts = [mx.host for mx in exchanges if mx.host != "."]
        prefix = mechanism.prefix4 if self._client.version == 4 else mechanism.prefix6
        network = ip_network(f"{self._client}/{prefix}", strict=False)
        for host in hosts:
            found = yield from self._ask(host, A if self._client.version == 4 else AAAA)
            if any(ip_address(address) in network for address in found.addresses):
                return True
        return False

    def _included(self, target: str) -> Asking[bool]:
        verdict = yield from self._check(target)
        if verdict.result == "none":
            raise SpfError(f"include:{target}: {verdict.text}")
        return verdict.result == "pass"

    def _count(self, what: str) -> None:
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise SpfError(f"more than {MAX_LOOKUPS} terms that ask DNS, the first too many being {what}")

    def _ask(self, name: str, kind: int) -> Asking[Found]:
        """Records of *name*; an empty Found, counted, where there are none."""
        answer = yield Question(name.lower(), kind)
        if isinstance(answer, NoData | NxDomain):
            self._voids += 1
            if self._voids > self._max_voids:
                raise SpfError(f"more than {self._max_voids} look-ups found nothing, the last being {name}")
        return _found(answer, name)

    def _expanded(self, parts: MacroString, domain: str) -> Asking[str]:
        values = {
            "s": self._sender,
            "l": self._sender.rpartition("@")[0],
            "o": self._sender.rpartition("@")[2],
            "d": domain,
            "i": dotted(self._client),
            "h": self._helo,
            "v": "in-addr" if self._client.version == 4 else "ip6",
            "p": "unknown",
        }
        if needs_name(parts):
            names = yield from self._validated()
            same = [name for name in names if name == domain]
            below = [name for name in names if name.endswith(f".{domain}")]
            values["p"] = next(iter(same + below + names), "unknown")
        return expand(parts, values)

    def _validated(self) -> Asking[list[str]]:
        """The client's names that lead back to it (section 5.5): asked for once."""
        if self._names is None:
            names: list[str] = []
            answer = yield Question(self._client.reverse_pointer, PTR)
            for name in answer.names[:MAX_NAMES] if isinstance(answer, Found) else ():
                back = yield Question(name, A if self._client.version == 4 else AAAA)
                if isinstance(back, Found) and any(ip_address(address) == self._client for address in back.addresses):
                    names.append(name)
            self._names = names
        return self._names


def is_domain(text: str) -> bool:
    """Whether *text* can be asked about: several labels, each of 1 to 63 printable characters."""
    labels = text.split(".")
    return len(labels) > 1 and len(text) <= 253 and all(_LABEL.match(label) for label in labels)


def _found(answer: Answer, name: str) -> Found:
    if isinstance(answer, TemporaryFailure):
        raise _Temporary(f"{name}: {answer.text}")
    return answer if isinstance(answer, Found) else Found(name, 0.0)
