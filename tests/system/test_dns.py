"""Where mail goes by what DNS says, with a real engine, a DNS server on loopback that can misbehave, and sinks as MX hosts; and its DSNs."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from email import message_from_bytes
from email.message import Message as Parsed

import pytest

from tests.dns_server import DnsServer, Zone
from tests.sinks import Message, Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

MX1, MX2, MX3 = "127.0.0.21", "127.0.0.22", "127.0.0.23"
HOSTS: Zone = {"mx1.example": {"A": [MX1]}, "mx2.example": {"A": [MX2]}, "mx3.example": {"A": [MX3]}, "origin.example": {"MX": ["10 mx3.example"]}}
ORIGIN = "sender@origin.example"
SETTINGS = """
<domain *>
    default-smtp-port {port}
    allow-private-mx yes
    retry-after {retry}
    retry-recipients-after {retry}
    retry-after-dns-error {dns_retry}
    bounce-after {bounce_after}
    connect-timeout 5s
    smtp-greeting-timeout 5s
    connection-idle-timeout 1s
</domain>
"""
TEXT = b"Subject: hello\r\nX-Mark: header-mark\r\n\r\nbody-mark\r\n"


class World:
    """DNS, sinks and an engine; `send` mail and see what becomes of it."""

    def __init__(self, stack: ExitStack, make_engine: MakeEngine) -> None:
        self._stack = stack
        self._make = make_engine
        self.sinks: dict[str, Sink] = {}
        self.port = 0

    def sink(self, host: str, behaviour: str = "accept-all", **options: object) -> Sink:
        """A sink at *host*, at the port that all share."""
        sink = self._stack.enter_context(Sink(behaviour, host=host, port=self.port, **options))
        self.port = sink.port
        self.sinks[host] = sink
        return sink

    def start(
        self, zone: Zone, more: str = "", *, retry: str = "1h", dns_retry: str = "1h", bounce_after: str = "4d", port: int | str = 0
    ) -> tuple[Engine, DnsServer]:
        """An engine that asks a server of *zone* and of the hosts that every test knows."""
        dns = self._stack.enter_context(DnsServer({**HOSTS, **zone}))
        settings = SETTINGS.format(port=port or self.port, retry=retry, dns_retry=dns_retry, bounce_after=bounce_after)
        return self._make(f"name-server {dns.address}:{dns.port}\n{settings}{more}"), dns


@pytest.fixture
def world(make_engine: MakeEngine) -> Iterator[World]:
    """Each test's own."""
    with ExitStack() as stack:
        yield World(stack, make_engine)


def send(
    engine: Engine, *recipients: str, sender: str = ORIGIN, mail: Sequence[str] = (), rcpt: Sequence[str] = (), source: str = "127.0.0.1"
) -> None:
    """One message."""
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20, source_address=(source, 0)) as client:
        assert client.sendmail(sender, list(recipients), TEXT, list(mail), list(rcpt)) == {}


def first(engine: Engine, kind: str, rcpt: str = "") -> dict[str, str]:
    """The first record of *kind* (about *rcpt*), once there is one."""

    def found() -> list[dict[str, str]]:
        return [record for record in engine.records(kind) if not rcpt or record["rcpt"] == rcpt]

    eventually(found, f"a {kind} record {rcpt}")
    return found()[0]


# --- the way to a host -----------------------------------------------------------------------------------------------------------------


def test_the_preferred_mx_gets_it(world: World) -> None:
    first_choice, second = world.sink(MX1), world.sink(MX2)
    engine, _ = world.start({"dest.example": {"MX": ["20 mx2.example", "10 mx1.example"]}})
    for n in range(4):
        send(engine, f"u{n}@dest.example")
    first_choice.wait_for_messages(4)
    assert not second.connections


def test_equal_preferences_share(world: World) -> None:
    sinks = [world.sink(MX1), world.sink(MX2)]
    engine, _ = world.start(
        {"dest.example": {"MX": ["10 mx1.example", "10 mx2.example"]}}, "<domain dest.example>\nmax-msg-per-connection 1\n</domain>\n"
    )
    for n in range(30):
        send(engine, f"u{n}@dest.example", sender="")
    eventually(lambda: sum(len(sink.messages) for sink in sinks) == 30, "30 messages")
    assert all(sink.messages for sink in sinks)


