"""`engine why` against real processes: each situation is made, asked for, and its one sentence read."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import time

import pytest

from engine.cli import asking, grammar
from engine.cli.why import Explained, explain
from tests.dns_server import DnsServer
from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    connect-timeout 5s
    connection-idle-timeout 1s
    retry-after 10m
    retry-recipients-after 20m
    {more}
</domain>
"""


def conf(port: int, more: str = "", top: str = "") -> str:
    return top + CONF.format(port=port, more=more)


def send(engine: Engine, *recipients: str, vmta: str = "") -> str:
    """One message; its id."""
    header = f"X-Virtual-MTA: {vmta}\r\n" if vmta else ""
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        client.ehlo()
        client.mail("s@origin.example")
        for recipient in recipients:
            client.rcpt(recipient)
        code, text = client.data(f"{header}Subject: x\r\n\r\nbody\r\n")
    assert code == 250
    return text.decode().split()[-1]


def ask(engine: Engine, what: str, most: int = 1) -> tuple[list[Explained], bool]:
    asked = asking.Engine(grammar().top.parse_args(["why", "-c", str(engine.conf), what]))
    return explain(asked, what, most, int(time.time() * 1000))


def kind(engine: Engine, what: str) -> str:
    standing = ask(engine, what)[0][0].standing
    return standing.kind if standing is not None else ""


def becomes(engine: Engine, what: str, wanted: str) -> str:
    """The sentence, once its kind is *wanted*; always one sentence, ended."""
    eventually(lambda: kind(engine, what) == wanted, f"{what} is {wanted}, not {kind(engine, what)}: {ask(engine, what)[0][0].text}")
    text = ask(engine, what)[0][0].text
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def line_of(engine: Engine, directive: str) -> str:
    """`FILE:LINE` where the configuration says *directive*."""
    lines = engine.conf.read_text().splitlines()
    return f"{engine.conf}:{1 + next(index for index, line in enumerate(lines) if line.strip().startswith(directive))}"


def test_a_refused_connection_is_the_queues_and_a_second_queue_remembers_it(make_engine: MakeEngine, closed_port: int) -> None:
    engine = make_engine(conf(closed_port))
    shown = send(engine, "a@dead.example")
    text = becomes(engine, "dead.example/{default}", "retry-after")
    assert f"waits retry-after 10m ({line_of(engine, 'retry-after')})" in text
    assert re.search(r"connect to .*127\.0\.0\.1\]:\d+ .*refused; since \d\d:\d\d:\d\d; next attempt at \d\d:\d\d:\d\d \(in 9m \d+s\)", text), text
    assert text.startswith("queue dead.example/{default} (1 recipients)")
    assert f"message {shown} to <a@dead.example>" in becomes(engine, shown, "retry-after")
    assert "first in its queue" in becomes(engine, "a@dead.example", "retry-after")
    send(engine, "b@other.example")
    assert "has just found its host dead" in becomes(engine, "b@other.example", "unreachable")


def test_a_4xx_is_the_recipients_with_its_reply(make_engine: MakeEngine) -> None:
    with Sink("rcpt-4xx") as sink:
        engine = make_engine(conf(sink.port))
        shown = send(engine, "a@d.example")
        text = becomes(engine, shown, "retry")
    assert f"retry-recipients-after 20m ({line_of(engine, 'retry-recipients-after')})" in text
    assert re.search(r"tried 1 times in \d+s, waits for its own retry .* answered: 4\d\d ", text), text
    assert re.search(r"next attempt at [\d: -]+ \(in 2[01]m|in 19m", text), text


