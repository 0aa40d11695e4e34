"""Who clients may say they are: the <smtp-user> sections, and whether a password, a digest or a proof is theirs.  Pure; some of it is slow.

Somebody unknown is dealt with by a user who does not exist: his checks cost what those of the others do, and fail.
"""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from engine.config import ClientSettings, Config
from engine.config.stored_password import cost_kb, is_hash
from engine.smtp.auth import CRAM_MD5, LOGIN, PLAIN, SCRAM_SHA_256, SHOWING, DigestQuestion, PasswordQuestion, ScramSecret, cram_digest, scram_secret

SCRAM_ITERATIONS = 4096  # RFC 7677 §4: at least
ARGON2_MEMORY_KB = 19_456  # these three: OWASP's first choice; about 20 ms
ARGON2_ITERATIONS = 2
ARGON2_LANES = 1


def hash_password(password: bytes) -> str:
    """*password* as a configuration may hold it instead of itself: an Argon2id string."""
    return Argon2id(
        salt=secrets.token_bytes(16), length=32, iterations=ARGON2_ITERATIONS, lanes=ARGON2_LANES, memory_cost=ARGON2_MEMORY_KB
    ).derive_phc_encoded(password)


class Credentials:
    """The users of one configuration."""

    def __init__(self, config: Config) -> None:
        users = {user.name: user.password for user in config.smtp_users.values() if user.authentication_method == "password" and user.password}
        hashes = [stored for stored in users.values() if is_hash(stored)]
        self._key = secrets.token_bytes(32)
        self._plain = {name: stored.encode() for name, stored in users.items() if not is_hash(stored)}
        self._hashed = {name: stored for name, stored in users.items() if is_hash(stored)}
        self._nobody = max(hashes, key=cost_kb) if hashes else ""  # whose work a check costs that has no hash of its own
        self.slow = bool(hashes)  # a password takes tens of milliseconds: never in a loop
        shown = (PLAIN, LOGIN) if users else ()
        # Whoever chose one of these could not authenticate with a password of which only a hash is known.
        hidden = (SCRAM_SHA_256, CRAM_MD5) if users and not hashes else ()
        self._mechanisms = (*hidden, *shown)

    def mechanisms(self, client: ClientSettings, secure: bool) -> tuple[str, ...]:
        """What AUTH offers to *client*, whose connection is encrypted (*secure*) or not; the best first."""
        if not client.allow_auth or (client.require_starttls_before_auth and not secure):
            return ()
        if secure or client.allow_unencrypted_plain_auth:
            return self._mechanisms
        return tuple(name for name in self._mechanisms if name not in SHOWING)

    def fingerprint(self, question: PasswordQuestion) -> bytes:
        """The same for the same user and password, and worth nothing to anybody else: for whoever remembers successes."""
        return hmac.digest(self._key, question.user.encode() + b"\0" + question.password, "sha256")

    def check_password(self, question: PasswordQuestion) -> bool:
        """Whether the password is the user's; takes as long for one that is not, whoever the user may be.  Slow where `slow` says so."""
        stored = self._hashed.get(question.user)
        verified = _verify(question.password, stored or self._nobody) if self.slow else False
        if stored is not None:
            return verified
        return self._same(question.password, self._plain.get(question.user))

    def check_digest(self, question: DigestQuestion) -> bool:
        """Whether the digest was made with the user's password."""
        password = self._plain.get(question.user)
        wanted = cram_digest(password if password is not None else self._key, question.challenge)
        return hmac.compare_digest(wanted, question.digest) and password is not None

    def scram(self, user: str) -> ScramSecret:
        """What SCRAM-SHA-256 verifies *user* by.  About a millisecond."""
        salt = hmac.digest(self._key, b"salt\0" + user.encode(), "sha256")[:16]
        password = self._plain.get(user)
        secret = scram_secret(password if password is not None else self._key, salt, SCRAM_ITERATIONS)
        return secret if password is not None else secret._replace(valid=False)

    def _same(self, given: bytes, password: bytes | None) -> bool:
        """In a time that depends on neither, nor on their lengths."""
        one = hmac.digest(self._key, given, "sha256")
        other = hmac.digest(self._key, password if password is not None else self._key, "sha256")
        return hmac.compare_digest(one, other) and password is not None


def _verify(password: bytes, stored: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password, stored)
    except InvalidKey:
        return False
    return True
