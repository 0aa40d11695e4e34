"""By which virtual MTA mail leaves: the header that asks for one, the client's default, and the members of pools (reference: VMTA selection)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from engine.config import BY_SMTP_SOURCE_IP, DEFAULT_VIRTUAL_MTA, ClientSettings, Config
from engine.mail.reply import Reply, reply

DEFAULT = DEFAULT_VIRTUAL_MTA
BY_SOURCE_IP = BY_SMTP_SOURCE_IP


class Assignment(NamedTuple):
    """What one recipient leaves by, from now to its end."""

    vmta: str
    pool: str = ""  # that the virtual MTA was chosen from


class Router:
    """The virtual MTAs and pools of one configuration, and this process's turn in each pool."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._turn: dict[str, int] = {}
        self._by_ip = lru_cache(maxsize=1024)(self._virtual_mta_of)

    def choose(self, client: ClientSettings, requested: str | None, local_ip: Callable[[], str]) -> str | Reply:
        """The name of a virtual MTA or pool, or the Reply that refuses the message.

        *requested*: the value of x-virtual-mta, None where there is none or it is not obeyed.  *local_ip* says which address of ours the client
        connected to; asked only for `by-smtp-source-ip`.
        """
        if requested is not None:
            if self._exists(requested):
                return requested
            if not requested and client.allow_empty_x_virtual_mta:
                return DEFAULT
            if client.reject_invalid_virtual_mta:
                shown = "".join(c if " " <= c < "\x7f" else "?" for c in requested[:100])
                return reply(550, f"5.5.0 specified Virtual MTA '{shown}' does not exist")
            if self._config.server.invalid_virtual_mta_fallback:
                return self._config.server.invalid_virtual_mta_fallback
        name = client.default_virtual_mta
        if name == BY_SOURCE_IP:
            return self._by_ip(local_ip())
        return name if name and self._exists(name) else DEFAULT

    def assign(self, name: str) -> Assignment:
        """What *name* (from `choose`) means for the next recipient: a pool's members take turns."""
        pool = self._config.pools.get(name)
        if pool is None:
            return Assignment(name)
        turn = self._turn.get(name, 0)
        self._turn[name] = turn + 1
        members = pool.members
        return Assignment(members[turn % len(members)], name) if members else Assignment(DEFAULT, name)

    def greeting_name(self, client: ClientSettings, local_ip: Callable[[], str]) -> str:
        """The name we greet *client* with: its default virtual MTA's (host-name, or that of its only smtp-source-host), else our first host-name."""
        virtual_mta = None
        if client.default_virtual_mta and client.default_virtual_mta != DEFAULT_VIRTUAL_MTA:
            chosen = self.choose(client, None, local_ip)
            virtual_mta = self._config.virtual_mtas.get(chosen) if isinstance(chosen, str) else None
        names = self._config.server.host_name
        own = names[0] if names else "localhost"
        if virtual_mta is None:
            return own
        hosts = virtual_mta.source_hosts
        return virtual_mta.host_name or (hosts[0].host_name if len(hosts) == 1 else "") or own

    def _exists(self, name: str) -> bool:
        return name in self._config.virtual_mtas or name in self._config.pools

    def _virtual_mta_of(self, ip: str) -> str:
        """The first virtual MTA that sends from *ip*; {default} where none does."""
        try:
            wanted = ipaddress.ip_address(ip)
        except ValueError:
            return DEFAULT
        for name, virtual_mta in self._config.virtual_mtas.items():
            if any(wanted in source.network for source in virtual_mta.source_hosts):  # never in one of the other version
                return name
        return DEFAULT
