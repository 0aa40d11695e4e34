"""The columns of accounting files (reference §4.3): which a type has, how each is had from a record, and which a file shows.  Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any

from engine.mail.status import describe

Getter = Callable[[Any], str]  # a record to the value of one column
Columns = tuple[Getter, ...]

_RECIPIENT_FIELDS = (
    *("type", "timeLogged", "timeQueued", "orig", "rcpt", "orcpt", "dsnAction", "dsnStatus", "dsnDiag", "dsnMta", "bounceCat"),
    *("srcType", "srcMta", "dlvType", "dlvSourceIp", "dlvDestinationIp", "dlvEsmtpAvailable", "dlvSize"),
    *("vmta", "jobId", "envId", "queue", "vmtaPool", "id"),
)
_QUEUE_FIELDS = ("type", "timeLogged", "queue", "vmta", "dsnStatus", "dsnDiag", "dsnMta", "dlvType", "dlvSourceIp", "dlvDestinationIp")
DEFAULT_FIELDS: Mapping[str, tuple[str, ...]] = {
    "d": _RECIPIENT_FIELDS,
    "b": _RECIPIENT_FIELDS,
    "t": _RECIPIENT_FIELDS,
    "tq": _QUEUE_FIELDS,
}
"""What `*` stands for, by record type.  `id`, the message's, is our own and stands last."""


def _diagnostic(record: Any) -> str:
    text: str = record.dsn_diag  # peer text, Latin-1 as it came
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except ValueError:  # not Latin-1, or not UTF-8 behind it
        return text


def _blank(record: Any) -> str:
    return ""


_SHARED: Mapping[str, Getter] = {
    "dsnStatus": lambda record: describe(record.dsn_status),
    "dsnDiag": _diagnostic,
    "dsnMta": attrgetter("dsn_mta"),
    "dlvType": attrgetter("dlv_type"),
    "dlvSourceIp": attrgetter("dlv_source_ip"),
    "dlvDestinationIp": attrgetter("dlv_destination_ip"),
    "vmta": attrgetter("vmta"),
    "queue": attrgetter("queue"),
}
_RECIPIENT: Mapping[str, Getter] = {
    **_SHARED,
    "type": attrgetter("type"),
    "totalSecondsQueued": lambda record: str(max(0, record.logged_ms - record.queued_ms) // 1000),
    "orig": attrgetter("orig"),
    "rcpt": attrgetter("rcpt"),
    "orcpt": attrgetter("orcpt"),
    "dsnAction": attrgetter("dsn_action"),
    "bounceCat": attrgetter("bounce_cat"),
    "srcType": attrgetter("src_type"),
    "srcMta": attrgetter("src_mta"),
    "dlvEsmtpAvailable": attrgetter("dlv_esmtp"),
    "dlvSize": lambda record: str(record.dlv_size),
    "jobId": attrgetter("job_id"),
    "envId": attrgetter("env_id"),
    "vmtaPool": attrgetter("vmta_pool"),
    "id": attrgetter("id"),
    "rcvSmtpUser": attrgetter("smtp_user"),
    "dlvTlsProtocol": attrgetter("dlv_tls_protocol"),
    "dlvTlsCipher": attrgetter("dlv_tls_cipher"),
}
_QUEUE: Mapping[str, Getter] = {**_SHARED, "type": lambda record: "tq"}
_TIMES = {"timeLogged": "logged_ms", "timeQueued": "queued_ms", "timeFirstAttempt": "first_attempt_ms"}
_RECIPIENT_TIMES = ("timeLogged", "timeQueued", "timeFirstAttempt")
# asked for by name, known, and blank as long as nothing fills them
_BLANK = ("dlvProxyServerIp", "dlvProxyClientIp", "userString")
_CANONICAL = {name.lower(): name for name in (*_RECIPIENT, *_TIMES, *_BLANK)}


@lru_cache(maxsize=8192)
def _iso(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(seconds))


def iso_time(ms: int) -> str:
    """*ms* since the epoch as `2019-02-08 21:54:05+0000`, local time; "" for 0, which is "never"."""
    return _iso(ms // 1000) if ms else ""


def unix_time(ms: int) -> str:
    """*ms* since the epoch as whole seconds; "" for 0, which is "never"."""
    return str(ms // 1000) if ms else ""


def known(field: str) -> bool:
    """Whether some record may have *field*, in any case of letters."""
    return field.lower().startswith(("header_", "arf_")) or field.lower() in _CANONICAL


def select(record_type: str, requested: Iterable[str], first_attempt: bool = False) -> tuple[str, ...]:
    """The fields of *record_type* that record-fields *requested* asks for, `type` first: names, `*` for the default ones, `!name` to leave one out.

    Nothing requested, or only names left out, starts from the default ones.  A name that is not `known` is a column that stays blank.
    *first_attempt*: timeFirstAttempt is one of the default ones (track-time-first-attempt).
    """
    default = DEFAULT_FIELDS[record_type]
    if first_attempt and "timeQueued" in default:
        default = (*default[:3], "timeFirstAttempt", *default[3:])
    words = [word.strip() for word in requested]
    chosen: dict[str, None] = {"type": None}
    if all(word.startswith("!") for word in words):
        words.insert(0, "*")
    for word in words:
        name = word.removeprefix("!")
        name = _CANONICAL.get(name.lower(), name)
        if word == "*":
            chosen.update(dict.fromkeys(default))
        elif not word.startswith("!"):
            chosen[name] = None
        elif name != "type":
            chosen.pop(name, None)
    return tuple(chosen)


def union(selections: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The header of a file that holds several types: every field once, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for selection in selections for name in selection))


def getters(record_type: str, header: Iterable[str], selection: Iterable[str], *, iso_times: bool, user_string: str = "") -> Columns:
    """One getter per column of *header*; blank where *selection*, the type's own fields, has not got it."""
    show = iso_time if iso_times else unix_time
    own = frozenset(selection)
    table = _QUEUE if record_type == "tq" else _RECIPIENT
    times = ("timeLogged",) if record_type == "tq" else _RECIPIENT_TIMES

    def getter(name: str) -> Getter:
        if name not in own:
            return _blank
        if name in times:
            attribute = attrgetter(_TIMES[name])
            return lambda record: show(attribute(record))
        if name == "userString":
            return lambda record: user_string
        return table.get(name, _blank)

    return tuple(getter(name) for name in header)
