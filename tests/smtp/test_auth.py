"""The mechanisms alone: the examples of their RFCs, what is wrong in each way, and anything at all."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.mail.reply import Reply, reply
from engine.smtp.auth import (
    SERVER_MECHANISMS,
    Accepted,
    Answer,
    Challenge,
    CramServer,
    Denied,
    DigestQuestion,
    LoginServer,
    Malformed,
    PasswordQuestion,
    PlainServer,
    Question,
    ScramServer,
    SecretQuestion,
    cram_digest,
    scram_secret,
    user_name,
)
from engine.smtp.authentication import Authentication
from engine.smtp.server import Phase
from tests.smtp.postbox import Client, Postbox

ALL = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN")
# RFC 7677 §3
NONCES = ("rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
FINAL = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"


def test_scram_is_the_example_of_its_rfc() -> None:
    server = ScramServer(NONCES[1])
    assert server.start(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == SecretQuestion("user")
    assert server.resume(scram_secret(b"pencil", SALT, 4096)) == Challenge(
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    step = server.respond(FINAL.encode() + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert step == Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert server.respond(b"") == Accepted("user")


@pytest.mark.parametrize(
    ("first", "final", "valid", "step"),
    [
        (b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", FINAL + ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", False, Denied("user")),
        (b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", FINAL + ",p=" + base64.b64encode(bytes(32)).decode(), True, Denied("user")),
        (b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO", FINAL + ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", True, Denied("user")),
        (b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "c=biws,r=other,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", True, Denied("user")),
        (b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", FINAL, True, Malformed("5.5.2 Not a final message of SCRAM")),
        (b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", FINAL + ",p=AAAA", True, Malformed("5.5.2 Not a final message of SCRAM")),
        (b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "x=biws,r=other,p=" + base64.b64encode(bytes(32)).decode(), True, Denied("user")),
    ],
)
def test_scram_refuses(first: bytes, final: str, valid: bool, step: object) -> None:
    server = ScramServer(NONCES[1])
    server.start(first)
    server.resume(scram_secret(b"pencil", SALT, 4096)._replace(valid=valid))
    assert server.respond(final.encode()) == step


@pytest.mark.parametrize(
    ("first", "step"),
    [
        (b"n,,n=a=2Cb=3Dc,r=x", SecretQuestion("a,b=c")),
        (b"n,a=foo,n=foo,r=x", SecretQuestion("foo")),
        (b"n,a=bar,n=foo,r=x", Denied("foo")),
        (b"n,,n=a=b,r=x", Malformed("5.5.2 Not a first message of SCRAM")),
        (b"n,,n=foo,r=", Malformed("5.5.2 Not a first message of SCRAM")),
        (b"n,,m=ext,n=foo,r=x", Malformed("5.5.2 Not a first message of SCRAM")),
        (b"p=tls-exporter,,n=foo,r=x", Malformed("5.5.4 Channel binding is not supported")),
        (b"", Malformed("5.5.2 Not a first message of SCRAM")),
        (b"\xff", Malformed("5.5.2 Not UTF-8")),
    ],
)
def test_scram_reads_first_messages(first: bytes, step: object) -> None:
    assert ScramServer("nonce").start(first) == step


def test_cram_is_the_example_of_its_rfc() -> None:
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert cram_digest(b"tanstaaftanstaaf", challenge) == "b913a602c7eda7a495b4e6e7334d3890"
    server = CramServer("postoffice.reston.mci.net", "1896.697170952")
    assert server.start(None) == Challenge(challenge)
    assert server.respond(b"tim B913a602c7eda7a495b4e6e7334d3890") == DigestQuestion("tim", challenge, "b913a602c7eda7a495b4e6e7334d3890")
    assert server.resume(True) == Accepted("tim")
    assert server.resume(False) == Denied("tim")


def test_a_password_may_hold_anything_and_a_name_may_not() -> None:
    assert PlainServer().start(b"\0foo\0 \xff\r\n#") == PasswordQuestion("foo", b" \xff\r\n#")
    assert PlainServer().start(b"\0foo\0" + b"x" * 1025) == Malformed("5.5.2 No password, or one that is too long")
    assert LoginServer().start(b"f\0o") == Malformed("5.5.2 No user name")
    assert [user_name(data) for data in (b"", b"a" * 256, b"a\nb", b"\xff", "\u212bd".encode(), b"a b@c")] == [None] * 4 + ["\u00c5d", "a b@c"]


ANSWERS = st.one_of(st.booleans(), st.just(scram_secret(b"x", b"salt", 1)))


SAID = st.one_of(st.binary(max_size=200), st.sampled_from([b"n,,n=foo,r=abc", b"foo", b"\0a\0b", b"c=biws,r=abcN,p=AAAA"]))


@given(st.sampled_from(ALL), st.lists(SAID))
def test_mechanisms_take_anything(name: str, said: list[bytes]) -> None:
    mechanism = SERVER_MECHANISMS[name]("mx.example.org", "N")
    step = mechanism.start(said[0] if said else None)
    for data in said[1:]:
        if isinstance(step, SecretQuestion):
            step = mechanism.resume(scram_secret(b"x", b"salt", 1))
        elif isinstance(step, (PasswordQuestion, DigestQuestion)):
            step = mechanism.resume(False)
        if not isinstance(step, Challenge):
            break
        step = mechanism.respond(data)
    assert not isinstance(step, Accepted)


LINES = st.one_of(
    st.binary(max_size=60).map(base64.b64encode),
    st.binary(max_size=30),
    st.sampled_from([b"AUTH LOGIN", b"AUTH PLAIN", b"AUTH CRAM-MD5"]),
    st.sampled_from([b"AUTH SCRAM-SHA-256 biwsbj1mb28scj1h", b"*", b"=", b"", b"NOOP", b"Zm9v", b"RSET"]),
)


@given(st.lists(LINES, max_size=12))
def test_no_line_raises_or_lets_a_stranger_in(lines: list[bytes]) -> None:
    client = Client(auth=ALL, auth_secure=ALL, max_errors=1000, max_commands_without_mail=1000)
    client.exchange(b"EHLO c\r\n")
    for line in lines:
        client.exchange(line.replace(b"\n", b"").replace(b"\r", b"") + b"\r\n")
    assert all(user == "" for user, _ in client.postbox.users)


class Later(Postbox):
    """Leaves every question and every denial open."""

    asked: Question | None = None

    def authenticate(self, question: Question) -> Answer | Reply | None:
        self.asked = question
        return None

    def denied(self, user: str, mechanism: str) -> Reply | None:
        return None


def authentication() -> tuple[Later, Authentication]:
    handler = Later()
    return handler, Authentication(handler)


def test_answers_may_come_later() -> None:
    handler, auth = authentication()
    assert auth.begin(b"PLAIN AGZvbwBiYXJiYXo=", ALL, ALL, "mx").owed
    assert handler.asked == PasswordQuestion("foo", b"barbaz")
    assert auth.answered(True).reply == b"235 2.7.0 Authentication successful\r\n"
    assert auth.user == "foo"


def test_denials_may_be_told_later_and_are_counted_then() -> None:
    _, auth = authentication()
    no = reply(535, "5.7.8 no")
    for _ in range(2):
        auth.begin(b"PLAIN AGZvbwBiYXI=", ALL, ALL, "mx")
        assert auth.answered(False).owed
        assert auth.answered(no) == (no.encode(), False, False, True, False, None)
    auth.begin(b"PLAIN AGZvbwBiYXI=", ALL, ALL, "mx")
    auth.answered(False)
    assert auth.answered(no).closes


def test_a_refusal_ends_the_exchange_and_is_no_failure() -> None:
    _, auth = authentication()
    busy = reply(454, "4.7.0 busy")
    for _ in range(9):
        assert auth.begin(b"PLAIN AGZvbwBiYXI=", ALL, ALL, "mx").owed
        outcome = auth.answered(busy)
        assert (outcome.reply, outcome.closes, outcome.wrong) == (busy.encode(), False, False)


def test_new_limits_hold_once_authenticated() -> None:
    client = Client(auth=ALL, auth_secure=ALL)
    client.postbox.limits = type(client.postbox.limits)("mx.example.org", max_message_size_bytes=1000)
    client.exchange(b"EHLO c\r\n")
    assert client.exchange(b"AUTH PLAIN AGZvbwBiYXJiYXo=\r\n").startswith(b"235 ")
    assert b"SIZE 1000" in client.exchange(b"EHLO c\r\n")
    assert client.exchange(b"MAIL FROM:<a@example.com> SIZE=2000\r\n").startswith(b"552 ")
    assert client.core.phase is Phase.COMMANDS


@pytest.mark.parametrize("empty", [b"", b"="])
def test_scram_over_smtp(empty: bytes) -> None:
    client = Client(auth=ALL, auth_secure=ALL)
    client.exchange(b"EHLO c\r\n")
    first = client.exchange(b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=foo,r=abc") + b"\r\n")
    server_first = base64.b64decode(first[4:])
    assert server_first == b"r=abc0123456789abcdef,s=c2FsdA==,i=10"
    bare = b"c=biws,r=abc0123456789abcdef"
    salted = hashlib.pbkdf2_hmac("sha256", b"barbaz", b"salt", 10)
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), b"n=foo,r=abc," + server_first + b"," + bare, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    second = client.exchange(base64.b64encode(bare + b",p=" + base64.b64encode(proof)) + b"\r\n")
    assert base64.b64decode(second[4:]).startswith(b"v=")
    assert client.exchange(empty + b"\r\n").startswith(b"235 ")