@pytest.mark.parametrize("behaviour", ["refuse-connection", "greeting-421", "greeting-554", "drop-before-greeting", "drop-after-ehlo"])
def test_the_next_mx_when_the_first_cannot(world: World, behaviour: str) -> None:
    world.sink(MX1, behaviour)
    second = world.sink(MX2)
    engine, _ = world.start({"dest.example": {"MX": ["10 mx1.example", "20 mx2.example"]}})
    send(engine, "user@dest.example")
    second.wait_for_messages(1)
    record = first(engine, "d")
    assert (record["dlvDestinationIp"], record["dsnMta"]) == (MX2, f"mx2.example ({MX2})")
    assert not engine.records("t", "b", "tq")


def test_the_first_mx_has_no_address(world: World) -> None:
    second = world.sink(MX2)
    engine, _ = world.start({"dest.example": {"MX": ["10 gone.example", "20 mx2.example"]}})
    send(engine, "user@dest.example")
    second.wait_for_messages(1)


def test_the_first_mx_cannot_be_looked_up(world: World) -> None:
    second = world.sink(MX2)
    engine, _ = world.start({"dest.example": {"MX": ["10 broken.example", "20 mx2.example"]}, "broken.example": {"!": ["servfail"]}})
    send(engine, "user@dest.example")
    second.wait_for_messages(1)


def test_without_mx_the_address_of_the_name(world: World) -> None:
    sink = world.sink(MX1)
    engine, _ = world.start({"dest.example": {"A": [MX1]}})
    send(engine, "user@dest.example")
    sink.wait_for_messages(1)
    assert first(engine, "d")["dsnMta"] == f"dest.example ({MX1})"


def test_aliases_are_followed(world: World) -> None:
    sink = world.sink(MX1)
    zone = {
        "dest.example": {"CNAME": ["real.example."]},
        "real.example": {"MX": ["10 name.example"]},
        "name.example": {"CNAME": ["mx1.example."]},
        "chained.example": {"CNAME": ["real.example."], "!": ["no-chase"]},
    }
    engine, _ = world.start(zone)
    send(engine, "user@dest.example", "user@chained.example")
    eventually(lambda: len(engine.records("d")) == 2, "two d records")
    assert {rcpt for message in sink.messages for rcpt in message.recipients} == {"user@dest.example", "user@chained.example"}


def test_address_literal(world: World) -> None:
    sink = world.sink(MX1)
    engine, dns = world.start({})
    send(engine, f"user@[{MX1}]")
    (message,) = sink.wait_for_messages(1)
    assert message.recipients == (f"user@[{MX1}]",)
    assert first(engine, "d")["queue"] == f"[{MX1}]/{{default}}"
    assert not dns.queries


def test_an_address_literal_obeys_the_sections_for_its_network(world: World) -> None:
    """The narrower of two networks says which port; a name that happens to resolve into them obeys neither."""
    sink = world.sink(MX1)
    sections = f"<domain [127/8]>\ndefault-smtp-port 1\n</domain>\n<domain [127.0.0.16/28]>\ndefault-smtp-port {sink.port}\n</domain>\n"
    engine, dns = world.start({}, sections, port=2)
    send(engine, f"near@[{MX1}]", f"far@[{MX1.replace('21', '99')}]", "by-name@mx1.example")
    (message,) = sink.wait_for_messages(1)
    assert message.recipients == (f"near@[{MX1}]",)
    assert first(engine, "d")["dlvDestinationIp"] == MX1
    assert not [name for name, *_ in dns.queries if "127" in str(name)]


def test_idna_domain_as_a_labels(world: World) -> None:
    sink = world.sink(MX1)
    engine, _ = world.start({"xn--bcher-kva.example": {"MX": ["10 mx1.example"]}})
    send(engine, "user@xn--bcher-kva.example")
    assert sink.wait_for_messages(1)[0].recipients == ("user@xn--bcher-kva.example",)
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:  # U-labels need SMTPUTF8, which is not offered
        client.ehlo()
        client.mail(ORIGIN)
        client.send("RCPT TO:<user@bücher.example>\r\n".encode())
        assert client.getreply()[0] == 553


