"""Other people's clients -> engine -> MX that the DNS names: bodies arrive as they were sent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.clients import CLIENTS, ENDS_WITH
from tests.peers.conftest import Relay
from tests.peers.corpus import CORPUS, assert_all_untouched, assert_untouched, large, recipients_in_domains
from tests.peers.install import path_of
from tests.sinks import Message

pytestmark = pytest.mark.peers

Need = Callable[[str], None]


# swaks takes a last line of one dot for the end of what it is to send, and gives a message without a body one
CANNOT = {("swaks", "dot-last"), ("swaks", "empty")}
CASES = [(client, name) for client in CLIENTS for name in CORPUS if (client, name) not in CANNOT]


def through(relay: Relay, client: str, sent: bytes, recipients: list[str], directory: Path) -> list[Message]:
    """Send, and the messages of the sink that came of it."""
    before = len(relay.sink.messages)
    known = sum(len(message.recipients) for message in relay.sink.messages)
    CLIENTS[client](relay.engine.port, sent, recipients, directory)
    relay.sink.wait(
        lambda sink: sum(len(message.recipients) for message in sink.messages) >= known + len(recipients),
        60,
        f"{len(recipients)} recipients by {client}",
    )
    return relay.sink.messages[before:]


@pytest.mark.parametrize(("client", "name"), CASES)
def test_one_recipient(client: str, name: str, relay: Relay, need: Need, tmp_path: Path) -> None:
    need(client)
    sent = CORPUS[name] + ENDS_WITH.get(client, b"")
    (message,) = through(relay, client, CORPUS[name], ["to@d0.example"], tmp_path)
    assert_untouched(message.content, sent)
    assert message.sender == "from@client.example"
    assert message.peer[0].startswith("127.")


@pytest.mark.parametrize("client", [client for client in CLIENTS if client != "smtp-source"])
def test_twenty_recipients_in_three_domains(client: str, relay: Relay, need: Need, tmp_path: Path) -> None:
    need(client)
    recipients = recipients_in_domains(20, 3)
    sent = CORPUS["plain"]
    assert_all_untouched(through(relay, client, sent, recipients, tmp_path), sent, recipients)


@pytest.mark.parametrize("client", CLIENTS)
def test_thirty_megabytes(client: str, relay: Relay, need: Need, tmp_path: Path) -> None:
    need(client)
    sent = large()
    (message,) = through(relay, client, sent, ["to@d1.example"], tmp_path)
    assert_untouched(message.content, sent + ENDS_WITH.get(client, b""))
    relay.sink.messages.clear()  # 30 MB need not stay


def test_eight_bit_goes_with_body_8bitmime(relay: Relay, tmp_path: Path) -> None:
    (message,) = through(relay, "smtplib", CORPUS["eight-bit"], ["to@d0.example"], tmp_path)
    assert "BODY=8BITMIME" in message.mail_parameters.upper()


def test_smtp_source_with_many_sessions(relay: Relay, need: Need) -> None:
    need("smtp-source")
    before = len(relay.sink.messages)
    program = path_of("smtp-source")
    assert program is not None
    subprocess.run(
        [program, "-s", "20", "-m", "400", "-l", "10240", "-N", "-f", "from@client.example", "-t", "u@d0.example", f"127.0.0.1:{relay.engine.port}"],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    relay.sink.wait_for_messages(before + 400, 60)
    recipients = [message.recipients for message in relay.sink.messages[before:]]
    assert len(recipients) == len(set(recipients)) == 400
    assert len(relay.engine.wait_for_records(400, "d")) >= 400


def test_all_that_came_has_d_records(relay: Relay) -> None:
    records = relay.engine.records("d")
    assert {record["dlvDestinationIp"] for record in records} <= {"127.0.0.21"}
    assert len({(record["id"], record["rcpt"]) for record in records}) == len(records)
