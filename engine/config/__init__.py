"""PowerMTA's configuration language: text to a typed, frozen model.  Pure, but for `read`; imports leaves only.

    loaded = build(read("/etc/engine"))      # a file, or a directory with engine.conf in it
    loaded.problems                          # everything that is wrong, each with its place
    loaded.config.domain("example.com", "mta1").max_smtp_out

snapshot -> lexer, continuation -> parser -> reading (by the tables of stanza, settings and pending) -> build -> naming, check -> model.
"""

from engine.config.build import Loaded, build
from engine.config.model import Config
from engine.config.pattern import AddressPattern, DomainPattern, DomainSet
from engine.config.problem import Problem, describe
from engine.config.settings import (
    BY_SMTP_SOURCE_IP,
    DEFAULT_VIRTUAL_MTA,
    AcctFileSettings,
    ClientSettings,
    DomainSettings,
    ServerSettings,
    SmtpUser,
    SourceGroup,
    SpoolSettings,
    VirtualMta,
    VirtualMtaPool,
)
from engine.config.slot import Slot
from engine.config.snapshot import Snapshot, from_text, read
from engine.config.values import HostSpec, ListenerSettings, SourceHost

__all__ = [
    "BY_SMTP_SOURCE_IP",
    "DEFAULT_VIRTUAL_MTA",
    "AcctFileSettings",
    "AddressPattern",
    "ClientSettings",
    "Config",
    "DomainPattern",
    "DomainSet",
    "DomainSettings",
    "HostSpec",
    "ListenerSettings",
    "Loaded",
    "Problem",
    "ServerSettings",
    "Slot",
    "SmtpUser",
    "Snapshot",
    "SourceGroup",
    "SourceHost",
    "SpoolSettings",
    "VirtualMta",
    "VirtualMtaPool",
    "build",
    "describe",
    "from_text",
    "read",
]