def test_what_is_under_way_and_what_waits_behind_it(make_engine: MakeEngine) -> None:
    with Sink("slow-replies", stage="rcpt", delay_s=60) as sink:
        vmta = "<virtual-mta one>\n    smtp-source-host 127.0.0.1 one.example\n    max-smtp-out 2\n</virtual-mta>\n"
        engine = make_engine(conf(sink.port, "max-smtp-out 1", vmta))
        first = send(engine, "a@d.example", vmta="one")
        text = becomes(engine, first, "sending")
        assert re.search(r"is being delivered right now: .*127\.0\.0\.1\]:\d+ from 127\.0\.0\.1, waiting for the reply to a RCPT", text), text
        second = send(engine, "b@d.example", "c@d.example", vmta="one")
        text = becomes(engine, second, "queue-out")
        assert f"max-smtp-out 1 ({line_of(engine, 'max-smtp-out 1')}): 1 open" in text
        assert "the next of 2 recipients that wait" in text
        becomes(engine, send(engine, "a@e.example", vmta="one"), "sending")
        third = send(engine, "a@f.example", vmta="one")
        text = becomes(engine, third, "vmta-out")
        assert f"max-smtp-out of virtual-mta one 2 ({line_of(engine, 'max-smtp-out 2')})" in text
        assert "place 1 of 1 queues in that line" in text
        found, _ = ask(engine, second, most=2)
        assert [each.recipient for each in found] == ["b@d.example", "c@d.example"]
        send(engine, "b@d.example", vmta="one")
        assert "the next of 2 that wait for this address" in ask(engine, "b@d.example")[0][0].text


def test_a_silent_host_is_being_connected_to(make_engine: MakeEngine) -> None:
    with Sink("silent-greeting") as sink:
        engine = make_engine(conf(sink.port))
        text = becomes(engine, send(engine, "a@d.example"), "connecting")
        assert "waiting for its greeting" in text


def test_a_look_up_that_fails(make_engine: MakeEngine) -> None:
    zone = {"broken.example": {"!": ["servfail"]}}
    with DnsServer(zone) as dns:
        engine = make_engine(f"name-server {dns.address}:{dns.port}\n<domain *>\n    retry-after-dns-error 7m\n</domain>\n")
        text = becomes(engine, send(engine, "a@broken.example"), "dns")
        assert f"waits retry-after-dns-error 7m ({line_of(engine, 'retry-after-dns-error')})" in text
        assert "look-up of broken.example failed" in text


def test_what_is_not_there(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(conf(sink.port))
        shown = send(engine, "a@d.example")
        eventually(lambda: not ask(engine, shown)[1], "the message is delivered")
        text = ask(engine, shown)[0][0].text
        assert "has left the spool" in text
        assert f"grep {shown} {engine.directory / 'log'}" in text
        text = ask(engine, "a@d.example")[0][0].text
        assert "nothing waits for <a@d.example>" in text
        assert "has ever had mail" in ask(engine, "never.example/{default}")[0][0].text
        later = shown[:5] + "v" * 2 + shown[7:]  # an epoch far ahead
        assert "has never given that id" in ask(engine, later)[0][0].text
        assert kind(engine, "d.example/{default}") == "idle"


def test_a_delivery_process_that_does_not_answer_is_named(make_engine: MakeEngine, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "SLOT_S", 0.5)
    engine = make_engine(conf(closed_port))
    shown = send(engine, "a@dead.example")
    becomes(engine, shown, "retry-after")
    stopped = engine.pid("delivery/0")
    os.kill(stopped, signal.SIGSTOP)
    try:
        text = becomes(engine, shown, "slot-down")
        assert f"delivery/0 (pid {stopped}) works, but does not answer: no answer on" in text
    finally:
        os.kill(stopped, signal.SIGCONT)
    becomes(engine, shown, "retry-after")


def test_the_command_prints_a_sentence_or_json(make_engine: MakeEngine, closed_port: int) -> None:
    engine = make_engine(conf(closed_port))
    shown = send(engine, "a@dead.example")
    becomes(engine, shown, "retry-after")
    said = engine.run("why", shown)
    assert said.returncode == 0
    assert said.stdout.startswith(f"message {shown} to <a@dead.example> in queue dead.example/{{default}} waits retry-after 10m")
    assert said.stdout.count("\n") == 1
    assert '"kind": "retry-after"' in engine.run("why", "--json", "dead.example").stdout
    missing = engine.run("why", "b@dead.example")
    assert (missing.returncode, missing.stdout.startswith("nothing waits for")) == (os.EX_DATAERR, True)
