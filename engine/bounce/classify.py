"""The category of an outcome (reference §4.4), by its status code.  Pure."""

from __future__ import annotations

import re

_SUCCESS = "success"
_OTHER = "other"
# by subject and detail, then by subject alone; the class does not matter
_CATEGORIES = {
    "1.1": "bad-mailbox",
    "1.2": "bad-domain",
    "1.3": "bad-mailbox",
    "1.4": "bad-mailbox",
    "1.6": "bad-mailbox",
    "1.7": "invalid-sender",
    "1.8": "invalid-sender",
    "2.0": "bad-mailbox",
    "2.1": "inactive-mailbox",
    "2.2": "quota-issues",
    "3.3": "content-related",
    "3.5": "bad-configuration",
    "4.1": "no-answer-from-host",
    "4.2": "bad-connection",
    "4.3": "routing-errors",
    "4.4": "routing-errors",
    "4.6": "routing-errors",
    "4.7": "message-expired",
    "5.3": "policy-related",
    "5": "protocol-errors",
    "6": "content-related",
    "7.0": "policy-related",
    "7.1": "policy-related",
    "7.2": "policy-related",
    "7.7": "content-related",
}
_STATUS = re.compile(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.]*\d)")


def classify(status: str, diag: str) -> str:
    """The bounce category of an outcome with RFC 3463 *status* and diagnostic *diag*, `success` for 2.x.x and `other` where nothing fits.

    A status that says nothing (x.0.0, or none) gives way to one that stands somewhere in *diag*, for hosts that hide it behind other words.
    """
    if status.startswith("2."):
        return _SUCCESS
    detail = status[2:]
    if detail in ("", "0.0"):
        found = _STATUS.search(diag)
        detail = found[0][2:] if found else ""
    return _CATEGORIES.get(detail) or _CATEGORIES.get(detail.partition(".")[0], _OTHER)
