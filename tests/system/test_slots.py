"""Several delivery slots: each queue has one owner, also while slots start or come back."""

from __future__ import annotations

import smtplib

from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

VMTAS = "".join(f"<virtual-mta mta{n}>\n    smtp-source-host 127.0.0.1{n} mta{n}.example\n</virtual-mta>\n" for n in (1, 2, 3, 4))
CONF = """
delivery-workers 4
<source 127.0.0.1>
    always-allow-relaying yes
    default-virtual-mta pool
</source>
{vmtas}
<virtual-mta-pool pool>
    virtual-mta mta1
    virtual-mta mta2
    virtual-mta mta3
    virtual-mta mta4
</virtual-mta-pool>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""


def inject(engine: Engine, first: int, count: int) -> None:
    """*count* messages of four recipients, one for each member of the pool."""
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
        for number in range(first, first + count):
            client.sendmail("s@origin.example", [f"u{number}-{part}@dest.example" for part in range(4)], "Subject: x\r\n\r\nbody\r\n")


def test_nobody_sends_the_mail_of_a_slot_that_is_not_there_yet(make_engine: MakeEngine) -> None:
    with Sink("accept-all") as sink:
        engine = make_engine(CONF.format(vmtas=VMTAS, port=sink.port))
        inject(engine, 0, 40)  # the listener greets before the last slot is up
        sink.wait_for_messages(160)
        owners = [role for role in engine.pids() if role.startswith("delivery/")]
        for number, role in enumerate(owners):
            engine.wait_for_records(160 * (number + 1), "d")  # its outcomes are stored: it is idle when it is killed
            engine.kill9(role)
            inject(engine, 40 * (number + 1), 40)
        wanted = 160 * (len(owners) + 1)
        eventually(lambda: len(engine.records("d")) >= wanted, f"{wanted} d records")
        arrived = [recipient for message in sink.messages for recipient in message.recipients]
        assert len(set(arrived)) == wanted
        assert len(arrived) == wanted
        assert "quarantine" not in engine.log()
        assert {(message.peer[0], message.ehlo) for message in sink.messages} == {(f"127.0.0.1{n}", f"mta{n}.example") for n in (1, 2, 3, 4)}
