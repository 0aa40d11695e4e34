"""What observations mean: tables from what was seen to the finding, its severity and its advice."""

from __future__ import annotations

import pytest

from engine.doctor import listeners, names, ports, senders
from engine.doctor.finding import Finding, exit_code
from engine.doctor.judgement import Examination, judge
from engine.doctor.listeners import Admission, Certificate, Listener
from engine.doctor.names import Named
from engine.doctor.ports import State, Target, Try
from engine.doctor.senders import Checked
from engine.spf import Result, Verdict

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
HOST = "mx.example"


def attempt(role: int, state: State, text: str = "", source: str = "192.0.2.1", host: str = HOST) -> Try:
    return Try(source, Target(host, role, role), "198.51.100.1" if state not in ("no-family", "no-name") else "", state, text)


def test_the_exit_code_is_that_of_the_worst_finding() -> None:
    def of(*severities: str) -> int:
        return exit_code(Finding(severity, "port", "x", "y") for severity in severities)  # type: ignore[arg-type]

    assert [of(), of("ok", "hint"), of("warning", "ok"), of("hint", "problem", "warning")] == [0, 0, 1, 2]


# --- ports ---


@pytest.mark.parametrize(
    ("tries", "severity", "text", "advice"),
    [
        ([attempt(25, "greeted", "220 mx ready")], "ok", f"reaches port 25 of {HOST} [198.51.100.1]: 220 mx ready", ""),
        ([attempt(25, "greeted", "554 5.7.1 blocked by x")], "warning", "greets with 554 5.7.1 blocked", "blocklist"),
        ([attempt(25, "refused")], "problem", "refuses the connection", "ask the provider to open port 25"),
        ([attempt(25, "timeout"), attempt(587, "greeted", "220 x")], "problem", "while other ports answer", "port 587, which gets through"),
        ([attempt(25, "timeout"), attempt(587, "timeout"), attempt(2525, "greeted", "220 x")], "problem", "other ports answer", "[RELAY]:2525"),
        ([attempt(25, "timeout"), attempt(465, "refused")], "problem", "while other ports answer", "ask the provider to open port 25"),
        ([attempt(25, "timeout"), attempt(587, "timeout")], "problem", "nor from any other port", "route and the firewall"),
        ([attempt(25, "timeout"), attempt(25, "greeted", "220 x", host="b.example")], "warning", "it is this host that is away", "another --target"),
        (
            [attempt(25, "unreachable", "No route to host")],
            "problem",
            "cannot be reached: No route to host",
            "ip route get 198.51.100.1 from 192.0.2.1",
        ),
        ([attempt(25, "silent")], "warning", "sends no greeting within 5 s", "firewall"),
        ([attempt(25, "closed")], "warning", "closes without a greeting", "firewall"),
        ([attempt(25, "no-source")], "problem", "this machine does not have this address", "ip addr add"),
        ([attempt(25, "no-family", "it has no IPv6 address")], "hint", "was not tried: it has no IPv6 address", ""),
        ([attempt(25, "no-name", "there is no such name")], "warning", f"port 25 of {HOST} was not tried: there is no such name", "/etc/resolv.conf"),
        ([attempt(587, "greeted", "220 x")], "ok", "reaches port 587", ""),
        ([attempt(587, "refused")], "hint", "nobody serves this port there", ""),
        ([attempt(587, "timeout"), attempt(2525, "greeted", "220 x")], "hint", "is blocked on the way, or", "reach it at port 2525"),
        ([attempt(587, "timeout")], "hint", "no answer from port 587", ""),
        ([attempt(465, "no-tls", "wrong version number")], "hint", "speaks no TLS: wrong version number", ""),
    ],
)
def test_ports(tries: list[Try], severity: str, text: str, advice: str) -> None:
    finding = ports.judge(tries, 5.0)[0]
    assert (finding.severity, finding.topic, finding.subject) == (severity, "port", "192.0.2.1")
    assert text in finding.text
    assert (advice in finding.advice) if advice else not finding.advice


