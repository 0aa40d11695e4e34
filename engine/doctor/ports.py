"""May we talk to the world's mail servers?  What connections out met, and what that means.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from engine.doctor.finding import Finding

State: TypeAlias = Literal["greeted", "refused", "timeout", "unreachable", "no-source", "silent", "closed", "no-tls", "no-family", "no-name"]

RELAY = 25
SUBMISSION_PORTS = (587, 2525, 465)
_MET = frozenset({"greeted", "refused", "silent", "closed", "no-tls"})  # the host, or something in its place, answered


class Target(NamedTuple):
    """Where to connect; *role* is the port that *port* stands for, the same unless something translates it."""

    host: str
    port: int
    role: int


class Try(NamedTuple):
    """One connection from *source* to *target*, of whose host *address* was tried; *text* is its greeting, or what went wrong."""

    source: str
    target: Target
    address: str
    state: State
    text: str = ""

    @property
    def where(self) -> str:
        host = self.target.host
        return f"port {self.target.port} of {host if self.address in (host, '') else f'{host} [{self.address}]'}"


def judge(tries: Iterable[Try], timeout_s: float) -> list[Finding]:
    """A finding for each try; those of one source are judged together, since one port explains another."""
    found: list[Finding] = []
    for source, group in groupby(sorted(tries, key=lambda each: each.source), key=lambda each: each.source):
        ours = list(group)
        if any(each.state == "no-source" for each in ours):
            text = "this machine does not have this address: nothing can be sent from it"
            found.append(Finding("problem", "port", source, text, "configure the address (ip addr add), or take it out of smtp-source-host"))
            continue
        found += [_relay(each, ours, timeout_s) if each.target.role == RELAY else _submission(each, ours, timeout_s) for each in ours]
    return found


def _relay(each: Try, ours: Sequence[Try], timeout_s: float) -> Finding:
    greeted = _greeted(each)
    if greeted is not None:
        return greeted
    others = [other for other in ours if other is not each and other.state in _MET]
    text = _seen(each, timeout_s)
    if each.state == "unreachable":
        return Finding(
            "problem", "port", each.source, text, f"look at the route and the firewall of this host: ip route get {each.address} from {each.source}"
        )
    if each.state in ("silent", "closed"):
        return Finding(
            "warning", "port", each.source, text, "a firewall on the way may answer in its place, or the peer is slow: try another --target"
        )
    if each.state == "refused":
        text += ": it has no mail server there, or a firewall on the way refuses for it"
    elif any(other.target.role == RELAY for other in others):
        text += ", while port 25 of other hosts answers: it is this host that is away"
        return Finding("warning", "port", each.source, text, "try another --target")
    elif others:
        text += ", while other ports answer: a firewall on the way blocks port 25, as most hosting providers do at first"
    else:
        text += ", nor from any other port: nothing gets out from this address, or the target is away"
        return Finding("problem", "port", each.source, text, "look at the route and the firewall of this address, and try another --target")
    return Finding("problem", "port", each.source, text, f"ask the provider to open port 25{_smarthost(ours)}")


def _submission(each: Try, ours: Sequence[Try], timeout_s: float) -> Finding:
    greeted = _greeted(each)
    if greeted is not None:
        return greeted
    text = _seen(each, timeout_s)
    if each.state == "timeout" and any(other.state in _MET for other in ours):
        way = _way_out(ours)
        advice = f"only if you send through a relay of another's: reach it at port {way.target.port}" if way else ""
        return Finding("hint", "port", each.source, f"{text}: the port is blocked on the way, or the target does not offer it", advice)
    if each.state == "refused":
        return Finding("hint", "port", each.source, f"{text}: the way is open, but nobody serves this port there")
    return Finding("hint", "port", each.source, text)


def _greeted(each: Try) -> Finding | None:
    if each.state == "no-family":
        return Finding("hint", "port", each.source, _seen(each, 0.0))
    if each.state == "no-name":
        return Finding("warning", "port", each.source, _seen(each, 0.0), "name-server, or /etc/resolv.conf: without DNS no mail leaves at all")
    if each.state != "greeted":
        return None
    if each.text[:1] == "2":
        return Finding("ok", "port", each.source, f"reaches {each.where}: {each.text}")
    advice = "the peer knows this address and does not want it now: look the text up, and the address in the blocklist that it names"
    return Finding("warning", "port", each.source, f"reaches {each.where}, which greets with {each.text}", advice)


def _seen(each: Try, timeout_s: float) -> str:
    return {
        "refused": f"{each.where} refuses the connection",
        "timeout": f"no answer from {each.where} within {timeout_s:g} s",
        "unreachable": f"{each.where} cannot be reached: {each.text}",
        "silent": f"{each.where} connects, but sends no greeting within {timeout_s:g} s",
        "closed": f"{each.where} connects, and closes without a greeting{f': {each.text}' if each.text else ''}",
        "no-tls": f"{each.where} connects, but speaks no TLS: {each.text}",
        "no-family": f"{each.where} was not tried: {each.text}",
        "no-name": f"{each.where} was not tried: {each.text}",
    }.get(each.state, each.text)


def _way_out(ours: Sequence[Try]) -> Try | None:
    """The port by which a relay of somebody else's could be reached."""
    return next((each for port in SUBMISSION_PORTS for each in ours if each.target.role == port and each.state == "greeted"), None)


def _smarthost(ours: Sequence[Try]) -> str:
    way = _way_out(ours)
    if way is None:
        return ""
    return (
        f", or send through a relay of another's at port {way.target.port}, which gets through (smtp-hosts [RELAY]:{way.target.port} in <domain *>)"
    )
