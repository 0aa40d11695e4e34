"""SASL mechanisms as state machines without I/O, both sides: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), SCRAM-SHA-256 (RFC 5802, RFC 7677).

A server's mechanism turns what the client says into challenges and in the end into a verdict.  It knows no password: where one is needed it
asks a `Question`, and goes on with the answer.  Bytes here are decoded; base64 and reply codes are `engine.smtp.authentication`'s.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple, Protocol

MAX_USER_CHARS = 255
MAX_PASSWORD_BYTES = 1024

PLAIN, LOGIN, CRAM_MD5, SCRAM_SHA_256 = "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"
SHOWING = frozenset((PLAIN, LOGIN))  # whoever listens has the password

_HMAC_MD5 = re.compile(r"[0-9a-f]{32}")
_GS2 = re.compile(r"(n,|y,|p=[A-Za-z0-9.-]+,)(?:a=([^,]*))?,(.*)", re.DOTALL)
_NONCE = re.compile(r"[!-+\--~]{1,256}")  # printable, no comma (RFC 5802 §5.1)


# --- what a server's mechanism says next -------------------------------------------------------------------------------------------------


class Challenge(NamedTuple):
    """Something for the client to answer."""

    data: bytes


class PasswordQuestion(NamedTuple):
    """Is *password* that of *user*?  Answer: bool."""

    user: str
    password: bytes


class DigestQuestion(NamedTuple):
    """Is *digest* (hex) HMAC-MD5 of *challenge* under the password of *user*?  Answer: bool."""

    user: str
    challenge: bytes
    digest: str


class SecretQuestion(NamedTuple):
    """What does a server keep of the password of *user* for SCRAM-SHA-256?  Answer: ScramSecret, made up for somebody unknown."""

    user: str


class ScramSecret(NamedTuple):
    """What SCRAM-SHA-256 verifies a client by (RFC 5802 §3); *valid* is False for one that nobody's password fits."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes
    valid: bool = True


class Accepted(NamedTuple):
    """The client is *user*."""

    user: str


class Denied(NamedTuple):
    """It is not who it says."""

    user: str


class Malformed(NamedTuple):
    """What it said is none of this mechanism's; *why* is for the client to read."""

    why: str


Question = PasswordQuestion | DigestQuestion | SecretQuestion
Answer = bool | ScramSecret
Step = Challenge | Question | Accepted | Denied | Malformed


class ServerMechanism(Protocol):
    """One exchange from the server's side: `start`, then `respond` to each answer of the client and `resume` after each Question."""

    @property
    def name(self) -> str:
        """As AUTH names it."""

    def start(self, initial: bytes | None) -> Step:
        """AUTH came, with an *initial* response or without."""

    def respond(self, data: bytes) -> Step:
        """The client answered the last Challenge."""

    def resume(self, answer: Answer) -> Step:
        """The last Question is answered."""


def user_name(data: bytes) -> str | None:
    """The name in *data* (UTF-8, normalized: RFC 4616 §2); None if it is empty, too long or holds control characters."""
    try:
        text = unicodedata.normalize("NFKC", data.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    return text if 0 < len(text) <= MAX_USER_CHARS and text.isprintable() else None


_BAD_USER = Malformed("5.5.2 No user name")
_BAD_PASSWORD = Malformed("5.5.2 No password, or one that is too long")


class _Password:
    """What PLAIN and LOGIN share: one question whose answer decides."""

    _user = ""

    def _ask(self, user: str, password: bytes) -> Step:
        if not 0 < len(password) <= MAX_PASSWORD_BYTES:
            return _BAD_PASSWORD
        self._user = user
        return PasswordQuestion(user, password)

    def resume(self, answer: Answer) -> Step:
        return Accepted(self._user) if answer is True else Denied(self._user)


class PlainServer(_Password):
    """PLAIN: `[authorization identity] NUL user NUL password`."""

    name = PLAIN

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        parts = data.split(b"\0")
        if len(parts) != 3:
            return Malformed("5.5.2 PLAIN wants an identity, a user name and a password with NUL between them")
        user = user_name(parts[1])
        if user is None:
            return _BAD_USER
        if parts[0] and user_name(parts[0]) != user:
            return Denied(user)  # nobody acts for another
        return self._ask(user, parts[2])


class LoginServer(_Password):
    """LOGIN: two questions, two answers (draft-murchison-sasl-login)."""

    name = LOGIN

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"Username:") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        if self._user:
            return self._ask(self._user, data)
        user = user_name(data)
        if user is None:
            return _BAD_USER
        self._user = user
        return Challenge(b"Password:")


