"""The built-in sink of dummy-smtp-port: mail is delivered to it by a real engine, and thrown away; nothing that comes to it goes on."""

from __future__ import annotations

import json
import os
import re
import smtplib
from pathlib import Path

from tests.system.conftest import MakeEngine
from tests.system.engine import eventually

CONF = """
dummy-smtp-port @port2@
dummy-smtp-ip 127.0.0.1
dummy-smtp-blacklist @dir@/bad
dummy-smtp-log-blacklist yes
dummy-smtp-has-chunking yes
<domain *>
    smtp-hosts [127.0.0.1]:@port2@
</domain>
"""


def test_mail_is_delivered_to_it_and_thrown_away(make_engine: MakeEngine, engine_dir: Path) -> None:
    (engine_dir / "engine").mkdir()
    (engine_dir / "engine" / "bad").write_text("bad.example\n")
    engine = make_engine(CONF)
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        for recipient in ("a@good.example", "b@bad.example"):
            assert client.sendmail("", [recipient], b"Subject: x\r\n\r\nbody\r\n") == {}
    eventually(lambda: engine.records("d") and engine.records("b"), "both records")
    assert engine.records("d")[0]["rcpt"] == "a@good.example" and engine.records("b")[0]["dsnDiag"].startswith("smtp;550 5.1.1 Recipient is on the")
    with smtplib.SMTP("127.0.0.1", engine.port_of("port2"), timeout=20) as client:  # straight to it: taken, and not relayed
        assert client.sendmail("", ["c@good.example"], b"Subject: x\r\n\r\nbody\r\n") == {}
        assert client.ehlo()[0] == 250 and client.has_extn("chunking") and not client.has_extn("pipelining")
    def came_in() -> list[int]:
        total = json.loads(engine.run("status", "--json").stdout)["traffic"]["total"]["in"]
        return [total["msg"], total["rcp"]]

    eventually(lambda: came_in() == [4, 4], "two messages in by the listener, and two by the sink")
    (pid,) = engine.pids()["sink/0"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert os.geteuid() != 0 or not re.search(r"^[UG]id:.*\t0\b", status, re.MULTILINE), "it has no rights to lose"
    assert engine.stop() == 0
    log = engine.log()
    assert "rcpt=<b@bad.example> is on the blacklist" in log
    assert re.search(r"sink/0 stopped \d+ connections, 2 messages for 2 recipients, 1 refused", log)
    assert len(engine.records("d")) == 1, "what came straight to it went nowhere"
