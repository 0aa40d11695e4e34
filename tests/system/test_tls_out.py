"""TLS out, as an operator meets it: per domain and virtual MTA, what waits and why, what the records say."""

from __future__ import annotations

import smtplib
from pathlib import Path

from tests.certificates import Authority, server_context
from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

AUTHORITY = Authority()
CONF = """
listener-workers 1
delivery-workers 1
<source 127.0.0.1>
    always-allow-relaying yes
    process-x-virtual-mta yes
</source>
<virtual-mta secret>
    smtp-source-host 127.0.0.21 secret.example
    <domain *>
        require-starttls yes
        retry-after 10m
    </domain>
</virtual-mta>
<virtual-mta plain>
    smtp-source-host 127.0.0.22 plain.example
    <domain *>
        use-starttls no
    </domain>
</virtual-mta>
<virtual-mta verified>
    smtp-source-host 127.0.0.23 verified.example
    <domain *>
        require-starttls yes
        smtp-tls-ca-file {ca}
    </domain>
</virtual-mta>
<domain *>
    smtp-hosts localhost:{port}
</domain>
<acct-file @dir@/acct.csv>
    records d,t,tq
    record-fields d *, dlvTlsProtocol, dlvTlsCipher
</acct-file>
"""


def send(engine: Engine, vmta: str, recipient: str = "b@d1.example") -> None:
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        client.sendmail("a@sender.example", [recipient], f"x-virtual-mta: {vmta}\r\nSubject: {vmta}\r\n\r\nhello\r\n".encode())


def test_each_virtual_mta_has_its_own(engine_dir: Path, make_engine: MakeEngine) -> None:
    (engine_dir / "ca.pem").write_bytes(AUTHORITY.pem)
    with Sink("tls", context=server_context(AUTHORITY.issue("localhost"), engine_dir)) as sink:
        engine = make_engine(CONF.format(port=sink.port, ca=engine_dir / "ca.pem"))
        for vmta in ("secret", "plain", "verified"):
            send(engine, vmta)
        sink.wait_for_messages(3)
        by_name = {each.ehlo: sink.connections[each.connection].tls for each in sink.messages}
        assert by_name == {"secret.example": "TLSv1.3", "plain.example": "", "verified.example": "TLSv1.3"}
        eventually(lambda: len(engine.records("d")) == 3, "three records")
        shown = {record["vmta"]: (record["dlvTlsProtocol"], record["dlvTlsCipher"]) for record in engine.records("d")}
        assert shown == {
            "secret": ("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
            "plain": ("", ""),
            "verified": ("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        }
        eventually(lambda: engine.log().count(" tls=TLSv1.3") == 2, "the log tells, too")


def test_what_cannot_be_sent_by_tls_waits_and_why_says_so(engine_dir: Path, make_engine: MakeEngine) -> None:
    (engine_dir / "ca.pem").write_bytes(AUTHORITY.pem)
    with Sink() as sink:
        engine = make_engine(CONF.format(port=sink.port, ca=engine_dir / "ca.pem"))
        send(engine, "secret")
        send(engine, "plain")
        sink.wait_for_messages(1)
        eventually(lambda: engine.records("tq"), "a record of the queue's failure")
        (record,) = engine.records("tq")
        assert "TLS is required (require-starttls), and the host does not offer STARTTLS" in record["dsnDiag"]
        assert record["dsnStatus"].startswith("4.7.4") and record["vmta"] == "secret"
        said = engine.run("why", "d1.example/secret").stdout
        assert "TLS is required (require-starttls), and the host does not offer STARTTLS" in said and "retry-after" in said
        assert [each.ehlo for each in sink.messages] == ["plain.example"]
