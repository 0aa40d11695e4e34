"""`engine doctor` on loopback: a DNS server, peers that misbehave, listeners that are open or closed, certificates that have expired."""

from __future__ import annotations

import datetime
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.cli import main
from tests.dns_server import DnsServer
from tests.sinks import Sink
from tests.sinks.session import Session
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine

ZONE = {
    "mail.example.com": {"A": ["127.0.0.1"], "TXT": ['"v=spf1 a -all"']},
    "1.0.0.127.in-addr.arpa": {"PTR": ["mail.example.com."]},
    "2.0.0.127.in-addr.arpa": {"PTR": ["liar.example.com."]},
    "liar.example.com": {"A": ["127.0.0.9"]},
    "four.example.com": {"A": ["127.0.0.4"]},
    "4.0.0.127.in-addr.arpa": {"PTR": ["four.example.com."]},
    "example.com": {"TXT": ['"v=spf1 include:_spf.example.com ~all"']},
    "_spf.example.com": {"TXT": ['"v=spf1 ip4:127.0.0.0/30 -all"']},
    "mx.example": {"A": ["127.0.0.1"]},
    "slow.example": {"!": ["servfail"]},
}
CONF = """log-file /l
host-name mail.example.com
postmaster joe@example.com
{more}
<spool /s>
</spool>
"""
Doctor = Callable[..., dict[str, Any]]


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Doctor]:
    """`doctor(directives, *words, code=0)`: what `engine doctor --json` says of a configuration with *directives*."""
    with DnsServer(ZONE) as dns:

        def run(more: str, *words: str, code: int) -> dict[str, Any]:
            conf = tmp_path / "engine.conf"
            conf.write_text(CONF.format(more=more))
            words = ("doctor", "-c", str(conf), "--json", "--timeout", "5", "--name-server", f"{dns.address}:{dns.port}", *words)
            status = main(words)
            said: dict[str, Any] = json.loads(capsys.readouterr().out)
            assert (said["exit"], status) == (code, code), said
            return said

        yield run


def found(said: dict[str, Any], topic: str) -> list[tuple[str, str, str]]:
    return [(each["severity"], each["subject"], each["text"]) for each in said["findings"] if each["topic"] == topic]


def blocked(stack: ExitStack) -> int:
    """A port of 127.0.0.1 that answers nobody, as behind a firewall: its queue is full, so that the kernel drops what comes."""
    full = stack.enter_context(socket.socket())
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port: int = full.getsockname()[1]
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.1", port))
    return port


def unused() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_a_host_that_can_send_and_is_believed(doctor: Doctor) -> None:
    with Sink(host="127.0.0.1") as peer, Sink("mail-5xx") as door:
        said = doctor(
            "smtp-source-host 127.0.0.1 mail.example.com",
            "--target",
            f"mx.example:{peer.port}=25",
            "--listener",
            f"127.0.0.1:{door.port}=587",
            code=0,
        )
    assert found(said, "port") == [("ok", "127.0.0.1", f"reaches port {peer.port} of mx.example [127.0.0.1]: 220 sink.example ESMTP")]
    assert found(said, "name") == [("ok", "127.0.0.1", "is called mail.example.com, and back; its EHLO says the same")]
    assert found(said, "spf") == [
        ("ok", "example.com from 127.0.0.1", "SPF passes (include:_spf.example.com)"),
        ("ok", "mail.example.com from 127.0.0.1", "SPF passes (a)"),
    ]
    assert found(said, "relay")[0][0] == "ok"
    assert "use port 587" in found(said, "application")[0][2]
    assert not peer.messages
    assert [dialog.commands for dialog in peer.connections] == [["QUIT"]]


