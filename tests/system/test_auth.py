"""Who may relay, as clients meet a whole engine: PowerMTA's guide to ports on loopback, several listener processes, other people's clients."""

from __future__ import annotations

import shutil
import smtplib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Authority, client_context
from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, EngineDown, eventually

CONF = """
listener-workers 2
smtp-listener 127.0.0.1:@port@
smtp-server-tls-certificate {pem}
<smtp-user foo>
    password-file {secret}
    authentication-method password
</smtp-user>
<source 0/0>
    require-auth true
    allow-starttls true
    require-starttls-before-auth true
    smtp-max-auth-failure-rate {rate}
</source>
<source 127.0.0.20>
    always-allow-relaying yes
</source>
relay-domain some.domain
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
<acct-file {acct}>
    records d
    record-fields d *, rcvSmtpUser
</acct-file>
"""
MESSAGE = "Subject: auth\r\n\r\nhello\r\n"


def started(engine_dir: Path, make_engine: MakeEngine, port: int, rate: str = "unlimited") -> Engine:
    pem = engine_dir / "mx.pem"
    pem.write_bytes(Authority().issue("localhost"))
    pem.chmod(0o600)
    secret = engine_dir / "foo.password"
    secret.write_text("barbaz\n")
    secret.chmod(0o600)
    return make_engine(CONF.format(port=port, pem=pem, secret=secret, rate=rate, acct=engine_dir / "acct" / "users.csv"))


def refused(attempt: Callable[[], object]) -> int:
    """The code that *attempt* is refused with."""
    with pytest.raises(smtplib.SMTPResponseException) as found:
        attempt()
    return found.value.smtp_code


def test_foo_relays_behind_tls_and_auth_and_nobody_else(engine_dir: Path, make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = started(engine_dir, make_engine, sink.port)
        for source in ("127.0.0.1", "127.0.0.20"):  # a stranger, and one who may relay: both have to authenticate
            with smtplib.SMTP("127.0.0.1", engine.port, timeout=20, source_address=(source, 0)) as client:
                client.ehlo()
                assert "auth" not in client.esmtp_features and "starttls" in client.esmtp_features
                assert client.docmd("AUTH", "PLAIN AGZvbwBiYXJiYXo=")[0] == 538
                assert client.mail("<>")[0] == 530
                client.starttls(context=client_context())
                client.ehlo()
                assert client.esmtp_features["auth"].split() == ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"]
                assert client.mail("<>")[0] == 530
                assert refused(lambda: client.login("foo", "wrong")) in (421, 535)
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.starttls(context=client_context())
            client.login("foo", "barbaz")
            client.sendmail("a@sender.example", ["b@anywhere.example"], MESSAGE)
        eventually(lambda: len(sink.messages) == 1, "the message")
        assert b"with ESMTPSA" in sink.messages[0].header and b"foo" not in sink.messages[0].header
        eventually(lambda: [path for path in (engine_dir / "acct").glob("users*") if ",foo" in path.read_text()], "its user in the accounting file")
        eventually(lambda: " user=foo mechanism=CRAM-MD5 source=0/0" in engine.log(), "the login in the log")
        assert "barbaz" not in engine.log()


def test_failures_are_counted_over_all_listeners(engine_dir: Path, make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = started(engine_dir, make_engine, sink.port, "4/1h")
        for _ in range(4):
            with smtplib.SMTP("127.0.0.1", engine.port, timeout=20, source_address=("127.0.0.9", 0)) as client:
                client.starttls(context=client_context())
                client.ehlo()
                assert client.docmd("AUTH", "PLAIN AGZvbwB3cm9uZw==")[0] == 535
        for _ in range(4):
            assert refused(lambda: smtplib.SMTP("127.0.0.1", engine.port, timeout=20, source_address=("127.0.0.9", 0))) == 421
        eventually(lambda: engine.log().count(" locked-out client=127.0.0.9 ") == 1, "the lock-out in the log")
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.starttls(context=client_context())
            client.login("foo", "barbaz")


def test_a_password_that_everybody_may_read_refuses_the_start(engine_dir: Path, make_engine: MakeEngine) -> None:
    secret = engine_dir / "password"
    secret.write_text("barbaz\n")
    secret.chmod(0o644)
    conf = f"smtp-listener 127.0.0.1:@port@\n<smtp-user foo>\npassword-file {secret}\n</smtp-user>\n"
    with pytest.raises(EngineDown, match="everybody on this machine can read the password"):
        make_engine(conf)
    secret.chmod(0o600)
    assert make_engine(conf).alive()


SWAKS = ("swaks", "--tls", "--server", "127.0.0.1", "--from", "a@sender.example", "--to", "b@anywhere.example", "--auth-user", "foo")
CURL = ("curl", "-sS", "--ssl-reqd", "--insecure", "--mail-from", "a@sender.example", "--mail-rcpt", "b@anywhere.example")


def can(program: str, mechanism: str) -> bool:
    """Whether *program* is installed, and knows *mechanism*: curl needs GSASL for SCRAM, swaks has none."""
    if shutil.which(program) is None or mechanism != "SCRAM-SHA-256":
        return shutil.which(program) is not None
    return program == "curl" and "GSASL" in subprocess.run(["curl", "--version"], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(("program", "mechanism"), [(p, m) for p in ("swaks", "curl") for m in ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256")])
def test_other_peoples_clients(engine_dir: Path, make_engine: MakeEngine, program: str, mechanism: str, right: bool) -> None:
    if not can(program, mechanism):
        pytest.skip(f"no {program} that can {mechanism}")
    with Sink() as sink:
        engine = started(engine_dir, make_engine, sink.port)
        password = "barbaz" if right else "wrong"
        message = engine_dir / "message"
        message.write_text(MESSAGE)
        if program == "swaks":
            words = [*SWAKS, "--port", str(engine.port), "--auth", mechanism, "--auth-password", password]
        else:
            words = [*CURL, f"smtp://127.0.0.1:{engine.port}", "--user", f"foo:{password}", "--login-options", f"AUTH={mechanism}"]
            words += ["-T", str(message)]
        done = subprocess.run(words, capture_output=True, timeout=60, check=False)
        output = (done.stdout + done.stderr).decode("latin-1")
        assert (done.returncode == 0) is right, output
        said = f" user=foo mechanism={mechanism} " + ("source=0/0" if right else "reply=535 ")
        eventually(lambda: said in engine.log(), said)
