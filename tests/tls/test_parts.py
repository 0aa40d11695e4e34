"""The small parts: names of a certificate, the choice by SNI, sessions, shared files, contexts that cannot be made."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import cast

import pytest

from engine.config.tls import NO_PEM, PemFile, ServerTls, client_tls
from engine.tls.certificate import names
from engine.tls.context import Contexts, TlsSetupError, client_context, server_context
from engine.tls.files import Files, publish
from engine.tls.session import SessionCache
from engine.tls.sni import Choice
from tests.certificates import Authority

AUTHORITY = Authority()
PEM = AUTHORITY.issue("mx.example.org")


@pytest.mark.parametrize(
    ("pem", "expected"),
    [
        (AUTHORITY.issue("MX.example.org", "*.Example.com", "192.0.2.1"), ("mx.example.org", "*.example.com")),
        (AUTHORITY.issue("only.common.example", alternative=False), ("only.common.example",)),
        (AUTHORITY.issue("a.example", *[f"mx{n}.example.org" for n in range(200)]), ("a.example", *[f"mx{n}.example.org" for n in range(200)])),
        (PEM + AUTHORITY.pem, ("mx.example.org",)),
    ],
    ids=["alternative", "common", "many", "chain"],
)
def test_names(pem: bytes, expected: tuple[str, ...]) -> None:
    assert names(pem) == expected


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nMAA=\n"])
def test_no_certificate_has_no_names(pem: bytes) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        names(pem)


def test_a_truncated_certificate_is_a_value_error_wherever_it_ends() -> None:
    der = ssl.PEM_cert_to_DER_cert(PEM[PEM.index(b"-----BEGIN CERT") :].decode())
    for size in range(len(der) - 1, 0, -7):
        with pytest.raises((ValueError, IndexError)):
            names(ssl.DER_cert_to_PEM_cert(der[:size]).encode())


def test_the_choice_by_name() -> None:
    one, two, wild = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(3))
    choice = Choice([(one, ("mx.example.org", "b.example.com")), (two, ("mx.example.org", "smtp.example.net")), (wild, ("*.example.com",))])
    table = {
        "mx.example.org": one, "MX.Example.ORG.": one, "smtp.example.net": two, "a.example.com": wild, "b.example.com": one,
        "a.b.example.com": None, "example.com": None, "other.example": None, "": None, None: None,
    }  # fmt: skip
    assert {name: choice.of(name) for name in table} == table


def test_sessions_are_bounded_and_of_one_context() -> None:
    cache, context, other = SessionCache(2), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    sessions = [cast(ssl.SSLSession, object()) for _ in range(3)]
    cache.put("none", context, None)
    assert len(cache) == 0
    cache.put("a", context, sessions[0])
    cache.put("b", context, sessions[1])
    assert cache.get("a", context) is sessions[0]
    cache.put("c", context, sessions[2])
    assert (cache.get("a", context), cache.get("b", context), cache.get("c", context)) == (sessions[0], None, sessions[2])
    assert cache.get("a", other) is None and "a" not in cache
    cache.forget("c")
    assert len(cache) == 0


@pytest.fixture
def shared() -> Iterator[int]:
    fd = os.memfd_create("test")
    yield fd
    os.close(fd)


def test_shared_files_change_as_a_whole(shared: int) -> None:
    early = Files(shared)
    assert early.get("/a") is None
    publish(shared, {"/a": b"1", "/b": b"2" * 10_000})
    files = Files(shared)
    assert (files.get("/a"), files.get("/b")) == (b"1", b"2" * 10_000)
    assert not files.changed() and early.changed() and early.get("/a") == b"1"
    publish(shared, {"/a": b"3"})
    assert files.changed() and files.get("/a") == b"3" and files.get("/b") is None
    publish(shared, {"/a": b"3"})
    assert not files.changed()  # written anew, and the same
    os.pwrite(shared, (7).to_bytes(8, "little"), 0)  # somebody is writing
    assert not files.changed() and files.get("/a") == b"3"


def test_contexts_are_made_once_and_anew_when_their_files_change(shared: int) -> None:
    publish(shared, {"/a": PEM})
    contexts: Contexts[ServerTls] = Contexts(Files(shared), server_context)
    settings = ServerTls((PemFile("/a"),))
    first = contexts.of(settings)
    assert contexts.of(settings) is first and contexts.refresh() == []
    publish(shared, {"/a": AUTHORITY.issue("mx.example.org")})
    assert contexts.refresh() == ["/a: read anew"]
    second = contexts.of(settings)
    assert second is not first
    publish(shared, {"/a": b"nonsense"})
    (said,) = contexts.refresh()
    assert "what was read before stays in use" in said and contexts.of(settings) is second


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (ServerTls(()), "there is no certificate"),
        (ServerTls((PemFile("/a"),), ()), "no version of TLS is allowed"),
        (ServerTls((PemFile("/a"),), ciphers="NOSUCH"), "OpenSSL knows none of them"),
        (ServerTls((PemFile("/missing"),)), "has not been read"),
        (ServerTls((PemFile("/mixed"),)), "key and certificate do not belong together"),
        (ServerTls((PemFile("/locked"),)), "and the key's password if it has one"),
        (ServerTls((PemFile("/locked", "wrong"),)), "and the key's password if it has one"),
        (ServerTls((PemFile("/a"),), ca_file="/nonsense"), "a PEM file with certificates is wanted"),
    ],
    ids=["none", "versions", "ciphers", "missing", "mixed", "locked", "wrong password", "authorities"],
)
def test_what_cannot_be_used_is_named_with_its_reason(settings: ServerTls, why: str) -> None:
    other = AUTHORITY.issue("b.example")
    mixed = PEM[: PEM.index(b"-----BEGIN CERT")] + other[other.index(b"-----BEGIN CERT") :]
    locked = AUTHORITY.issue("c.example", password="hush")
    files = Files.of({"/a": PEM, "/mixed": mixed, "/locked": locked, "/nonsense": b"nonsense"})
    with pytest.raises(TlsSetupError, match=why):
        server_context(settings, files)
    assert server_context(ServerTls((PemFile("/locked", "hush"),)), files)


def test_a_client_without_authority_verifies_nothing_and_with_one_the_name_too() -> None:
    files = Files.of({"/ca": AUTHORITY.pem})
    plain = client_context(client_tls("may", ("TLSv1.3",), "HIGH", "", NO_PEM, True), files)
    verified = client_context(client_tls("may", ("TLSv1.3",), "HIGH", "/ca", NO_PEM, True), files)
    assert (plain.verify_mode, plain.check_hostname) == (ssl.CERT_NONE, False)
    assert (verified.verify_mode, verified.check_hostname) == (ssl.CERT_REQUIRED, True)