def test_port_25_is_blocked_while_others_get_through(doctor: Doctor) -> None:
    with ExitStack() as stack, Sink() as submission, Sink("silent-greeting") as silent:
        port = blocked(stack)
        words = ("--target", f"127.0.0.1:{port}=25", "--target", f"127.0.0.1:{submission.port}=587", "--timeout", "0.5")
        words += ("--target", f"127.0.0.1:{silent.port}=2525", "--target", f"127.0.0.1:{unused()}=25")
        said = doctor("smtp-source-host 127.0.0.1 mail.example.com", *words, "--listener", f"127.0.0.1:{unused()}", code=2)
    ports = found(said, "port")
    assert [severity for severity, _, _ in ports] == ["warning", "ok", "hint", "problem"]
    assert "no answer from port" in ports[0][2]
    assert "is away" in ports[0][2]  # the other one refused: so much for port 25
    assert "sends no greeting within 0.5 s" in ports[2][2]
    assert "refuses the connection" in ports[3][2]
    with ExitStack() as stack, Sink() as submission:
        words = ("--target", f"127.0.0.1:{blocked(stack)}=25", "--target", f"127.0.0.1:{submission.port}=587", "--timeout", "0.5")
        said = doctor("smtp-source-host 127.0.0.1 mail.example.com", *words, "--listener", f"127.0.0.1:{unused()}", code=2)
    (first, *_) = [each for each in said["findings"] if each["topic"] == "port"]
    assert first["severity"] == "problem"
    assert "a firewall on the way blocks port 25" in first["text"]
    assert f"smtp-hosts [RELAY]:{submission.port}" in first["advice"]
    assert found(said, "listener")[0][::2] == ("warning", "nobody listens there")


def test_each_source_address_has_its_own_name(doctor: Doctor) -> None:
    sources = "".join(f"smtp-source-host 127.0.0.{n} mail.example.com\n" for n in (1, 2, 3, 4)) + "smtp-source-host 192.0.2.77 away.example.com\n"
    with Sink() as peer:
        words = ("--target", f"127.0.0.1:{peer.port}=25", "--target", "mx.example:1=587", "--target", "slow.example:25", "--domain", "example.com")
        said = doctor(sources, *words, "--listener", f"127.0.0.1:{unused()}", code=2)
        assert sorted(dialog.peer[0] for dialog in peer.connections) == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]
    named = {subject: (severity, text) for severity, subject, text in found(said, "name")}
    assert named["127.0.0.1"][0] == "ok"
    assert named["127.0.0.2"] == (
        "problem",
        "is called liar.example.com, but liar.example.com has 127.0.0.9: a name that does not lead back counts as none",
    )
    assert named["127.0.0.3"][0] == "problem"
    assert "has no name (PTR)" in named["127.0.0.3"][1]
    assert named["127.0.0.4"] == ("warning", "is called four.example.com, but says EHLO mail.example.com")
    assert ("problem", "192.0.2.77", "this machine does not have this address: nothing can be sent from it") in found(said, "port")
    assert any("DNS could not say where it is" in text for _, subject, text in found(said, "port") if subject == "127.0.0.1")
    checked = {subject: (severity, text) for severity, subject, text in found(said, "spf")}
    assert checked["example.com from 127.0.0.3"] == ("ok", "SPF passes (include:_spf.example.com)")
    assert checked["example.com from 127.0.0.4"][0] == "warning"
    assert "softfail (~all)" in checked["example.com from 127.0.0.4"][1]


def test_an_open_relay_is_found_and_no_message_is_sent(doctor: Doctor) -> None:
    with Sink() as peer, Sink() as door:
        said = doctor("", "--target", f"127.0.0.1:{peer.port}=25", "--listener", f"127.0.0.1:{door.port}=25", code=2)
        ((severity, subject, text),) = found(said, "relay")
        assert (severity, subject) == ("problem", f"127.0.0.1:{door.port}")
        assert "is an open relay: from 127.0.0.1 it takes <engine-doctor@example.org>: a stranger to a stranger, 250 2.1.5 recipient ok" in text
        assert not door.messages
        said = doctor("", "--target", f"127.0.0.1:{peer.port}=25", "--listener", f"127.0.0.1:{door.port}=25", "--from", "127.0.0.6", code=2)
        assert "from 127.0.0.6" in found(said, "relay")[0][2]
        assert {dialog.peer[0] for dialog in door.connections} == {"127.0.0.1", "127.0.0.6"}


