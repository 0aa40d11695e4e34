"""`engine start --shadow`: everything is done as configured, but no connection goes to where the configuration says."""

from __future__ import annotations

import json
import os
import re
import smtplib
import socket
from pathlib import Path

from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<virtual-mta away>
    smtp-source-host 192.0.2.77 away.example
</virtual-mta>
<virtual-mta six>
    smtp-source-host 2001:db8::77 six.example
</virtual-mta>
<virtual-mta-pool both>
    virtual-mta away
    virtual-mta six
</virtual-mta-pool>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    max-smtp-out 4
</domain>
<domain six.example>
    smtp-hosts [::1]:{port}
</domain>
dummy-smtp-blacklist @dir@/bad
"""


def send(engine: Engine, recipient: str, vmta: str = "", sender: str = "") -> None:
    header = f"X-Virtual-MTA: {vmta}\r\n" if vmta else ""
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        assert client.sendmail(sender, [recipient], f"{header}Subject: x\r\n\r\nbody\r\n".encode()) == {}


def refused(engine: Engine) -> str:
    """What a start that must fail says."""
    engine.start(wait=False)
    assert engine.wait_until_ended(30) == os.EX_CONFIG
    return (engine.directory / "output").read_text()


def test_nothing_goes_where_the_configuration_says(make_engine: MakeEngine, engine_dir: Path) -> None:
    (engine_dir / "engine").mkdir()
    (engine_dir / "engine" / "bad").write_text("bad.example\n")
    with socket.create_server(("127.0.0.1", 0)) as world:
        conf = CONF.format(port=world.getsockname()[1])
        engine = make_engine(conf, arguments=["--shadow"])
        assert "SHADOW: no mail leaves this host" in (engine.directory / "output").read_text()
        send(engine, "a@good.example")
        send(engine, "b@good.example", "away")
        send(engine, "c@six.example", "six")
        send(engine, "d@bad.example", sender="sender@world.example")  # refused by the sink: its DSN goes there too
        delivered = {record["rcpt"]: record for record in engine.wait_for_records(4, "d")}
        assert set(delivered) == {"a@good.example", "b@good.example", "c@six.example", "sender@world.example"}
        assert {record["dlvDestinationIp"] for record in delivered.values()} == {"127.0.0.1"}
        assert (delivered["b@good.example"]["dlvSourceIp"], delivered["b@good.example"]["vmta"]) == ("192.0.2.77", "away")
        assert delivered["c@six.example"]["dlvSourceIp"] == "2001:db8::77"

        said = json.loads(engine.run("status", "--json").stdout)["shadow"]
        assert re.fullmatch(r"127\.0\.0\.1:\d+", said)
        for text in (engine.run("status").stdout, engine.log()):
            assert re.search(rf"SHADOW:? no mail leaves this host: every delivery goes to the built-in sink at {re.escape(said)}", text)
        engine.configure(conf + "dummy-smtp-latency 1\n<domain new.example>\n    max-smtp-out 1\n</domain>\n")  # sink and delivery begin anew
        reloaded = engine.run("reload", timeout_s=60)
        assert reloaded.returncode == 0, reloaded.stderr
        send(engine, "e@new.example")
        engine.kill9("delivery/0")
        send(engine, "f@new.example")
        eventually(lambda: {"e@new.example", "f@new.example"} <= {record["rcpt"] for record in engine.records("d")}, "a reload keeps it a shadow")
        assert json.loads(engine.run("status", "--json").stdout)["shadow"] == said
        traffic = json.loads(engine.run("status", "--json").stdout)["traffic"]["total"]
        assert traffic["in"]["msg"] == 6, "what the sink takes from a shadow has not come in"
        assert engine.stop() == 0

        world.settimeout(0)
        try:
            world.accept()
        except BlockingIOError:
            return
        raise AssertionError("somebody has connected to the configured host")


def test_neither_delivers_the_others_mail(make_engine: MakeEngine, engine_dir: Path) -> None:
    with Sink("refuse-connection") as nobody:
        conf = f"<domain *>\n    smtp-hosts [127.0.0.1]:{nobody.port}\n    retry-after 1h\n</domain>\n"
        engine = make_engine(conf)
        send(engine, "real@good.example")
        engine.wait_for_records(1, "tq")
        assert engine.stop() == 0
    shadow = Engine(engine.directory, conf, arguments=["--shadow"])
    assert "1 recipients wait in it for real delivery" in refused(shadow)
    assert not engine.records("d")

    mark = engine.directory / "spool" / "shadow"
    mark.touch()  # as if a shadow had taken it in
    assert f"remove {mark}" in refused(engine)
    with shadow:
        assert shadow.run("status").returncode == 0
        attached = f"<spool @dir@/spool>\n</spool>\n<spool {engine.directory}/spool>\n    deliver-only yes\n</spool>\n"
        assert shadow.stop() == 0
    heir = Engine(engine_dir / "heir", attached)
    assert f"remove {mark}" in refused(heir)