class CramServer:
    """CRAM-MD5: the client proves that it knows the password by a digest of our challenge."""

    name = CRAM_MD5

    def __init__(self, host_name: str, nonce: str) -> None:
        self._challenge = f"<{nonce}@{host_name}>".encode("ascii", "replace")
        self._user = ""

    def start(self, initial: bytes | None) -> Step:
        return Challenge(self._challenge) if initial is None else Malformed("5.5.4 CRAM-MD5 takes no initial response")

    def respond(self, data: bytes) -> Step:
        name, _, digest = data.rpartition(b" ")
        user, hexadecimal = user_name(name), digest.decode("latin-1").lower()
        if user is None or not _HMAC_MD5.fullmatch(hexadecimal):
            return Malformed("5.5.2 CRAM-MD5 wants a user name and a digest")
        self._user = user
        return DigestQuestion(user, self._challenge, hexadecimal)

    def resume(self, answer: Answer) -> Step:
        return Accepted(self._user) if answer is True else Denied(self._user)


class ScramServer:
    """SCRAM-SHA-256 without channel binding: neither side shows the password, each proves that it knows of it."""

    name = SCRAM_SHA_256

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._user = ""
        self._header = self._first = self._server_first = ""  # GS2 header and the bare messages: what both sides sign
        self._secret: ScramSecret | None = None
        self._proven = False

    def start(self, initial: bytes | None) -> Step:
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        if self._proven:  # it has our signature, and says nothing to it
            return Accepted(self._user) if not data else Malformed("5.5.2 An empty response is expected")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return Malformed("5.5.2 Not UTF-8")
        return self._client_first(text) if self._secret is None else self._client_final(text, self._secret)

    def resume(self, answer: Answer) -> Step:
        assert isinstance(answer, ScramSecret)
        self._secret = answer
        salt = base64.b64encode(answer.salt).decode("ascii")
        self._server_first = f"r={self._nonce},s={salt},i={answer.iterations}"
        return Challenge(self._server_first.encode("ascii"))

    def _client_first(self, text: str) -> Step:
        found = _GS2.fullmatch(text)
        if found is None:
            return Malformed("5.5.2 Not a first message of SCRAM")
        if found[1].startswith("p="):
            return Malformed("5.5.4 Channel binding is not supported")
        name, nonce = _attributes(found[3], "n", "r") or ("", "")
        user = _scram_name(name)
        if user is None or not _NONCE.fullmatch(nonce):
            return Malformed("5.5.2 Not a first message of SCRAM")
        self._header = text[: len(text) - len(found[3])]
        self._user, self._first, self._nonce = user, found[3], nonce + self._nonce
        if found[2] and _scram_name(found[2]) != user:
            return Denied(user)
        return SecretQuestion(user)

    def _client_final(self, text: str, secret: ScramSecret) -> Step:
        bare, _, proof_text = text.rpartition(",p=")
        binding, nonce = _attributes(bare, "c", "r") or ("", "")
        proof = decode64(proof_text.encode("utf-8", "replace"))
        if not bare or proof is None or len(proof) != 32:
            return Malformed("5.5.2 Not a final message of SCRAM")
        if nonce != self._nonce or decode64(binding.encode("utf-8", "replace")) != self._header.encode("utf-8"):
            return Denied(self._user)
        signed = f"{self._first},{self._server_first},{bare}".encode()
        key = _xor(proof, hmac.digest(secret.stored_key, signed, "sha256"))
        right = hmac.compare_digest(hashlib.sha256(key).digest(), secret.stored_key)
        if not (right and secret.valid):
            return Denied(self._user)
        self._proven = True
        return Challenge(b"v=" + base64.b64encode(hmac.digest(secret.server_key, signed, "sha256")))


SERVER_MECHANISMS: dict[str, Callable[[str, str], ServerMechanism]] = {  # made from our host name and a nonce
    SCRAM_SHA_256: lambda host_name, nonce: ScramServer(nonce),
    CRAM_MD5: CramServer,
    PLAIN: lambda host_name, nonce: PlainServer(),
    LOGIN: lambda host_name, nonce: LoginServer(),
}


def scram_secret(password: bytes, salt: bytes, iterations: int) -> ScramSecret:
    """What a server keeps of *password*; costs *iterations* rounds of SHA-256 (about 0.2 us each)."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return ScramSecret(salt, iterations, stored_key, hmac.digest(salted, b"Server Key", "sha256"))


def cram_digest(password: bytes, challenge: bytes) -> str:
    """What CRAM-MD5 answers to *challenge*."""
    return hmac.digest(password, challenge, "md5").hex()


def decode64(text: bytes) -> bytes | None:
    """The bytes that *text* is the base64 of, strictly (RFC 4648 §4); None if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _attributes(text: str, *names: str) -> tuple[str, ...] | None:
    """The values of the attributes *names*, which *text* must begin with in this order; None if it does not.  Extensions behind them are allowed."""
    parts = text.split(",")
    if len(parts) < len(names) or any(not part.startswith(f"{name}=") for part, name in zip(parts, names, strict=False)):
        return None
    return tuple(part[2:] for part in parts[: len(names)])


def _scram_name(text: str) -> str | None:
    """The user name that *text* writes with `=2C` for a comma and `=3D` for an equals sign (RFC 5802 §5.1)."""
    if "=" in text.replace("=2C", "").replace("=3D", ""):
        return None
    return user_name(text.replace("=2C", ",").replace("=3D", "=").encode("utf-8", "replace"))


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