def test_an_engine_is_closed_until_a_rule_opens_it(make_engine: MakeEngine, doctor: Doctor) -> None:
    for directives, code, text in (
        (
            "<source 127.0.0.1>\nalways-allow-relaying yes\n</source>\nrelay-domain relayed.example\n",
            0,
            "is no open relay: 13 tricks of a stranger (127.0.0.2)",
        ),
        (
            "<source 127.0.0.1>\nalways-allow-relaying yes\n</source>\nrelay-domain *\n",
            2,
            "is an open relay: from 127.0.0.2 it takes <engine-doctor@example.org>",
        ),
    ):
        running = make_engine(f"host-name mail.example.com\n{directives}", name=f"exit{code}")
        with Sink() as peer:
            listener = f"smtp-listener 127.0.0.1:{running.port}"
            said = doctor(
                f"{listener}\nsmtp-source-host 127.0.0.1 mail.example.com\n{directives}", "--target", f"127.0.0.1:{peer.port}=25", code=code
            )
        assert text in found(said, "relay")[0][2]
        assert running.records("d") == []


# --- TLS ---


class StartTls(Session):
    """A peer that offers STARTTLS with the certificate in *pem*, and AUTH on the one side of it that *auth* names; nobody may relay."""

    name = "starttls"
    pem = ""
    implicit = False

    def answer(self, stage: str, argument: str) -> bytes:
        encrypted = isinstance(self.sock, ssl.SSLSocket)
        if stage == "ehlo":
            return b"250-sink.example\r\n250 AUTH PLAIN LOGIN\r\n" if encrypted else b"250-sink.example\r\n250 STARTTLS\r\n"
        if stage == "starttls":
            return b"220 go ahead\r\n"
        return b"550 5.7.1 relaying denied\r\n" if stage == "rcpt" else super().answer(stage, argument)

    def run(self) -> None:
        try:
            if self.implicit:
                self._secure()
        except (ssl.SSLError, OSError):
            return
        super().run()

    def command(self, line: str) -> None:
        super().command(line)
        if line == "STARTTLS":
            self._secure()

    def _secure(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        self.sock = context.wrap_socket(self.sock, server_side=True)


def certificate(directory: Path, name: str, days: int) -> str:
    """A file with key and self-signed certificate for *name* that ends in *days*."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days, hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / f"{name}-{days}.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return str(file)


@pytest.mark.parametrize("role", [587, 465])
@pytest.mark.parametrize(
    ("name", "days", "trusted", "severity", "text"),
    [
        ("mail.example.com", 90, True, "ok", "the certificate, for mail.example.com, is trusted, and valid for 90 days more"),
        ("mail.example.com", 90, False, "warning", "would not be trusted for mail.example.com: self-signed certificate"),
        ("mail.example.com", -3, False, "problem", "the certificate expired 2 days ago"),
        ("mail.example.com", 5, True, "warning", "the certificate expires in 5 days"),
        ("other.example.com", 90, True, "warning", "for other.example.com, would not be trusted for mail.example.com: Hostname mismatch"),
    ],
)
def test_certificates(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: int, name: str, days: int, trusted: bool, severity: str, text: str
) -> None:
    pem = certificate(tmp_path, name, days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", pem)
    with Sink() as peer, Sink(StartTls, pem=pem, implicit=role == 465) as door:
        said = doctor(
            "smtp-source-host 127.0.0.1 mail.example.com",
            *("--target", f"127.0.0.1:{peer.port}=25", "--listener", f"127.0.0.1:{door.port}={role}"),
            code={"ok": 0, "warning": 1, "problem": 2}[severity],
        )
    (first, *more) = found(said, "tls")
    assert first[0] == severity
    assert text in first[2]
    assert not more
    how = "TLS from the start" if role == 465 else "STARTTLS"
    assert f"use port {role} with {how} and AUTH" in found(said, "application")[0][2]


TLS_CONF = """host-name mail.example.com
smtp-listener 127.0.0.1:@port@
<smtp-listener 127.0.0.1:@port2@>
    immediate-tls yes
</smtp-listener>
smtp-server-tls-certificate {pem}
<source 0/0>
    allow-starttls yes
    require-starttls-before-auth yes
</source>
<smtp-user foo>
    password barbaz
</smtp-user>
"""


def test_an_engine_with_tls_and_auth(engine_dir: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(engine_dir, "mail.example.com", 90)
    os.chmod(pem, 0o600)
    engine = Engine(engine_dir / "engine", TLS_CONF.format(pem=pem))
    engine.conf.chmod(0o600)  # it holds a password
    monkeypatch.setenv("SSL_CERT_FILE", pem)
    with engine, Sink() as peer:
        target = ("--target", f"127.0.0.1:{peer.port}=25")
        listeners = ("--listener", f"127.0.0.1:{engine.port}=587", "--listener", f"127.0.0.1:{engine.port_of('port2')}=465")
        said = doctor("smtp-source-host 127.0.0.1 mail.example.com", *target, *listeners, code=0)
        itself = json.loads(engine.run("doctor", *target, "--name-server", "127.0.0.1:1", "--json").stdout)  # its listeners as its own file has them
    for findings in (said, itself):
        assert [severity for severity, _, _ in found(findings, "relay")] == ["ok", "ok"]
        texts = [text for _, _, text in found(findings, "tls")]
        assert texts == ["the certificate, for mail.example.com, is trusted, and valid for 90 days more"] * 2
    ((_, _, text),) = found(said, "application")
    assert "use port 587 with STARTTLS and AUTH" in text
    assert "also here: 465" in text


def test_a_target_with_implicit_tls_and_one_without(doctor: Doctor, tmp_path: Path) -> None:
    with Sink(StartTls, pem=certificate(tmp_path, "x.example", 90), implicit=True) as peer, Sink() as plain:
        words = ("--target", f"127.0.0.1:{peer.port}=465", "--target", f"127.0.0.1:{plain.port}=465")
        said = doctor("smtp-source-host 127.0.0.1 mail.example.com", *words, "--listener", f"127.0.0.1:{unused()}", code=1)
    first, second = found(said, "port")
    assert first[::2] == ("ok", f"reaches port {peer.port} of 127.0.0.1: 220 sink.example ESMTP")
    assert second[0] == "hint"
    assert "speaks no TLS" in second[2]


# --- the command line ---


def test_lines_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "engine.conf"
    conf.write_text(CONF.format(more="smtp-source-host 127.0.0.3 mail.example.com\nsmtp-source-host 127.0.0.8 mail.example.com\n"))
    with DnsServer(ZONE) as dns, Sink() as peer:
        words = ["--name-server", f"{dns.address}:{dns.port}", "--target", f"127.0.0.1:{peer.port}=25", "--listener", f"127.0.0.1:{unused()}"]
        assert main(["doctor", "-c", str(conf), *words]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert f"ok: port: 127.0.0.3, 127.0.0.8: reaches port {peer.port} of 127.0.0.1: 220 sink.example ESMTP" in lines
    for source in ("127.0.0.3", "127.0.0.8"):
        (name,) = [line for line in lines if line.startswith(f"problem: name: {source}: has no name (PTR) in DNS")]
        assert f"To do: have the owner of the address (your provider) set its PTR to mail.example.com, and publish A {source}" in name
    assert lines[-1] == "doctor: 4 problems, 2 warnings, 3 fine"


@pytest.mark.parametrize("target", ["", "x:0", "x:y", "x=25", "x:1=", ":25", "x:70000"])
def test_places_that_are_none(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["doctor", "-c", "/nowhere", "--target", target])
    assert left.value.code == os.EX_USAGE
    assert "HOST[:PORT[=ROLE]] is expected" in capsys.readouterr().err


def test_without_dns_everything_that_needs_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "engine.conf"
    conf.write_text(CONF.format(more=""))
    words = ["--name-server", f"127.0.0.1:{unused()}", "--target", "mx.example:25", "--listener", f"127.0.0.1:{unused()}", "--json"]
    assert main(["doctor", "-c", str(conf), *words]) == 1
    (port,) = found(json.loads(capsys.readouterr().out), "port")
    assert port[:2] == ("warning", "this host")
    assert "port 25 of mx.example was not tried: DNS could not say where it is: 127.0.0.1:" in port[2]


def test_the_sending_domains_are_those_that_the_configuration_names(doctor: Doctor) -> None:
    keys = "domain-key s1, _spf.example.com, /k\ndomain-key s2, *, /k\n<virtual-mta m>\ndomain-key s1, Signed.example.com, /k\n</virtual-mta>\n"
    with Sink() as peer:
        words = ("--target", f"127.0.0.1:{peer.port}=25", "--listener", f"127.0.0.1:{unused()}")
        said = doctor(f"smtp-source-host 127.0.0.1 mail.example.com\n{keys}", *words, code=1)
    subjects = [subject for _, subject, _ in found(said, "spf")]
    assert subjects == [f"{name}.com from 127.0.0.1" for name in ("example", "_spf.example", "signed.example", "mail.example")]
