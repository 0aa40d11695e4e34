"""Real clients on each port and in each mode; the table in docs/clients.md is what came of it.

`ENGINE_WRITE_CLIENTS=1 pytest -m peers tests/peers/test_matrix.py` writes it anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.certificates import Authority
from tests.peers.clients import ClientFailed
from tests.peers.submission import CLIENTS, MECHANISMS, Call, Mode, can, versions
from tests.sinks import Sink
from tests.system.engine import Engine

pytestmark = pytest.mark.peers

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "clients.md"
HEAD = """# Clients

Other people's programs against a running engine, each port and mode as a test has it (`tests/peers/test_matrix.py`, in `make peers`). *yes*: the
message arrived, by the protocol that the mode asks for (its Received field says `ESMTP`, `ESMTPS` or `ESMTPSA`), and the client has verified the
certificate; *refused*: nothing arrived, as it has to be; *-*: the program cannot do this. Listeners: 25 with `source=` a `<source>` that may relay
(the *stranger* comes to another one), 587, 2525 and 465 (`immediate-tls`) with `require-auth`, `require-starttls-before-auth` and one
`<smtp-user>`.
"""
CONF = """smtp-listener 127.0.0.1:@port@ source=trusted
smtp-listener 127.0.0.1:@port2@
smtp-listener 127.0.0.1:@port3@ source=submission
smtp-listener 127.0.0.1:@port4@ source=submission
<smtp-listener 127.0.0.1:@port5@>
    source submission
    immediate-tls yes
</smtp-listener>
smtp-server-tls-certificate @dir@/mx.pem
<source 127.0.0.0/8>
    allow-starttls yes
</source>
<source trusted>
    always-allow-relaying yes
</source>
<source submission>
    require-auth yes
    require-starttls-before-auth yes
</source>
<smtp-user foo>
    password barbaz
</smtp-user>
<domain *>
    smtp-hosts [127.0.0.1]:{sink}
</domain>
"""
MODES = [
    *(Mode(25), Mode(25, "STARTTLS"), Mode(25, stranger=True, taken=False)),
    *(Mode(587, "STARTTLS", mechanism) for mechanism in MECHANISMS),
    *(Mode(587, "STARTTLS", mechanism, password="wrong", taken=False) for mechanism in ("PLAIN", "CRAM-MD5", "SCRAM-SHA-256")),
    *(Mode(587, "STARTTLS", taken=False), Mode(587, "", "PLAIN", taken=False)),
    *(Mode(2525, "STARTTLS", mechanism) for mechanism in ("PLAIN", "SCRAM-SHA-256")),
    *(Mode(465, "TLS", mechanism) for mechanism in MECHANISMS),
    *(Mode(465, "TLS", "LOGIN", password="wrong", taken=False), Mode(465, "TLS", taken=False)),
]
CELLS = [(client, mode) for mode in MODES for client in CLIENTS if can(client, mode)]
PORTS = {25: "port", 587: "port3", 2525: "port4", 465: "port5"}

Need = Callable[[str], None]


class World(NamedTuple):
    engine: Engine
    sink: Sink
    ca: Path
    seen: dict[tuple[str, Mode], str]


@pytest.fixture(scope="module")
def world(module_directory: Path) -> Iterator[World]:
    """One engine for the whole table."""
    authority = Authority()
    directory = module_directory / "engine"
    directory.mkdir()
    (directory / "mx.pem").write_bytes(authority.issue("localhost", "127.0.0.1"))
    (directory / "mx.pem").chmod(0o600)
    ca = module_directory / "ca.pem"
    ca.write_bytes(authority.pem)
    with Sink() as sink:
        engine = Engine(directory, CONF.format(sink=sink.port))
        engine.conf.chmod(0o600)  # it holds a password
        with engine:
            yield World(engine, sink, ca, {})


@pytest.mark.parametrize(("client", "mode"), CELLS, ids=[f"{client} {mode}" for client, mode in CELLS])
def test_client(client: str, mode: Mode, world: World, need: Need, open_directory: Path) -> None:
    need(client)
    recipient = f"to-{CELLS.index((client, mode))}@d.example"
    port = world.engine.port_of("port2" if mode.stranger else PORTS[mode.port])
    call = Call(mode, port, recipient, world.ca, open_directory)
    if mode.taken:
        CLIENTS[client][0](call)
        world.sink.wait(lambda sink: any(recipient in message.recipients for message in sink.messages), 30, f"mail by {client}")
        (message,) = (message for message in world.sink.messages if recipient in message.recipients)
        protocol = f"ESMTP{'S' if mode.tls else ''}{'A' if mode.mechanism else ''}"
        assert f" with {protocol} {'(TLSv1.' if mode.tls else 'id '}".encode() in message.header
        assert message.body.rstrip() == b"hello"
    else:
        with pytest.raises(ClientFailed):
            CLIENTS[client][0](call)
        assert not any(recipient in message.recipients for message in world.sink.messages)
    world.seen[client, mode] = "yes" if mode.taken else "refused"


def test_the_table(world: World) -> None:
    if missing := [f"{client} {mode}" for client, mode in CELLS if (client, mode) not in world.seen]:
        pytest.skip(f"not every client was tried, or not with success: {', '.join(missing[:3])} ...")
    assert "barbaz" not in world.engine.log()
    rows = [f"| {mode} | " + " | ".join(world.seen.get((client, mode), "-") for client in CLIENTS) + " |" for mode in MODES]
    table = "\n".join(["| | " + " | ".join(CLIENTS) + " |", "| --- |" + " --- |" * len(CLIENTS), *rows]) + "\n"
    if os.environ.get("ENGINE_WRITE_CLIENTS"):
        DOCUMENT.write_text(f"{HEAD}\n{table}\nThe clients: {', '.join(versions())}.\n")
    assert f"{HEAD}\n{table}\n" in DOCUMENT.read_text()
