"""What operators set of DSNs: From, and for failures subject and text, with `${variables}` (reference, DSN texts).  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

VARIABLES = frozenset(("hostname", "originator", "recipient", "subject", "retryAfter", "bounceAfter", "date", "timeQueued", "response"))
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Templates(msgspec.Struct, frozen=True, kw_only=True):
    """Each is "" where the DSN's own words stand."""

    from_header: str = ""  # of all DSNs
    failed_from: str = ""
    failed_subject: str = ""
    failed_body: str = ""


def filled(template: str, values: Mapping[str, str]) -> str:
    """*template* with its variables; a value is not looked through for further ones, and a name that is no variable stays as it stands."""
    return _VARIABLE.sub(lambda found: values.get(found[1], found[0]), template)


def unknown_variables(template: str) -> list[str]:
    """Names in `${...}` that are no variables."""
    return [name for name in dict.fromkeys(_VARIABLE.findall(template)) if name not in VARIABLES]
