"""Our own doors: reachable, closed to strangers, with a certificate that holds?  And which one is for applications.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from engine.doctor.finding import Finding
from engine.doctor.ports import State

IMPLICIT_TLS_PORT: Final = 465
_EXPIRES_SOON_S: Final = 14 * 86_400
_CLEAR_PASSWORDS: Final = frozenset({"PLAIN", "LOGIN"})
_FOR_APPLICATIONS: Final = {  # best first, with the reason
    587: "587 is the port for submission (RFC 6409): mail programs know it, and it is seldom blocked",
    465: "465 is submission with TLS from the first byte (RFC 8314)",
    2525: "2525 is the alternative where an application's network blocks 587",
    25: "25 is for mail servers: many networks block it for everybody else",
}


class Certificate(NamedTuple):
    """What the listener showed: its validity in Unix seconds; *distrusted* is why a client that checks would refuse it for the host's name."""

    names: tuple[str, ...]
    begins_s: float
    ends_s: float
    distrusted: str = ""


class Admission(NamedTuple):
    """One trick that the listener accepted: its name and recipient, and the reply."""

    trick: str
    recipient: str
    reply: str


class Listener(NamedTuple):
    """What a client at *client* met at *where* ("ADDRESS:PORT"), which does the duty of *port*.

    *tried*: how many tricks were, *put_off*: the 4xx among the replies; *untried*: why none was.
    *extensions* and *mechanisms* before TLS, *mechanisms_tls* after it.
    """

    where: str
    port: int
    client: str
    host_name: str
    state: State
    text: str = ""
    extensions: frozenset[str] = frozenset()
    mechanisms: frozenset[str] = frozenset()
    mechanisms_tls: frozenset[str] = frozenset()
    implicit_tls: bool = False
    tls_trouble: str = ""
    certificate: Certificate | None = None
    tried: int = 0
    admitted: tuple[Admission, ...] = ()
    put_off: tuple[str, ...] = ()
    untried: str = ""

    @property
    def encrypts(self) -> bool:
        return self.implicit_tls or "STARTTLS" in self.extensions

    @property
    def authenticates(self) -> bool:
        return bool(self.mechanisms or self.mechanisms_tls)


def judge(listeners: Sequence[Listener], relaying: Sequence[str], now_s: float, timeout_s: float) -> list[Finding]:
    """Findings of every listener, the last one for applications; *relaying*: the <source> sections whose hosts may send to anybody."""
    nobody = bool(listeners) and all(each.state == "refused" for each in listeners)
    found = [finding for each in listeners for finding in _one(each, nobody, now_s, timeout_s)]
    return found + _application([each for each in listeners if each.state == "greeted"], relaying)


def _one(each: Listener, nobody: bool, now_s: float, timeout_s: float) -> list[Finding]:
    subject = each.where
    if each.state != "greeted":
        text = {
            "refused": "nobody listens there",
            "timeout": f"no answer within {timeout_s:g} s: a firewall of this host may be in the way",
            "silent": f"connects, but sends no greeting within {timeout_s:g} s",
            "no-tls": f"connects, but speaks no TLS: {each.text}",
        }.get(each.state, f"cannot be reached: {each.text}")
        advice = "engine start, or engine status if it should be running" if each.state == "refused" else "engine status; then the log"
        return [Finding("warning" if nobody else "problem", "listener", subject, text, advice)]
    if each.text[:1] != "2":
        text = f"greets {each.client} with {each.text}"
        advice = "a <source> with smtp-service no, or a limit: engine show settings --source " + each.client
        return [Finding("hint", "listener", subject, text, advice), *_tls(each, now_s)]
    found = [Finding("ok", "listener", subject, f"is there: {each.text}")]
    return [*found, *_relays(each), *_tls(each, now_s), *_passwords(each)]


def _relays(each: Listener) -> list[Finding]:
    if each.admitted:
        first = each.admitted[0]
        more = f" (and {len(each.admitted) - 1} more ways)" if len(each.admitted) > 1 else ""
        text = f"is an open relay: from {each.client} it takes <{first.recipient}>: {first.trick}, {first.reply}{more}"
        advice = f"look at always-allow-relaying, relay-domain and relay-address: engine show settings --source {each.client}"
        return [Finding("problem", "relay", each.where, text, advice)]
    if each.untried:
        return [Finding("hint", "relay", each.where, f"not tried as a relay: {each.untried}", "--from IP, or from elsewhere: --listener HOST:PORT")]
    if each.put_off:
        text = f"{len(each.put_off)} of {each.tried} tricks of a stranger ({each.client}) are only put off: {each.put_off[0]}"
        return [Finding("hint", "relay", each.where, text, "ask again later; relay-debug answers so, too")]
    return [Finding("ok", "relay", each.where, f"is no open relay: {each.tried} tricks of a stranger ({each.client}) are refused")]


