"""The names of an address, and whether they lead back to it (RFC 8601 section 2.7.3, "iprev")."""

from __future__ import annotations

import asyncio
from typing import Literal, NamedTuple, TypeAlias

from engine.dns.answer import Found, TemporaryFailure
from engine.dns.resolver import Resolver

MAX_NAMES = 10  # of one address; further ones are not looked up

IprevResult: TypeAlias = Literal["pass", "fail", "permerror", "temperror"]


class Reverse(NamedTuple):
    """*names*: each PTR name of *address* with that name's addresses of the same family; *trouble*: why DNS could not say, "" if it could."""

    address: str
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    trouble: str = ""

    @property
    def confirmed(self) -> tuple[str, ...]:
        """The names that lead back."""
        return tuple(name for name, addresses in self.names if self.address in addresses)

    @property
    def result(self) -> IprevResult:
        """As RFC 8601 names it: permerror where there is no name, or none of them has an address."""
        if self.confirmed:
            return "pass"
        if self.trouble:
            return "temperror"
        return "fail" if any(addresses for _, addresses in self.names) else "permerror"


async def reverse(resolver: Resolver, address: str) -> Reverse:
    """What DNS says of *address*, in canonical text form, within the resolver's deadlines."""
    answer = await resolver.pointers(address)
    if isinstance(answer, TemporaryFailure):
        return Reverse(address, trouble=answer.text)
    if not isinstance(answer, Found):
        return Reverse(address)
    family = frozenset({6 if ":" in address else 4})
    names = answer.names[:MAX_NAMES]
    heard = await asyncio.gather(*(resolver.addresses(name, family) for name in names))
    pairs = [(name, back.addresses if isinstance(back, Found) else ()) for name, (back,) in zip(names, heard, strict=True)]
    silent = [back.text for (back,) in heard if isinstance(back, TemporaryFailure)]
    return Reverse(address, tuple(pairs), silent[0] if silent else "")