def test_an_mx_on_loopback_is_ignored_unless_allowed(world: World) -> None:
    sink = world.sink(MX1)
    zone = {"dest.example": {"MX": ["10 mx1.example"]}}
    engine, _ = world.start(zone, "<domain dest.example>\nallow-private-mx no\nbounce-upon-no-mx yes\n</domain>\n")
    send(engine, "user@dest.example", sender="")
    assert "names only addresses that no mail host can have" in first(engine, "b")["dsnDiag"]
    assert not sink.connections


# --- nowhere to go ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "status"),
    [
        ({"dest.example": {"MX": ["0 ."]}}, "5.1.10"),
        ({}, "5.1.2"),
        ({"dest.example": {"!": ["nxdomain"]}}, "5.1.2"),
    ],
    ids=["null MX", "no such domain", "NXDOMAIN"],
)
def test_for_good_bounces_at_once_with_a_dsn(world: World, zone: Zone, status: str) -> None:
    origin = world.sink(MX3)
    engine, _ = world.start(zone)
    send(engine, "user@dest.example")
    record = first(engine, "b")
    assert record["dsnStatus"].partition(" ")[0] == status
    assert record["dsnAction"] == "failed"
    assert record["dlvDestinationIp"] == ""
    (dsn,) = origin.wait_for_messages(1)
    assert (dsn.sender, dsn.recipients) == ("", (ORIGIN,))
    assert f"Status: {status}".encode() in dsn.body
    assert not engine.records("t", "tq")


@pytest.mark.parametrize("behaviour", ["servfail"])
def test_a_failed_look_up_is_tried_again(world: World, behaviour: str) -> None:
    sink = world.sink(MX1)
    zone: dict[str, dict[str, list[str]]] = {"dest.example": {"MX": ["10 mx1.example"], "!": [behaviour]}}
    engine, dns = world.start(zone, dns_retry="1s")
    send(engine, "user@dest.example")
    record = first(engine, "tq")
    assert record["queue"] == "dest.example/{default}"
    assert record["dsnStatus"].startswith("4.4.3")
    dns.zone = {**dns.zone, "dest.example": {"MX": ["10 mx1.example"]}}
    dns.forget()
    sink.wait_for_messages(1, 40)  # failures are remembered for ten seconds
    assert first(engine, "d")["rcpt"] == "user@dest.example"
    assert not engine.records("b")


def test_a_silent_server_is_a_failed_look_up(world: World) -> None:
    engine, _ = world.start({"dest.example": {"!": ["silence"]}}, port=25)
    send(engine, "user@dest.example")
    eventually(lambda: engine.records("tq"), "a tq record", 60)
    assert engine.records("tq")[0]["dsnStatus"].startswith("4.4.3")
    assert not engine.records("b", "t")


NO_MX: Zone = {"dest.example": {"TXT": ["nothing"]}}


def test_no_mx_bounces_at_once(world: World) -> None:
    engine, _ = world.start(NO_MX, "<domain dest.example>\nbounce-upon-no-mx true\n</domain>\n", port=25)
    send(engine, "user@dest.example", sender="")
    assert first(engine, "b")["dsnStatus"].startswith("5.4.4")


def test_no_mx_waits(world: World) -> None:
    engine, _ = world.start(NO_MX, port=25)
    send(engine, "user@dest.example", sender="")
    first(engine, "tq")
    assert not engine.records("b")
    assert "1 recipients waiting" in engine.run("status").stdout


def test_no_mx_bounces_at_an_age(world: World) -> None:
    engine, _ = world.start(NO_MX, "<domain dest.example>\nbounce-upon-no-mx 3s\n</domain>\n", dns_retry="1s", port=25)
    send(engine, "user@dest.example", sender="")
    eventually(lambda: engine.records("b"), "the bounce", 100)
    (record,) = engine.records("b")
    assert record["dsnStatus"].startswith("5.4.4")
    eventually(lambda: " bounced " in engine.log(), "its line in the log")
    age_s = float(engine.log().partition(" bounced ")[2].partition("delay=")[2].partition("s")[0])
    assert age_s >= 3


