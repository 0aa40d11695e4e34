"""Mail leaves from the right address under the right name, whatever chose its virtual MTA (issue item: four virtual MTAs on 127.0.0.11-14)."""

from __future__ import annotations

import smtplib
from contextlib import ExitStack

from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import eventually

CONF = """
smtp-listener 127.0.0.1:@port@
smtp-listener 127.0.0.1:@port2@ source=pooled
<source 127.0.0.1>
    always-allow-relaying yes
    process-x-virtual-mta yes
    default-virtual-mta mta4
</source>
<source pooled>
    default-virtual-mta pool
</source>
<virtual-mta-pool pool>
    virtual-mta mta1
    virtual-mta mta2
    virtual-mta mta3
</virtual-mta-pool>
{vmtas}
<virtual-mta twin>
    smtp-source-host 127.0.0.11 twin.example
</virtual-mta>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    connection-idle-timeout 1m
</domain>
"""
VMTAS = "".join(f"<virtual-mta mta{n}>\n    smtp-source-host 127.0.0.1{n} mta{n}.example\n</virtual-mta>\n" for n in (1, 2, 3, 4))


def test_sources(make_engine: MakeEngine) -> None:
    with Sink("accept-all") as sink, ExitStack() as clients:
        engine = make_engine(CONF.format(vmtas=VMTAS, port=sink.port))
        direct = clients.enter_context(smtplib.SMTP("127.0.0.1", engine.port, timeout=20))
        pooled = clients.enter_context(smtplib.SMTP("127.0.0.1", engine.port_of("port2"), timeout=20))
        for n in (1, 2, 3, 4):
            direct.sendmail("s@origin.example", [f"named{n}@dest.example"], f"X-Virtual-MTA: mta{n}\r\nSubject: x\r\n\r\nbody\r\n")
        direct.sendmail("s@origin.example", ["default@dest.example"], "Subject: x\r\n\r\nbody\r\n")
        for n in range(6):
            pooled.sendmail("s@origin.example", [f"pool{n}@dest.example"], "Subject: x\r\n\r\nbody\r\n")
        eventually(lambda: len(sink.messages) == 11, "11 messages")
        left = {message.recipients[0].partition("@")[0]: (message.peer[0], message.ehlo) for message in sink.messages}
        for n in (1, 2, 3, 4):
            assert left[f"named{n}"] == (f"127.0.0.1{n}", f"mta{n}.example")
        assert left["default"] == ("127.0.0.14", "mta4.example")
        assert sorted(left[f"pool{n}"] for n in range(6)) == sorted((f"127.0.0.1{n}", f"mta{n}.example") for n in (1, 2, 3) for _ in range(2))
        assert not any(b"X-Virtual-MTA" in message.header for message in sink.messages)

        # one address under two names: never one connection
        direct.sendmail("s@origin.example", ["twin@dest.example"], "X-Virtual-MTA: twin\r\nSubject: x\r\n\r\nbody\r\n")
        eventually(lambda: len(sink.messages) == 12, "the twin's message")
        twin = sink.messages[-1]
        assert (twin.peer[0], twin.ehlo) == ("127.0.0.11", "twin.example")
        assert all(other.ehlo == "mta1.example" for other in sink.messages if other.connection != twin.connection and other.peer[0] == "127.0.0.11")
        eventually(lambda: {r["vmta"] for r in engine.records("d")} == {"mta1", "mta2", "mta3", "mta4", "twin"}, "records of every virtual MTA")
        assert {r["vmtaPool"] for r in engine.records("d") if r["rcpt"].startswith("pool")} == {"pool"}


BY_ADDRESS = """
smtp-listener 127.0.0.1:@port@
smtp-listener 127.0.0.12:@port2@
smtp-listener 127.0.0.13:@port3@
<source 127.0.0.0/8>
    always-allow-relaying yes
    process-x-virtual-mta yes
    default-virtual-mta by-smtp-source-ip
</source>
{vmtas}
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""


def test_by_the_address_that_the_client_connected_to(make_engine: MakeEngine) -> None:
    with Sink("accept-all") as sink:
        engine = make_engine(BY_ADDRESS.format(vmtas=VMTAS, port=sink.port))
        for address, port in (("127.0.0.1", engine.port), ("127.0.0.12", engine.port_of("port2")), ("127.0.0.13", engine.port_of("port3"))):
            with smtplib.SMTP(address, port, timeout=20) as client:
                name = address.rpartition(".")[2]
                client.sendmail("s@origin.example", [f"to{name}@dest.example"], "Subject: x\r\n\r\nbody\r\n")
                client.sendmail("s@origin.example", [f"asked{name}@dest.example"], "X-Virtual-MTA: mta4\r\nSubject: x\r\n\r\nbody\r\n")
        eventually(lambda: len(engine.records("d")) == 6, "six d records")
        assert {record["rcpt"].partition("@")[0]: record["vmta"] for record in engine.records("d")} == {
            "to1": "{default}", "to12": "mta2", "to13": "mta3", "asked1": "mta4", "asked12": "mta4", "asked13": "mta4",
        }  # fmt: skip
        left = {message.recipients[0].partition("@")[0]: (message.peer[0], message.ehlo) for message in sink.messages}
        assert left["to12"] == ("127.0.0.12", "mta2.example")
        assert left["to13"] == ("127.0.0.13", "mta3.example")
