"""What a configuration says of TLS, as values that can be compared and kept in tables: for a listening place, and for a destination."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
SUITES = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256")  # what OpenSSL offers with TLS 1.3
CIPHERS = "HIGH:!ADH:@STRENGTH"


def versions(*allowed: bool) -> tuple[str, ...]:
    """Those of VERSIONS that are *allowed*, each by its place."""
    return tuple(version for version, yes in zip(VERSIONS, allowed, strict=True) if yes)


class PemFile(NamedTuple):
    """A file with a key and its certificate chain, and the key's password."""

    path: str
    password: str = ""

    def __repr__(self) -> str:
        return f"PemFile({self.path!r})"

    def __str__(self) -> str:
        """As it may be shown; another password is written differently, within one process."""
        return f"{self.path} (password {hash(self.password) & 0xFFFF:04x})" if self.password else self.path


NO_PEM = PemFile("")


class ServerTls(NamedTuple):
    """What a listening place offers; no certificate: no TLS."""

    certificates: tuple[PemFile, ...] = ()  # the first for clients that name no host or one that is in none of them
    versions: tuple[str, ...] = VERSIONS[2:]
    ciphers: str = CIPHERS
    ca_file: str = ""  # who signs clients' certificates; "": none is asked for

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it needs."""
        return (*(pem.path for pem in self.certificates), *filter(None, [self.ca_file]))


class ClientTls:
    """How we speak with a destination; equal policies are the same object, so that connections are told apart by it at no cost."""

    __slots__ = ("ca_file", "certificate", "ciphers", "mode", "resumes", "versions")

    def __init__(
        self, mode: Literal["off", "may", "must"], versions: tuple[str, ...], ciphers: str, ca_file: str, certificate: PemFile, resumes: bool
    ) -> None:
        self.mode = mode  # may: where it is offered, else in the clear
        self.versions = versions
        self.ciphers = ciphers
        self.ca_file = ca_file  # who must have signed the peer's certificate, which must be for its name; "": nothing is verified
        self.certificate = certificate  # that we show, if asked
        self.resumes = resumes

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that it needs."""
        return tuple(filter(None, [self.ca_file, self.certificate.path]))


client_tls = lru_cache(maxsize=None)(ClientTls)  # as many as <domain> sections combine to: the configuration bounds them
OFF = client_tls("off", (), "", "", NO_PEM, False)