LISTENERS = "smtp-listener 127.0.0.1:@port@\nsmtp-listener 127.0.0.3:@port@\n"


@pytest.mark.parametrize("domain", ["dest.example", "self.example", "[127.0.0.3]"], ids=["by MX", "by address", "by literal"])
def test_a_loop_to_ourselves_bounces(world: World, domain: str) -> None:
    engine, _ = world.start({"self.example": {"A": ["127.0.0.1"]}, "dest.example": {"MX": ["10 self.example"]}}, LISTENERS, port="@port@")
    send(engine, f"user@{domain}", sender="")
    assert first(engine, "b")["dsnStatus"].startswith("5.4.6")


def test_hosts_before_ourselves_are_tried(world: World) -> None:
    """RFC 5321 section 5.1: only ourselves and those not better are left out."""
    with socket.socket() as probe:  # a sink at the engine's own port, on another address
        probe.bind((MX1, 0))
        port = probe.getsockname()[1]
    zone = {"self.example": {"A": ["127.0.0.1"]}, "dest.example": {"MX": ["10 mx1.example", "20 self.example", "30 mx2.example"]}}
    engine, _ = world.start(zone, f"smtp-listener 127.0.0.1:@port@\nsmtp-listener 127.0.0.1:{port}\n", port=port)
    world.port = port
    sink, worse = world.sink(MX1), world.sink(MX2)
    send(engine, "user@dest.example", sender="")
    sink.wait_for_messages(1)
    assert not worse.connections


# --- DSNs ------------------------------------------------------------------------------------------------------------------------------


def parts(message: Message) -> tuple[Parsed, list[Parsed]]:
    """A DSN and its three parts."""
    whole = message_from_bytes(message.content)
    inside = whole.get_payload()
    assert isinstance(inside, list)
    return whole, [part for part in inside if isinstance(part, Parsed)]


@pytest.fixture
def bounce(world: World) -> Callable[..., tuple[Engine, Sink]]:
    """`bounce(*recipients, ...)` sends mail that one MX refuses for good; the engine, and the sink where its sender reads."""

    def run(*recipients: str, more: str = "", **options: object) -> tuple[Engine, Sink]:
        world.sink(MX1, "rcpt-5xx")
        origin = world.sink(MX3)
        engine, _ = world.start({"dest.example": {"MX": ["10 mx1.example"]}, "after.example": {"MX": ["10 mx3.example"]}}, more)
        send(engine, *(recipients or ("user@dest.example",)), **options)  # type: ignore[arg-type]
        eventually(lambda: len(engine.records("b")) == (len(recipients) or 1), "the bounces")
        send(engine, "end@after.example", sender="")  # through the same queues and MX as a DSN would go, and after it
        eventually(lambda: any(r["rcpt"] == "end@after.example" for r in engine.records("d")), "what was sent afterwards")
        return engine, origin

    return run


def dsns(origin: Sink) -> list[Message]:
    return [message for message in origin.messages if message.recipients == (ORIGIN,)]


@pytest.mark.parametrize("mail", [[], ["RET=HDRS", "ENVID=an-id"]], ids=["unasked", "RET=HDRS"])
def test_a_dsn_returns_the_headers(bounce: Callable[..., tuple[Engine, Sink]], mail: list[str]) -> None:
    _, origin = bounce(mail=mail, rcpt=["ORCPT=rfc822;first@dest.example"] if mail else [])
    eventually(lambda: dsns(origin), "the DSN")
    (dsn,) = dsns(origin)
    assert dsn.sender == ""
    whole, (words, report, returned) = parts(dsn)
    assert whole.get_content_type() == "multipart/report"
    assert whole.get_param("report-type") == "delivery-status"
    assert whole["Auto-Submitted"].startswith("auto-")
    assert whole["To"] == f"<{ORIGIN}>"
    assert "user@dest.example" in str(words.get_payload())
    assert report.get_content_type() == "message/delivery-status"
    of_message, of_recipient = report.get_payload()
    assert isinstance(of_recipient, Parsed) and isinstance(of_message, Parsed)
    assert of_message["Reporting-MTA"] == "dns;engine.example"
    assert of_message["Original-Envelope-Id"] == ("an-id" if mail else None)
    assert of_recipient["Original-Recipient"] == ("rfc822;first@dest.example" if mail else None)
    assert of_recipient["Final-Recipient"] == "rfc822;user@dest.example"
    assert (of_recipient["Action"], of_recipient["Status"]) == ("failed", "5.1.1")
    assert of_recipient["Diagnostic-Code"].startswith("smtp;550 5.1.1")
    assert of_recipient["Remote-MTA"] == f"dns;mx1.example ({MX1})"
    assert returned.get_content_type() == "text/rfc822-headers"
    assert "header-mark" in str(returned.get_payload())
    assert "body-mark" not in dsn.content.decode()


