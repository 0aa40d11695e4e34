"""The stanzas of the language: which tags there are, where each may stand, and which directives it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.config import settings
from engine.config import values as v
from engine.config.directive import Directive, rows_of
from engine.config.pending import PENDING
from engine.config.values import ValueType

_INCLUDE = Directive("include", v.file, "", "Read another file, or all that a wildcard matches, here.  Relative to the including file.")
_MACRO = Directive("domain-macro", v.macro, "", "A name for a list of domains or parts of them, for use as $name.")
_RELAY_DOMAIN = Directive("relay-domain", v.domain_pattern_texts, "", "Recipient domains that anyone may send to.", field="relay_domain", repeat=True)
_OLD_SPOOL = Directive("spool", v.file, "", "Old form of <spool>.")
_OLD_FREE_SPACE = Directive("spool-min-free-space", v.number, "", "Old form of min-free-space in every <spool> that has none, in MB.")
_OLD_ADDRESS = Directive("smtp-ip", v.address, "", "Old form of smtp-listener, where there is none: its address.")
_OLD_PORT = Directive("smtp-port", v.port, "", "Old form of smtp-listener, where there is none: its port.")
_RECORD_FIELDS = Directive("record-fields", v.record_fields, "", "Type, then columns: names, *, !name, header_X.  One line per type.", repeat=True)

TOP = ""
_INCLUDING = (TOP, "source", "domain", "virtual-mta", "virtual-mta-pool", "smtp-pattern-list")
_DOMAIN_HOLDERS = (TOP, "virtual-mta", "virtual-mta-pool")
_PROCESSORS = ("bounce-processor", "feedback-loop-processor")


@dataclass(frozen=True, slots=True)
class Stanza:
    """A tag: what its argument is, in which stanzas it may stand, what may stand in it."""

    tag: str
    argument: ValueType[Any] | None = None  # None: takes none
    parents: tuple[str, ...] = (TOP,)
    optional: bool = False  # the argument may be missing
    working: bool = False
    stops: str = ""  # not working: why the engine must not start with it
    directives: dict[str, Directive] = field(default_factory=dict)


_SETTINGS: dict[str, type] = {
    TOP: settings.ServerSettings,
    "spool": settings.SpoolSettings,
    "source": settings.ClientSettings,
    "source-group": settings.SourceGroup,
    "smtp-user": settings.SmtpUser,
    "domain": settings.DomainSettings,
    "virtual-mta": settings.VirtualMta,
    "virtual-mta-pool": settings.VirtualMtaPool,
    "acct-file": settings.AcctFileSettings,
    "smtp-listener": settings.ListenerStanza,
    "aliases": settings.AliasesStanza,
}
_SPECIAL: dict[str, tuple[Directive, ...]] = {
    TOP: (_MACRO, _RELAY_DOMAIN, _OLD_SPOOL, _OLD_FREE_SPACE, _OLD_ADDRESS, _OLD_PORT),
    "acct-file": (_RECORD_FIELDS,),
}


def _table(*stanzas: Stanza) -> dict[str, Stanza]:
    for stanza in stanzas:
        rows = [*rows_of(_SETTINGS[stanza.tag])] if stanza.tag in _SETTINGS else []
        for row in (*rows, *_SPECIAL.get(stanza.tag, ()), *PENDING.get(stanza.tag, ()), *((_INCLUDE,) if stanza.tag in _INCLUDING else ())):
            assert row.name not in stanza.directives, f"{row.name} stands twice in the table of {stanza.tag or 'global'}"
            stanza.directives[row.name] = row
    return {stanza.tag: stanza for stanza in stanzas}


STANZAS: dict[str, Stanza] = _table(
    Stanza(TOP, working=True),
    Stanza("spool", v.file, working=True),
    Stanza("source", v.name, working=True),
    Stanza("domain", v.name, _DOMAIN_HOLDERS, working=True),
    Stanza("virtual-mta", v.name, working=True),
    Stanza("virtual-mta-pool", v.name, working=True),
    Stanza("acct-file", v.text, working=True),
    Stanza("smtp-listener", v.listener_address, working=True),
    Stanza("source-group", v.name, working=True),
    Stanza("smtp-user", v.name, working=True),
    Stanza("pattern-list", v.name, (TOP, "pattern-list"), optional=True),
    Stanza("smtp-pattern-list", v.name),
    Stanza("mx-rollup-list", stops="apply the limits of single domains instead of a rollup's"),
    Stanza("rewrite-list", v.name),
    Stanza("address-list", v.name, (TOP, *_PROCESSORS), optional=True),
    Stanza("email-patterns", None, _PROCESSORS),
    Stanza("bounce-processor", stops="pass reports on as mail instead of processing them"),
    Stanza("feedback-loop-processor", stops="pass reports on as mail instead of processing them"),
    Stanza("aliases", working=True),
    Stanza("domain-key-list", v.name),
    Stanza("dns"),
    Stanza("proxy", v.name),
    Stanza("vault"),
    Stanza("transmissions-api"),
    Stanza("transmissions-api-listener", v.listener_address),
    Stanza("signals"),
    Stanza("signals-filter", v.name),
    Stanza("bounce-category-patterns"),
)


def holders(name: str) -> list[str]:
    """The stanzas in which the directive *name* may stand, as an operator writes them."""
    return [f"<{tag}>" if tag else "the top level" for tag, stanza in STANZAS.items() if name in stanza.directives]
