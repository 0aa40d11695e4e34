"""What DNS says about one question: values that tell "there is none" from "nobody could say".  Pure.

The difference decides between a bounce and a retry: only NxDomain and NoData are statements of the domain's owner (RFC 2308);
every kind of silence or refusal is a TemporaryFailure.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from engine.dns import codec
from engine.dns.codec import Mx, Question, Response

Reason: TypeAlias = Literal["timeout", "servfail", "refused", "error", "network", "malformed", "loop", "overload"]

_MAX_ALIASES = 16
_FAILURES: dict[int, Reason] = {codec.SERVFAIL: "servfail", codec.REFUSED: "refused"}
_RCODE_TEXT = {codec.FORMERR: "FORMERR", codec.SERVFAIL: "SERVFAIL", codec.NOTIMP: "NOTIMP", codec.REFUSED: "REFUSED"}


class Found(NamedTuple):
    """Records: *exchanges* of MX, *addresses* of A and AAAA, *names* of PTR, *texts* of TXT; *name* is where they stood after aliases."""

    name: str
    ttl_s: float
    exchanges: tuple[Mx, ...] = ()
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    texts: tuple[bytes, ...] = ()


class NoData(NamedTuple):
    """The name exists, but has no records of this type."""

    ttl_s: float


class NxDomain(NamedTuple):
    """The name does not exist, nor any below it (RFC 8020)."""

    ttl_s: float


class TemporaryFailure(NamedTuple):
    """Nobody could say: *reason* for programs, *text* for people (naming the server, where one is to blame)."""

    reason: Reason
    text: str


class Alias(NamedTuple):
    """The response ends at a CNAME whose target it does not tell: ask for *name* next."""

    name: str
    ttl_s: float


Answer: TypeAlias = Found | NoData | NxDomain | TemporaryFailure


def conclude(response: Response, question: Question) -> Answer | Alias:
    """What *response*, already known to belong to *question*, says about it; CNAMEs inside it followed (RFC 1034 section 3.6.2)."""
    if response.rcode not in (codec.NOERROR, codec.NXDOMAIN):
        reason = _FAILURES.get(response.rcode, "error")
        return TemporaryFailure(reason, _RCODE_TEXT.get(response.rcode, f"rcode {response.rcode}"))
    aliases = {record.name: record for record in reversed(response.answers) if record.type == codec.CNAME}
    name, ttl_s = question.name, 0x7FFFFFFF
    for _ in range(_MAX_ALIASES):
        records = [record for record in response.answers if record.type == question.type and record.name == name]
        if records:
            return _found(name, min(ttl_s, *(record.ttl_s for record in records)), records)
        alias = aliases.get(name)
        if alias is None:
            break
        name, ttl_s = str(alias.value), min(ttl_s, alias.ttl_s)
    else:
        return TemporaryFailure("loop", f"CNAME loop, or a chain of more than {_MAX_ALIASES}, at {question.name}")
    granted_s = min(ttl_s, response.negative_ttl_s or 0)  # without an SOA nothing grants caching (RFC 2308 section 5)
    if response.rcode == codec.NXDOMAIN:
        return NxDomain(granted_s)
    if name != question.name and response.negative_ttl_s is None:
        return Alias(name, ttl_s)
    if response.referral:
        return TemporaryFailure("error", "a referral instead of an answer: the server does not recurse for us")
    return NoData(granted_s)


def _found(name: str, ttl_s: float, records: list[codec.Record]) -> Found:
    exchanges = tuple(dict.fromkeys(record.value for record in records if isinstance(record.value, Mx)))
    words = tuple(dict.fromkeys(record.value for record in records if isinstance(record.value, str)))
    texts = tuple(record.value for record in records if isinstance(record.value, bytes))
    if records[0].type == codec.PTR:
        return Found(name, ttl_s, names=words)
    return Found(name, ttl_s, exchanges, words, texts=texts)
