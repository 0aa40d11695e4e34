"""A TLS scan: a client of each version and with each cipher alone knocks at a listener, and only those that the configuration allows get in."""

from __future__ import annotations

import ssl
import subprocess

import pytest

from tests.certificates import Authority
from tests.listener.live import Live
from tests.listener.test_tls import CONF, IMMEDIATE, live

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # old versions are what it asks for

VERSIONS = {"1.0": ssl.TLSVersion.TLSv1, "1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
STRONG = {
    *("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    *("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA"),
    *("ECDHE-ECDSA-AES256-CCM", "ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-ARIA256-GCM-SHA384", "ECDHE-ECDSA-ARIA128-GCM-SHA256"),
    *("ECDHE-ECDSA-CAMELLIA256-SHA384", "ECDHE-ECDSA-CAMELLIA128-SHA256", "ECDHE-ECDSA-AES256-CCM8", "ECDHE-ECDSA-AES128-CCM8"),
}
NEVER = {"AECDH-AES256-SHA", "AECDH-AES128-SHA", "ADH-AES256-GCM-SHA384", "ECDHE-ECDSA-NULL-SHA", "AECDH-NULL-SHA", "NULL-SHA256"}


def scanner(version: str, ciphers: str = "ALL:COMPLEMENTOFALL") -> ssl.SSLContext:
    """A client that can do anything, and may do only this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = VERSIONS[version]
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def answer(running: Live, context: ssl.SSLContext, immediate: bool = False) -> tuple[str, str] | None:
    """(version, cipher) that the listener agreed to and then spoke with, or None."""
    with running.client() as client:
        try:
            if immediate:
                secured = client.secure(context)
                assert client.reply().startswith("220 ")
            else:
                assert client.reply().startswith("220 ")
                secured = client.starttls(context)
        except OSError:  # an alert, or the end
            return None
        assert client.say("EHLO client.example").startswith("250-")
        return secured.version() or "", (secured.cipher() or ("",))[0]


def allowing(*versions: str) -> str:
    words = {"1.0": "tlsv1", "1.1": "tlsv1.1", "1.2": "tlsv1.2", "1.3": "tlsv1.3"}
    return "".join(f"smtp-server-tls-allow-{word} {'yes' if version in versions else 'no'}\n" for version, word in words.items())


@pytest.mark.parametrize(
    ("said", "allowed"),
    [("", ("1.2", "1.3"))] + [(allowing(*each), each) for each in [("1.3",), ("1.2",), ("1.1", "1.2"), ("1.0", "1.3"), ("1.0", "1.1", "1.2", "1.3")]],
    ids=["default", "1.3", "1.2", "1.1 and 1.2", "1.0 and 1.3", "all"],
)
@pytest.mark.parametrize("immediate", [False, True], ids=["starttls", "immediate"])
def test_only_allowed_versions_answer(said: str, allowed: tuple[str, ...], immediate: bool) -> None:
    with live((IMMEDIATE if immediate else CONF) + said) as running:
        answers = {version: answer(running, scanner(version), immediate) for version in VERSIONS}
        names = {"1.0": "TLSv1", "1.1": "TLSv1.1", "1.2": "TLSv1.2", "1.3": "TLSv1.3"}
        assert {version: found and found[0] for version, found in answers.items()} == {
            version: name if version in allowed else None for version, name in names.items()
        }


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("", STRONG),
        ("smtp-server-tls-ciphers ECDHE+AESGCM\n", {"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"}),
        ("smtp-server-tls-ciphers ALL:COMPLEMENTOFALL\n", STRONG),
    ],
    ids=["default", "AESGCM", "everything"],
)
def test_only_allowed_ciphers_answer(said: str, allowed: set[str]) -> None:
    with live(CONF + said) as running:
        every = [each["name"] for each in scanner("1.2").get_ciphers() if each["protocol"] != "TLSv1.3"]
        assert set(every) > STRONG | NEVER
        answered = {name for name in every if answer(running, scanner("1.2", name)) is not None}
        assert answered == allowed


def test_the_listeners_own_settings_come_before_the_servers() -> None:
    own = "<smtp-listener 127.0.0.1:25>\ntls-allow-tlsv1.2 no\ntls-certificate /own.pem\n</smtp-listener>\n"
    with live(CONF.replace("smtp-listener 127.0.0.1:25\n", own)) as running:
        assert [bool(answer(running, scanner(version))) for version in VERSIONS] == [False, False, False, True]


def test_openssl_shakes_hands_and_sends_mail() -> None:
    authority = Authority()
    with live(CONF, authority.issue("mx.example.org")) as running:
        words = ["openssl", "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{running.port}", "-servername", "mx.example.org"]
        done = subprocess.run(
            [*words, "-crlf", "-quiet"],
            input=b"EHLO client.example\nMAIL FROM:<a@b.example>\nQUIT\n",
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert b"250 2.1.0 Sender ok" in done.stdout and b"221 2.0.0" in done.stdout