def test_an_address_that_is_not_here_is_said_once_and_others_are_judged_by_themselves() -> None:
    away = [attempt(port, "no-source", source="192.0.2.9") for port in (25, 587, 2525, 465)]
    found = ports.judge([*away, attempt(25, "timeout"), attempt(25, "greeted", "220 x", source="192.0.2.5")], 5.0)
    assert [(finding.subject, finding.severity) for finding in found] == [("192.0.2.1", "problem"), ("192.0.2.5", "ok"), ("192.0.2.9", "problem")]


# --- names ---

GOOD = Named("192.0.2.1", "mail.example.com", "", (("mail.example.com", ("192.0.2.1",)),), ("192.0.2.1",))


@pytest.mark.parametrize(
    ("named", "severity", "text", "advice"),
    [
        (GOOD, "ok", "is called mail.example.com, and back", ""),
        (GOOD._replace(ehlo="Mail.Example.COM"), "ok", "and back", ""),
        (GOOD._replace(pointers=()), "problem", "has no name (PTR)", "set its PTR to mail.example.com"),
        (GOOD._replace(pointers=(), ehlo_addresses=()), "problem", "no name", "and publish A 192.0.2.1 for mail.example.com"),
        (GOOD._replace(pointers=(("x.example", ("192.0.2.7",)),)), "problem", "but x.example has 192.0.2.7", "publish A 192.0.2.1 for x.example"),
        (GOOD._replace(pointers=(("x.example", ()),)), "problem", "x.example has no address", "have the PTR set to mail.example.com"),
        (GOOD._replace(ehlo="other.example"), "warning", "called mail.example.com, but says EHLO other.example", "192.0.2.1 mail.example.com"),
        (GOOD._replace(trouble="no answer", pointers=()), "warning", "could not say its name: no answer", "later"),
        (GOOD._replace(ehlo="localhost"), "problem", "says EHLO localhost, which is no name", "smtp-source-host 192.0.2.1 mail.example.com"),
        (GOOD._replace(ehlo="box.local"), "problem", "says EHLO box.local", "host-name"),
        (Named("10.0.0.5", "mail.example.com"), "problem", "private network", "publish A for mail.example.com"),
        (GOOD._replace(behind="10.0.0.5"), "ok", "and back", ""),
        (Named("2001:db8::1", "m.example.com"), "problem", "no name (PTR)", "publish AAAA 2001:db8::1 for m.example.com"),
    ],
)
def test_names(named: Named, severity: str, text: str, advice: str) -> None:
    (finding,) = names.judge([named])
    assert finding.severity == severity
    assert text in finding.text
    assert (advice in finding.advice) if advice else not finding.advice
    assert ("10.0.0.5" in finding.subject) == ("10.0.0.5" in (named.behind, named.address))


@pytest.mark.parametrize(
    ("name", "generic"),
    [
        ("ec2-192-0-2-1.compute.example.com", True),
        ("1.2.0.192.dsl.example.com", True),
        ("static.192.000.002.001.example.com", True),
        ("mail2.example.com", False),
        ("192-0-2-7.example.com", False),
        ("v4-192-0-2.mx9.example.com", False),
    ],
)
def test_names_that_providers_give_to_everybody(name: str, generic: bool) -> None:
    found = names.judge([Named("192.0.2.1", name, "", ((name, ("192.0.2.1",)),), ("192.0.2.1",))])
    assert [finding.severity for finding in found] == (["ok", "warning"] if generic else ["ok"])


def test_one_of_several_names_is_enough_with_a_hint() -> None:
    pointers = (("a.example.com", ("192.0.2.1",)), ("mail.example.com", ("192.0.2.1",)))
    assert [finding.severity for finding in names.judge([GOOD._replace(pointers=pointers)])] == ["ok", "hint"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("100.64.0.1", True),
        ("fd00::1", True),
        ("2001:db8::1", False),
        ("127.0.0.1", False),
    ],
)
def test_addresses_behind_a_translation(address: str, expected: bool) -> None:
    assert names.translated(address) == expected


# --- SPF ---


