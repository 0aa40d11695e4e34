"""Certificates made on the spot: `authority = Authority(); pem = authority.issue("mx.example.org")` is key, certificate and chain in one."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey, password: str) -> bytes:
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


class Authority:
    """Signs what it is asked to; `pem` is its own certificate."""

    def __init__(self, name: str = "Test Authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = (
            self._builder(self._name, self._key, days=30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, password: str = "", days: int = 30, alternative: bool = True) -> bytes:
        """Key and certificate for *names*, the first being its common name; *days* below 0: expired; *alternative*: with a subjectAltName."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(names[0]), key, days)
        if alternative:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return _key_pem(key, password) + certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - datetime.timedelta(days=60))
            .not_valid_after(_now() + datetime.timedelta(days=days))
        )


def client_context(authority: Authority | None = None, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's context that trusts *authority*, or anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority.pem.decode())
    for name, version in versions.items():
        setattr(context, name, version)
    return context


def server_context(pem: bytes, directory: Path) -> ssl.SSLContext:
    """A server's context with *pem*, by way of a file in *directory*."""
    path = directory / "server.pem"
    path.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