def _tls(each: Listener, now_s: float) -> list[Finding]:
    if each.tls_trouble:
        return [Finding("problem", "tls", each.where, f"TLS does not work: {each.tls_trouble}", "engine check-config; then the log")]
    if each.port == IMPLICIT_TLS_PORT and not each.implicit_tls:
        text = "465 is for TLS from the first byte, and this listener does not speak it: clients wait for each other"
        return [Finding("problem", "tls", each.where, text, f"<smtp-listener {each.where}> with immediate-tls yes")]
    if not each.encrypts:
        advice = "smtp-server-tls-certificate FILE, and allow-starttls yes in <source>"
        return [Finding("hint", "tls", each.where, "offers no TLS: mail and passwords come in clear", advice)]
    if each.certificate is None:
        return []
    certificate = each.certificate
    left_s = certificate.ends_s - now_s
    renew = "renew the certificate (smtp-server-tls-certificate)"
    if left_s <= 0:
        return [Finding("problem", "tls", each.where, f"the certificate expired {_days(-left_s)} ago", renew)]
    if certificate.begins_s > now_s:
        return [Finding("problem", "tls", each.where, f"the certificate is not valid yet, for {_days(certificate.begins_s - now_s)}", renew)]
    found = []
    names = ", ".join(certificate.names[:3]) or "nobody"
    if left_s < _EXPIRES_SOON_S:
        found.append(Finding("warning", "tls", each.where, f"the certificate expires in {_days(left_s)}", renew))
    if certificate.distrusted:
        text = f"the certificate, for {names}, would not be trusted for {each.host_name}: {certificate.distrusted}"
        advice = f"get one for {each.host_name} from a known authority (such as Let's Encrypt): applications that check refuse this one"
        found.append(Finding("warning", "tls", each.where, text, advice))
    return found or [Finding("ok", "tls", each.where, f"the certificate, for {names}, is trusted, and valid for {_days(left_s)} more")]


def _passwords(each: Listener) -> list[Finding]:
    clear = sorted(each.mechanisms & _CLEAR_PASSWORDS)
    if not clear or each.implicit_tls:
        return []
    text = f"takes passwords in clear (AUTH {' '.join(clear)} without TLS)"
    return [Finding("warning", "tls", each.where, text, "require-starttls-before-auth yes, and allow-unencrypted-plain-auth no, in <source>")]


def _application(open_doors: Sequence[Listener], relaying: Sequence[str]) -> list[Finding]:
    """Which port an application should use, and why."""
    doors = [each for port in _FOR_APPLICATIONS for each in open_doors if each.port == port]
    doors += [each for each in open_doors if each.port not in _FOR_APPLICATIONS]
    if not doors:
        return []
    best = next((each for each in doors if each.authenticates and each.encrypts), doors[0])
    how = [what for what, so in (("TLS from the start", best.implicit_tls), ("STARTTLS", "STARTTLS" in best.extensions)) if so][:1]
    how += ["AUTH"] if best.authenticates else []
    with_what = f" with {' and '.join(how)}" if how else ""
    text = f"use port {best.port}{with_what}: {_FOR_APPLICATIONS.get(best.port, 'it is what is there')}"
    others = list(dict.fromkeys(each.port for each in doors if each.port != best.port))
    if others:
        text += f"; also here: {', '.join(map(str, others))}"
    advice = "" if best.port != 25 else "add smtp-listener 0/0:587 (and 0/0:2525, where a network blocks 587) for applications"
    if not best.authenticates:
        who = f"the hosts of <source {', '.join(relaying[:4])}>" if relaying else "nobody"
        text += f"; no AUTH is offered, so {who} may send to other domains through it"
    return [Finding("ok" if not advice else "hint", "application", f"applications, to {best.host_name}", text, advice)]


def _days(seconds: float) -> str:
    days = timedelta(seconds=seconds).days
    return f"{days} day{'' if days == 1 else 's'}" if days else f"{seconds / 3600:.0f} h"
