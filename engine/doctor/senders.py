"""Do the sending domains' SPF policies know our addresses?  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.doctor.finding import Finding
from engine.doctor.names import translated
from engine.spf.evaluation import MAX_LOOKUPS, Verdict

_NEARLY = 8  # look-ups of 10: the next include may break it


class Checked(NamedTuple):
    """The SPF verdict on *address* for *domain*; *of_ehlo*: the domain is an EHLO name, asked about for bounces (RFC 7208 section 2.3)."""

    domain: str
    address: str
    verdict: Verdict
    of_ehlo: bool = False


def judge(checked: Iterable[Checked]) -> list[Finding]:
    """A finding for each domain and address."""
    return [finding for each in checked if not translated(each.address) for finding in _one(each)]


def _one(each: Checked) -> list[Finding]:
    verdict, subject = each.verdict, f"{each.domain} from {each.address}"
    because = f" ({verdict.term}{f' of {verdict.domain}' if verdict.domain != each.domain else ''})" if verdict.term else ""
    term = f"ip{6 if ':' in each.address else 4}:{each.address}"
    found: list[Finding] = []
    if verdict.result == "pass":
        found.append(Finding("ok", "spf", subject, f"SPF passes{because}"))
        if verdict.term.lower() in ("all", "+all"):
            advice = "end the record with -all or ~all, behind what names your own addresses"
            found.append(Finding("problem", "spf", each.domain, "its SPF record ends with +all: the whole world may send in its name", advice))
    elif verdict.result == "none" and each.of_ehlo:
        advice = f'publish TXT "v=spf1 a -all" for {each.domain}' if "." in each.domain else ""
        found.append(Finding("hint", "spf", subject, "the EHLO name has no SPF record: only bounces would need it", advice))
    elif verdict.result == "none":
        found.append(
            Finding("warning", "spf", subject, f"{verdict.text}: nothing says who may send", f'publish TXT "v=spf1 {term} -all" for {each.domain}')
        )
    elif verdict.result == "fail":
        text = f"SPF fails{because}: receivers refuse this mail"
        found.append(Finding("problem", "spf", subject, text, f"add {term} to the record of {each.domain}: {_with(verdict.record, term)}"))
    elif verdict.result in ("softfail", "neutral"):
        text = f"SPF says {verdict.result}{because}: it does not count as a pass, and DMARC cannot use it"
        found.append(Finding("warning", "spf", subject, text, f"add {term} to the record of {each.domain}: {_with(verdict.record, term)}"))
    elif verdict.result == "permerror":
        text = f"the SPF record is broken: {verdict.text}"
        found.append(Finding("problem", "spf", subject, text, "correct it: receivers treat a broken record as none, or refuse"))
    else:
        text = f"SPF could not be looked up: {verdict.text}"
        found.append(Finding("warning", "spf", subject, text, "ask again later, or another --name-server"))
    if verdict.result != "permerror" and verdict.lookups >= _NEARLY:
        text = f"its SPF record took {verdict.lookups} of {MAX_LOOKUPS} look-ups: with more, it fails for everybody"
        found.append(Finding("hint", "spf", each.domain, text, "replace includes by the addresses that you use (ip4:, ip6:)"))
    return found


def _with(record: str, term: str) -> str:
    """*record* with *term* in front of what decides over everybody else."""
    words = record.split()
    return " ".join([*words[:1], term, *words[1:]])