def test_ret_full_returns_the_message(bounce: Callable[..., tuple[Engine, Sink]]) -> None:
    _, origin = bounce(mail=["RET=FULL"])
    eventually(lambda: dsns(origin), "the DSN")
    _, (_, _, returned) = parts(dsns(origin)[0])
    assert returned.get_content_type() == "message/rfc822"
    assert TEXT in dsns(origin)[0].content


@pytest.mark.parametrize(("notify", "count"), [("NEVER", 0), ("SUCCESS", 0), ("DELAY", 0), ("FAILURE", 1), ("SUCCESS,FAILURE", 1)])
def test_notify(bounce: Callable[..., tuple[Engine, Sink]], notify: str, count: int) -> None:
    engine, origin = bounce(rcpt=[f"NOTIFY={notify}"])
    eventually(lambda: len(dsns(origin)) >= count, "the DSN")
    eventually(lambda: "0 messages" in engine.run("status").stdout, "an empty spool")
    assert len(dsns(origin)) == count


def test_many_recipients_share_a_dsn(bounce: Callable[..., tuple[Engine, Sink]]) -> None:
    names = [f"u{n}@dest.example" for n in range(5)]
    _, origin = bounce(*names)
    eventually(lambda: dsns(origin), "the DSN")
    (dsn,) = dsns(origin)
    assert dsn.body.count(b"Final-Recipient: rfc822;u") == 5


def test_the_null_sender_never_gets_a_dsn(bounce: Callable[..., tuple[Engine, Sink]]) -> None:
    engine, origin = bounce(sender="")
    assert [message.recipients for message in origin.messages] == [("end@after.example",)]
    eventually(lambda: "0 messages" in engine.run("status").stdout, "an empty spool")


RELAY_ONLY = "relay-domain dest.example\n<source 127.0.0.1>\nalways-allow-relaying yes\n</source>\n"


def test_mail_that_only_relay_domain_admitted_gets_none(bounce: Callable[..., tuple[Engine, Sink]]) -> None:
    engine, origin = bounce(more=RELAY_ONLY, source="127.0.0.2")
    assert [message.recipients for message in origin.messages] == [("end@after.example",)]
    eventually(lambda: "0 messages" in engine.run("status").stdout, "an empty spool")


def test_unless_it_is_enabled(bounce: Callable[..., tuple[Engine, Sink]]) -> None:
    _, origin = bounce(more=RELAY_ONLY + "dsn-for-relayed-domain yes\n", source="127.0.0.2")
    eventually(lambda: len(dsns(origin)) == 1, "the DSN")


def test_a_bounced_dsn_ends_there(world: World) -> None:
    world.sink(MX1, "rcpt-5xx")
    world.sink(MX3, "rcpt-5xx")
    engine, _ = world.start({"dest.example": {"MX": ["10 mx1.example"]}})
    send(engine, "user@dest.example")
    eventually(lambda: len(engine.records("b")) == 2, "the bounce of the message and that of its DSN")
    assert [(record["orig"], record["rcpt"]) for record in engine.records("b")] == [(ORIGIN, "user@dest.example"), ("", ORIGIN)]
    eventually(lambda: "0 messages" in engine.run("status").stdout, "an empty spool")
