"""Other people's clients, each as a function that sends one message and raises if its program was not content."""

from __future__ import annotations

import os
import smtplib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.peers.install import path_of

SENDER = "from@client.example"
TIMEOUT_S = 120

Client = Callable[[int, bytes, Sequence[str], Path], None]  # port, message, recipients, directory for files


class ClientFailed(Exception):
    """The program said no; the text is its output."""


def _run(*words: str) -> str:
    program = path_of(words[0])
    assert program is not None
    done = subprocess.run(
        [program, *words[1:]],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "HOME": "/nonexistent"},
    )
    output = (done.stdout + done.stderr).decode("latin-1")
    if done.returncode:
        raise ClientFailed(f"{words[0]}: status {done.returncode}\n{output[-2000:]}")
    return output


def send_with_smtplib(port: int, message: bytes, recipients: Sequence[str], directory: Path) -> None:
    """Python's own; BODY=8BITMIME where the message needs it."""
    options = [] if message.isascii() else ["BODY=8BITMIME"]
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example", timeout=TIMEOUT_S) as peer:
        if refused := peer.sendmail(SENDER, list(recipients), message, options):
            raise ClientFailed(str(refused))


def send_with_swaks(port: int, message: bytes, recipients: Sequence[str], directory: Path) -> None:
    """swaks; it turns LF into CRLF and adds a line end of its own, so that it gets the message without the last one."""
    file = directory / "swaks.eml"
    file.write_bytes(message.removesuffix(b"\r\n").replace(b"\r\n", b"\n"))
    _run(
        "swaks", "--server", "127.0.0.1", "--port", str(port), "--ehlo", "client.example", "--from", SENDER, "--to", ",".join(recipients),
        "--data", f"@{file}", "--timeout", str(TIMEOUT_S), "--hide-all",
    )  # fmt: skip


def send_with_curl(port: int, message: bytes, recipients: Sequence[str], directory: Path) -> None:
    """curl."""
    file = directory / "curl.eml"
    file.write_bytes(message)
    words = [word for address in recipients for word in ("--mail-rcpt", address)]
    _run(
        "curl",
        "--disable",
        "--silent",
        "--show-error",
        f"smtp://127.0.0.1:{port}/client.example",
        "--mail-from",
        SENDER,
        *words,
        "--upload-file",
        str(file),
    )


def send_with_smtp_source(port: int, message: bytes, recipients: Sequence[str], directory: Path) -> None:
    """Postfix's smtp-source with a file of ours; one recipient."""
    file = directory / "smtp-source.eml"
    file.write_bytes(message.replace(b"\r\n", b"\n"))
    (recipient,) = recipients
    _run("smtp-source", "-F", str(file), "-m", "1", "-M", "client.example", "-f", SENDER, "-t", recipient, f"127.0.0.1:{port}")


ENDS_WITH = {"smtp-source": b"\r\n"}
"""What a client itself adds to the end of every message."""

CLIENTS: dict[str, Client] = {
    "smtplib": send_with_smtplib,
    "swaks": send_with_swaks,
    "curl": send_with_curl,
    "smtp-source": send_with_smtp_source,
}
