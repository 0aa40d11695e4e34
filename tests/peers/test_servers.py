"""Engine -> other people's servers: Postfix, smtp-sink; Postfix -> engine; names from unbound."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.peer import free_port, wait_for_greeting
from bench.postfix import Postfix
from tests.peers.clients import send_with_smtplib
from tests.peers.conftest import routed
from tests.peers.corpus import CORPUS, assert_all_untouched, assert_untouched, large, recipients_in_domains
from tests.peers.install import path_of
from tests.sinks import Sink
from tests.system.engine import Engine, eventually

pytestmark = pytest.mark.peers

Need = Callable[[str], None]
NATIVE = {name: message.replace(b"\r\n", b"\n") for name, message in CORPUS.items()}


def by_route(port: int) -> str:
    """Everything to 127.0.0.1:*port*, without DNS."""
    return routed(port).replace("<domain *>\n", f"<domain *>\n    smtp-hosts [127.0.0.1]:{port}\n")


@pytest.mark.parametrize("names", [list(CORPUS)])
def test_engine_to_postfix(names: list[str], need: Need, tmp_path: Path, open_directory: Path) -> None:
    need("postfix")
    with (
        Postfix(open_directory / "postfix", mailbox_domain="d0.example") as postfix,
        Engine(open_directory / "engine", by_route(postfix.port)) as engine,
    ):
        for name in names:
            send_with_smtplib(engine.port, CORPUS[name], ["to@d0.example"], tmp_path)
        send_with_smtplib(engine.port, large(), ["to@d0.example"], tmp_path)
        eventually(lambda: len(postfix.messages()) == len(names) + 1, "every message in a mailbox of Postfix", 60)
        stored = postfix.messages()
        assert len(engine.wait_for_records(len(names) + 1, "d")) == len(names) + 1
    for sent in [*(NATIVE[name] for name in names), large().replace(b"\r\n", b"\n")]:
        subject = sent.partition(b"Subject: ")[2].partition(b"\n")[0]
        (kept,) = (message for message in stored if b"\nSubject: " + subject + b"\n" in message)
        assert_untouched(kept, sent)


def test_postfix_to_engine(need: Need, tmp_path: Path, open_directory: Path) -> None:
    need("postfix")
    recipients = recipients_in_domains(20, 3)
    with (
        Sink() as sink,
        Engine(open_directory / "engine", by_route(sink.port)) as engine,
        Postfix(open_directory / "postfix", relayhost=f"[127.0.0.1]:{engine.port}") as postfix,
    ):
        send_with_smtplib(postfix.port, CORPUS["dots"], recipients, tmp_path)
        sink.wait(lambda seen: sum(len(message.recipients) for message in seen.messages) >= len(recipients), 60, "all recipients")
        assert_all_untouched(sink.messages, CORPUS["dots"], recipients)


def test_engine_to_smtp_sink(need: Need, tmp_path: Path, open_directory: Path) -> None:
    need("smtp-sink")
    program = path_of("smtp-sink")
    assert program is not None
    port, dumps = free_port(), open_directory / "dumps"
    dumps.mkdir()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    sink = subprocess.Popen(
        [program, *user, "-c", "-d", "%s.", f"127.0.0.1:{port}", "100"], cwd=dumps, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert wait_for_greeting("127.0.0.1", port, 10)
        with Engine(open_directory / "engine", by_route(port)) as engine:
            for name in CORPUS:
                send_with_smtplib(engine.port, CORPUS[name], ["to@d0.example"], tmp_path)
            assert len(engine.wait_for_records(len(CORPUS), "d")) == len(CORPUS)
        stored = [path.read_bytes() for path in dumps.iterdir()]
        for name, sent in NATIVE.items():
            (kept,) = (message for message in stored if b"Subject: %s\n" % name.encode() in message)
            assert_untouched(kept.removesuffix(b"\n"), sent)  # smtp-sink ends each dump with an empty line
    finally:
        sink.send_signal(signal.SIGTERM)
        sink.wait(10)


@contextmanager
def unbound(directory: Path, records: list[str]) -> Iterator[int]:
    """The port of an unbound that knows *records* under example. and nothing else."""
    program = path_of("unbound")
    assert program is not None
    port = free_port()
    lines = ["server:", "interface: 127.0.0.1", f"port: {port}", "do-daemonize: no", 'chroot: ""', 'username: ""', f'directory: "{directory}"']
    lines += ['pidfile: ""', "use-syslog: no", "access-control: 127.0.0.0/8 allow", 'local-zone: "example." static', "module-config: iterator"]
    lines += [*(f"local-data: '{record}'" for record in records), "remote-control:", "control-enable: no"]
    conf = directory / "unbound.conf"
    conf.write_text("\n".join(lines) + "\n")
    with (directory / "unbound.log").open("wb") as log:
        server = subprocess.Popen([program, "-d", "-c", str(conf)], stdout=log, stderr=log)
    try:
        eventually(lambda: b"start of service" in (directory / "unbound.log").read_bytes() or server.poll() is not None, "unbound serves", 20)
        assert server.poll() is None, (directory / "unbound.log").read_text()
        yield port
    finally:
        server.terminate()
        server.wait(10)


def test_names_from_unbound(need: Need, tmp_path: Path, open_directory: Path) -> None:
    need("unbound")
    records = ["d0.example. MX 10 mx.d0.example.", "mx.d0.example. A 127.0.0.23", "d1.example. A 127.0.0.23", "d2.example. MX 0 ."]
    with Sink(host="127.0.0.23") as sink, unbound(open_directory, records) as port:
        with Engine(open_directory / "engine", f"name-server 127.0.0.1:{port}\n" + routed(sink.port)) as engine:
            send_with_smtplib(engine.port, CORPUS["plain"], ["a@d0.example", "b@d1.example", "c@d2.example"], tmp_path)
            sink.wait_for_messages(2)
            bounced = engine.wait_for_records(1, "b")[0]
        assert bounced["rcpt"] == "c@d2.example"
        assert bounced["dsnStatus"].startswith("5.1.10")  # null MX, RFC 7505 (the DSN about it finds no MX either, later)
        assert sorted(message.recipients for message in sink.messages) == [("a@d0.example",), ("b@d1.example",)]


def test_extensions_to_postfix(need: Need, tmp_path: Path, open_directory: Path) -> None:
    """What Postfix offers is used: addresses in UTF-8 by SMTPUTF8, content by BDAT, NOTIFY by DSN."""
    need("postfix")
    text = "From: <jürgen@bücher.example>\r\nSubject: grüße\r\n\r\n.dot\r\nä\r\n".encode()
    with (
        Postfix(open_directory / "postfix", mailbox_domain="d0.example") as postfix,
        Engine(open_directory / "engine", by_route(postfix.port).replace("<domain *>\n", "<domain *>\n    log-commands yes\n")) as engine,
    ):
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.ehlo("client.example")
            client.sendmail("jürgen@bücher.example", ["to@d0.example"], text, ["SMTPUTF8", "BODY=8BITMIME"], ["NOTIFY=SUCCESS"])
        (record,) = engine.wait_for_records(1, "d")
        assert {"SMTPUTF8", "CHUNKING", "DSN"} <= set(record["dlvEsmtpAvailable"].split(","))
        eventually(lambda: postfix.messages(), "the message in a mailbox of Postfix", 30)
        (stored,) = postfix.messages()
        assert_untouched(stored, text.replace(b"\r\n", b"\n"))
        eventually(lambda: " LAST" in engine.log(), "the dialogue in the log")
        said = [line.partition(" <<< ")[2] for line in engine.log().splitlines() if " dialogue " in line]
        assert any(" SMTPUTF8" in line for line in said) and any("NOTIFY=SUCCESS" in line for line in said)
        assert any(line.startswith('"BDAT ') for line in said) and '"DATA"' not in said