def spf(result: Result, term: str = "", text: str = "", lookups: int = 1, record: str = "v=spf1 mx -all", of_ehlo: bool = False) -> Checked:
    return Checked("d.example", "192.0.2.1", Verdict(result, "d.example", term, text, lookups, record), of_ehlo)


@pytest.mark.parametrize(
    ("checked", "severities", "text", "advice"),
    [
        (spf("pass", "mx"), ["ok"], "SPF passes (mx)", ""),
        (spf("pass", "+all"), ["ok", "problem"], "SPF passes (+all)", ""),
        (spf("fail", "-all"), ["problem"], "SPF fails (-all)", "v=spf1 ip4:192.0.2.1 mx -all"),
        (spf("softfail", "~all"), ["warning"], "says softfail (~all)", "add ip4:192.0.2.1 to the record of d.example"),
        (spf("neutral", "?all"), ["warning"], "says neutral", "add ip4:192.0.2.1"),
        (spf("none", text="no SPF record"), ["warning"], "no SPF record: nothing says who may send", 'publish TXT "v=spf1 ip4:192.0.2.1 -all"'),
        (spf("none", text="no SPF record", of_ehlo=True), ["hint"], "the EHLO name has no SPF record", "v=spf1 a -all"),
        (spf("permerror", text="'foo' is no term"), ["problem"], "broken: 'foo' is no term", "correct it"),
        (spf("temperror", text="x: no answer"), ["warning"], "could not be looked up: x: no answer", "later"),
        (spf("pass", "mx", lookups=8), ["ok", "hint"], "SPF passes", ""),
    ],
)
def test_spf(checked: Checked, severities: list[str], text: str, advice: str) -> None:
    found = senders.judge([checked])
    assert [finding.severity for finding in found] == severities
    assert text in found[0].text
    assert (advice in found[0].advice) if advice else not found[0].advice


def test_nobody_sees_the_address_of_a_private_network() -> None:
    assert senders.judge([spf("fail", "-all")._replace(address="10.0.0.5")]) == []


# --- listeners ---

CERTIFICATE = Certificate(("mail.example.com",), NOW_S - DAY_S, NOW_S + 60 * DAY_S)
OPEN = Listener("192.0.2.1:587", 587, "198.51.100.9", "mail.example.com", "greeted", "220 mail.example.com ready", tried=12)
SECURE = OPEN._replace(extensions=frozenset({"STARTTLS"}), mechanisms_tls=frozenset({"PLAIN"}), certificate=CERTIFICATE)


def judged(each: Listener) -> dict[str, Finding]:
    return {finding.topic: finding for finding in listeners.judge([each], (), NOW_S, 5.0)}


