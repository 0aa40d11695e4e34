"""Other people's clients on each port, with and without TLS and AUTH: each a function that hands one message in, or raises ClientFailed."""

from __future__ import annotations

import base64
import json
import os
import re
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.postfix import Postfix
from tests.peers.clients import SENDER, TIMEOUT_S, ClientFailed
from tests.peers.install import NODE_MODULES, path_of
from tests.system.engine import eventually

USER, PASSWORD = "foo", "barbaz"
NAME = "client.example"
TEXT = "From: <from@client.example>\nSubject: matrix\n\nhello\n"
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256")


class Mode(NamedTuple):
    """How a client comes: to the listener that does the duty of *port*; *tls* is "", STARTTLS or TLS (from the first byte)."""

    port: int
    tls: str = ""
    mechanism: str = ""  # of AUTH; "" without
    password: str = PASSWORD
    stranger: bool = False  # from an address that no rule lets relay
    taken: bool = True  # what should come of it

    def __str__(self) -> str:
        how = [self.tls or "no TLS"]
        how.append(f"AUTH {self.mechanism}" if self.mechanism else "no AUTH")
        how += ["wrong password"] * (self.password != PASSWORD) + ["a stranger"] * self.stranger
        return f"{self.port}: {', '.join(how)}"


class Call(NamedTuple):
    """One message to hand in: to 127.0.0.1:*port*, trusting the authority in *ca*."""

    mode: Mode
    port: int
    recipient: str
    ca: Path
    directory: Path


Client = Callable[[Call], None]


def _run(words: Sequence[str | Path], stdin: str = "", **environment: str) -> str:
    program = path_of(str(words[0]))
    assert program is not None
    done = subprocess.run(
        [program, *map(str, words[1:])], input=stdin.encode(), capture_output=True, timeout=TIMEOUT_S, check=False,
        env={**os.environ, "HOME": "/nonexistent", **environment},
    )  # fmt: skip
    output = (done.stdout + done.stderr).decode("latin-1")
    if done.returncode:
        raise ClientFailed(f"{words[0]}: status {done.returncode}\n{output[-2000:]}")
    return output


def with_smtplib(call: Call) -> None:
    """Python's own."""
    mode, context = call.mode, ssl.create_default_context(cafile=str(call.ca))
    try:
        with (
            smtplib.SMTP_SSL("127.0.0.1", call.port, NAME, timeout=TIMEOUT_S, context=context)
            if mode.tls == "TLS"
            else smtplib.SMTP("127.0.0.1", call.port, NAME, timeout=TIMEOUT_S)
        ) as peer:
            if mode.tls == "STARTTLS":
                peer.starttls(context=context)
            peer.ehlo()
            if mode.mechanism:
                peer.user, peer.password = USER, mode.password
                peer.auth(mode.mechanism, getattr(peer, f"auth_{mode.mechanism.lower().replace('-', '_')}"))
            if refused := peer.sendmail(SENDER, [call.recipient], TEXT):
                raise ClientFailed(str(refused))
    except smtplib.SMTPException as error:
        raise ClientFailed(str(error)) from error


def with_swaks(call: Call) -> None:
    """swaks."""
    mode = call.mode
    words: list[object] = ["swaks", "--server", "127.0.0.1", "--port", call.port, "--ehlo", NAME]
    words += ["--from", SENDER, "--to", call.recipient, "--data", "-"]
    words += {"": [], "STARTTLS": ["--tls"], "TLS": ["--tls-on-connect"]}[mode.tls]
    words += ["--tls-verify", "--tls-ca-path", call.ca] if mode.tls else []
    words += ["--auth", mode.mechanism, "--auth-user", USER, "--auth-password", mode.password] if mode.mechanism else []
    _run([str(word) for word in words], TEXT)


def with_curl(call: Call) -> None:
    """curl."""
    mode = call.mode
    words: list[str | Path] = ["curl", "--disable", "--silent", "--show-error", "--cacert", call.ca, "--mail-from", SENDER]
    words += ["--mail-rcpt", call.recipient, "--upload-file", "-", f"smtp{'s' if mode.tls == 'TLS' else ''}://127.0.0.1:{call.port}/{NAME}"]
    words += ["--ssl-reqd"] if mode.tls == "STARTTLS" else []
    words += ["--user", f"{USER}:{mode.password}", "--login-options", f"AUTH={mode.mechanism}"] if mode.mechanism else []
    _run(words, TEXT.replace("\n", "\r\n"))


