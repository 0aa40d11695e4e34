"""Other people's clients hand in mail by STARTTLS and by TLS from the first byte, and verify our certificate."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.sinks import Sink
from tests.system.engine import Engine

pytestmark = pytest.mark.peers

AUTHORITY = Authority()
CONF = """
listener-workers 1
delivery-workers 1
smtp-listener 127.0.0.1:@port@
<smtp-listener 127.0.0.1:@port2@>
    immediate-tls yes
</smtp-listener>
smtp-server-tls-certificate {pem}
<source 127.0.0.1>
    always-allow-relaying yes
    allow-starttls yes
</source>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""
MESSAGE = b"From: a@sender.example\nTo: b@d0.example\nSubject: tls\n\nhello\n"


@pytest.fixture(scope="module")
def secure() -> Iterator[tuple[Engine, Sink, Path]]:
    """An engine with a certificate for localhost, a sink behind it, and a directory with the authority's."""
    with tempfile.TemporaryDirectory(prefix="engine-test-") as name, Sink() as sink:
        directory = Path(name)
        directory.chmod(0o711)
        (directory / "key.pem").write_bytes(AUTHORITY.issue("localhost", "127.0.0.1"))
        (directory / "ca.pem").write_bytes(AUTHORITY.pem)
        (directory / "message").write_bytes(MESSAGE)
        (directory / "wire").write_bytes(MESSAGE.replace(b"\n", b"\r\n"))  # curl sends a file as it is
        with Engine(directory / "engine", CONF.format(pem=directory / "key.pem", port=sink.port)) as engine:
            yield engine, sink, directory


SWAKS = ("swaks", "--server", "localhost:{port}", "--from", "a@sender.example", "--to", "b@d0.example", "--data", "@{dir}/message", "--hide-all")
CURL = ("curl", "--silent", "--show-error", "--cacert", "{dir}/ca.pem", "--mail-from", "a@sender.example", "--mail-rcpt", "b@d0.example")
MSMTP = (
    *("msmtp", "--host=localhost", "--port={port}", "--from=a@sender.example", "--read-recipients"),
    *("--tls=on", "--tls-trust-file={dir}/ca.pem"),
)
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "swaks, STARTTLS": ("port", (*SWAKS, "-tls", "--tls-verify", "--tls-ca-path", "{dir}/ca.pem")),
    "swaks, immediate": ("port2", (*SWAKS, "-tlsc", "--tls-verify", "--tls-ca-path", "{dir}/ca.pem")),
    "curl, STARTTLS": ("port", (*CURL, "--ssl-reqd", "--upload-file", "{dir}/wire", "smtp://localhost:{port}/client.example")),
    "curl, immediate": ("port2", (*CURL, "--upload-file", "{dir}/wire", "smtps://localhost:{port}/client.example")),
    "msmtp, STARTTLS": ("port", (*MSMTP, "--tls-starttls=on")),
    "msmtp, immediate": ("port2", (*MSMTP, "--tls-starttls=off")),
}


@pytest.mark.parametrize("way", WAYS)
def test_they_send_by_tls(way: str, secure: tuple[Engine, Sink, Path], need: Callable[[str], None]) -> None:
    engine, sink, directory = secure
    listener, words = WAYS[way]
    need(words[0])
    command = [word.format(port=engine.port_of(listener), dir=directory) for word in words]
    before = len(sink.messages)
    done = subprocess.run(command, input=MESSAGE, capture_output=True, timeout=60, check=False, env={**os.environ, "HOME": "/nonexistent"})
    assert done.returncode == 0, (done.stdout + done.stderr).decode("latin-1")
    sink.wait_for_messages(before + 1)
    assert b"with ESMTPS (TLSv1." in sink.messages[before].header