@pytest.mark.parametrize(
    ("each", "topic", "severity", "text", "advice"),
    [
        (OPEN, "listener", "ok", "is there: 220 mail.example.com ready", ""),
        (OPEN, "relay", "ok", "is no open relay: 12 tricks of a stranger (198.51.100.9) are refused", ""),
        (
            OPEN._replace(admitted=(Admission("percent", "a%b@c", "250 ok"), Admission("bang", "a!b", "250 ok"))),
            *("relay", "problem", "open relay: from 198.51.100.9 it takes <a%b@c>: percent, 250 ok (and 1 more ways)", "always-allow-relaying"),
        ),
        (OPEN._replace(put_off=("450 4.7.1 relaying denied",)), "relay", "hint", "only put off: 450 4.7.1 relaying denied", "relay-debug"),
        (OPEN._replace(tried=0, untried="everybody may"), "relay", "hint", "not tried as a relay: everybody may", "--from IP"),
        (OPEN._replace(state="refused", text=""), "listener", "warning", "nobody listens there", "engine start"),
        (OPEN._replace(state="timeout", text=""), "listener", "problem", "no answer within 5 s", "engine status"),
        (OPEN._replace(state="silent", text=""), "listener", "problem", "sends no greeting", "engine status"),
        (OPEN._replace(text="521 no service"), "listener", "hint", "greets 198.51.100.9 with 521", "smtp-service no"),
        (OPEN, "tls", "hint", "offers no TLS", "allow-starttls yes"),
        (SECURE, "tls", "ok", "for mail.example.com, is trusted, and valid for 60 days more", ""),
        (SECURE._replace(tls_trouble="handshake failure"), "tls", "problem", "TLS does not work: handshake failure", "log"),
        (SECURE._replace(certificate=CERTIFICATE._replace(ends_s=NOW_S - 3 * DAY_S)), "tls", "problem", "expired 3 days ago", "renew"),
        (SECURE._replace(certificate=CERTIFICATE._replace(ends_s=NOW_S + 5 * DAY_S)), "tls", "warning", "expires in 5 days", "renew"),
        (SECURE._replace(certificate=CERTIFICATE._replace(ends_s=NOW_S + 7200)), "tls", "warning", "expires in 2 h", "renew"),
        (SECURE._replace(certificate=CERTIFICATE._replace(begins_s=NOW_S + 2 * DAY_S)), "tls", "problem", "not valid yet, for 2 days", "renew"),
        (
            SECURE._replace(certificate=CERTIFICATE._replace(distrusted="self-signed")),
            "tls",
            "warning",
            "not be trusted for mail.example.com",
            "known",
        ),
        (
            SECURE._replace(mechanisms=frozenset({"LOGIN", "CRAM-MD5"})),
            "tls",
            "warning",
            "passwords in clear (AUTH LOGIN without TLS)",
            "require-starttls",
        ),
        (SECURE._replace(port=465), "tls", "problem", "465 is for TLS from the first byte, and this listener does not", "immediate-tls yes"),
        (OPEN._replace(state="no-tls", text="wrong version number"), "listener", "problem", "speaks no TLS: wrong version number", "log"),
    ],
)
def test_listeners(each: Listener, topic: str, severity: str, text: str, advice: str) -> None:
    finding = judged(each)[topic]
    assert finding.severity == severity
    assert text in finding.text
    assert (advice in finding.advice) if advice else not finding.advice


def test_a_listener_that_is_missing_among_others_is_a_problem() -> None:
    away = OPEN._replace(where="192.0.2.1:25", port=25, state="refused")
    assert [finding.severity for finding in listeners.judge([away, OPEN], (), NOW_S, 5.0) if finding.topic == "listener"] == ["problem", "ok"]
    assert [finding.severity for finding in listeners.judge([away, away], (), NOW_S, 5.0)] == ["warning", "warning"]


@pytest.mark.parametrize(
    ("doors", "text", "severity"),
    [
        ([SECURE, SECURE._replace(port=25)], "use port 587 with STARTTLS and AUTH: 587 is the port for submission (RFC 6409)", "ok"),
        ([SECURE._replace(port=25), SECURE._replace(port=2525)], "use port 2525 with STARTTLS and AUTH: 2525 is the alternative where", "ok"),
        ([SECURE._replace(port=465, extensions=frozenset(), implicit_tls=True)], "use port 465 with TLS from the start and AUTH: 465", "ok"),
        ([OPEN._replace(port=465, implicit_tls=True), SECURE], "also here: 465", "ok"),
        ([OPEN._replace(port=25)], "use port 25: 25 is for mail servers", "hint"),
        ([OPEN], "no AUTH is offered, so the hosts of <source 10.0.0.0/8> may send", "ok"),
        ([OPEN._replace(port=10025)], "use port 10025: it is what is there", "ok"),
    ],
)
def test_the_port_for_applications(doors: list[Listener], text: str, severity: str) -> None:
    finding = listeners.judge(doors, ("10.0.0.0/8",), NOW_S, 5.0)[-1]
    assert (finding.topic, finding.severity) == ("application", severity)
    assert text in finding.text


def test_everything_in_the_order_in_which_one_asks() -> None:
    seen = Examination((attempt(25, "greeted", "220 x"),), (GOOD,), (spf("pass", "mx"),), (SECURE,))
    assert [finding.topic for finding in judge(seen, (), NOW_S, 5.0)] == ["port", "name", "spf", "listener", "relay", "tls", "application"]