def with_openssl(call: Call) -> None:
    """openssl s_client, and a dialogue as one types it; it waits for nothing, so that everything comes pipelined."""
    mode = call.mode
    auth = {
        "": [],
        "PLAIN": ["AUTH PLAIN " + _base64(f"\0{USER}\0{mode.password}")],
        "LOGIN": ["AUTH LOGIN", _base64(USER), _base64(mode.password)],
    }[mode.mechanism]
    dialogue = [f"EHLO {NAME}", *auth, f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{call.recipient}>", "DATA", *TEXT.splitlines(), ".", "QUIT"]
    words: list[str | Path] = ["openssl", "s_client", "-quiet", "-crlf", "-connect", f"127.0.0.1:{call.port}", "-CAfile", call.ca]
    words += ["-verify_return_error", "-verify_ip", "127.0.0.1", *(["-starttls", "smtp"] if mode.tls == "STARTTLS" else [])]
    output = _run(words, "\n".join(dialogue) + "\n")
    if "\n250 2.6.0 " not in output.replace("\r", ""):
        raise ClientFailed(output[-2000:])


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def with_msmtp(call: Call) -> None:
    """msmtp."""
    mode = call.mode
    words: list[str | Path] = ["msmtp", "--host=127.0.0.1", f"--port={call.port}", f"--domain={NAME}", f"--from={SENDER}"]
    words += [f"--tls={'on' if mode.tls else 'off'}"]
    words += [f"--tls-starttls={'on' if mode.tls == 'STARTTLS' else 'off'}", f"--tls-trust-file={call.ca}"] if mode.tls else []
    if mode.mechanism:
        words += [f"--auth={mode.mechanism.lower()}", f"--user={USER}", f"--passwordeval=echo {mode.password}"]
    _run([*words, call.recipient], TEXT)


def with_nodemailer(call: Call) -> None:
    """nodemailer."""
    mode = call.mode
    options: dict[str, object] = {"host": "127.0.0.1", "port": call.port, "name": NAME, "secure": mode.tls == "TLS"}
    options |= {"requireTLS": mode.tls == "STARTTLS", "ignoreTLS": not mode.tls, "tls": {"ca": call.ca.read_text(), "servername": "localhost"}}
    if mode.mechanism:
        options |= {"auth": {"user": USER, "pass": mode.password}, "authMethod": mode.mechanism}
    mail = {"envelope": {"from": SENDER, "to": [call.recipient]}, "raw": TEXT}
    script = f"require('nodemailer').createTransport({json.dumps(options)}).sendMail({json.dumps(mail)})"
    ending = "then(() => process.exit(0), error => { console.error(error.message); process.exit(1) })"
    _run(["node", "-e", f"{script}.{ending}"], NODE_PATH=NODE_MODULES)


class PostfixClient(Postfix):
    """A Postfix that sends everything through a relay, with *lines* in its main.cf."""

    def __init__(self, directory: Path, relayhost: str, lines: Sequence[str]) -> None:
        super().__init__(directory, relayhost=relayhost)
        self._lines = lines

    def configure(self) -> Sequence[str]:
        command = super().configure()
        with (self._etc / "main.cf").open("a") as file:
            file.write("\n" + "\n".join(self._lines) + "\n")
        with (self._etc / "master.cf").open("a") as file:
            file.write("tlsmgr    unix  -       -       n       1000?   1       tlsmgr\n")
        return command

    def said(self) -> str:
        """Its log."""
        return (self.directory / "log").read_text("utf-8", "replace")


def with_postfix(call: Call) -> None:
    """Postfix as a client: content when its log says so of the one message that it has."""
    mode = call.mode
    lines = [f"smtp_tls_CAfile = {call.ca}", "smtp_tls_verify_cert_match = localhost", "smtp_tls_secure_cert_match = localhost"]
    lines += [f"smtp_tls_security_level = {'secure' if mode.tls else 'none'}", f"smtp_tls_wrappermode = {'yes' if mode.tls == 'TLS' else 'no'}"]
    if mode.mechanism:
        lines += ["smtp_sasl_auth_enable = yes", f"smtp_sasl_password_maps = static:{USER}:{mode.password}"]
        lines += ["smtp_sasl_security_options = noanonymous", f"smtp_sasl_mechanism_filter = {mode.mechanism.lower()}"]
    with PostfixClient(call.directory / "postfix", f"[127.0.0.1]:{call.port}", lines) as postfix:
        with smtplib.SMTP("127.0.0.1", postfix.port, NAME, timeout=TIMEOUT_S) as peer:
            peer.sendmail(SENDER, [call.recipient], TEXT)
        eventually(lambda: re.search(r" status=\w+ ", postfix.said()), "a verdict in Postfix's log", 60)
        verdicts = re.findall(rf"to=<{re.escape(call.recipient)}>.* status=(\w+) (.*)", postfix.said())
    if [status for status, _ in verdicts] != ["sent"]:
        raise ClientFailed(f"{verdicts}\n{postfix.said()[-1500:]}")


_SIMPLE = ("PLAIN", "LOGIN", "CRAM-MD5")
CLIENTS: dict[str, tuple[Client, tuple[str, ...]]] = {
    "swaks": (with_swaks, _SIMPLE),
    "curl": (with_curl, _SIMPLE),
    "smtplib": (with_smtplib, _SIMPLE),
    "nodemailer": (with_nodemailer, _SIMPLE),
    "msmtp": (with_msmtp, MECHANISMS),
    "postfix": (with_postfix, MECHANISMS),
    "openssl": (with_openssl, ("PLAIN", "LOGIN")),
}
"""client -> how it sends, and the mechanisms that it has (in Debian 12)"""


def can(client: str, mode: Mode) -> bool:
    """Whether *client* knows how to come in *mode*."""
    return (not mode.mechanism or mode.mechanism in CLIENTS[client][1]) and (client != "openssl" or bool(mode.tls))


def versions() -> list[str]:
    """What the clients here call themselves."""
    asked = {
        "swaks": ["swaks", "--version"], "curl": ["curl", "--version"], "msmtp": ["msmtp", "--version"],
        "openssl": ["openssl", "version"], "postfix": ["postconf", "-hd", "mail_version"],
    }  # fmt: skip
    found = [f"smtplib of Python {sys.version_info.major}.{sys.version_info.minor}"]
    for name, words in asked.items():
        number = re.search(r"\d[\w.]+", _run(words).splitlines()[0])
        found.append(f"{name} {number.group() if number else ''}")
    node = _run(["node", "-p", "require('nodemailer/package.json').version"], NODE_PATH=NODE_MODULES)
    return sorted([*found, f"nodemailer {node.strip()}"])
