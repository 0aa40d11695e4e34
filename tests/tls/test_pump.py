"""Two pumps back to back: whatever is said on one side comes out on the other, wherever the bytes between them are cut."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config.tls import NO_PEM, VERSIONS, PemFile, ServerTls, client_tls
from engine.tls.context import client_context, server_context
from engine.tls.files import Files
from engine.tls.pump import Pump, TlsError
from tests.certificates import Authority

AUTHORITY = Authority()
FILES = Files.of({"/server.pem": AUTHORITY.issue("mx.example.org"), "/ca.pem": AUTHORITY.pem})
Cut = Callable[[bytes], Iterator[bytes]]


def _contexts(*versions: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = server_context(ServerTls((PemFile("/server.pem"),), versions), FILES)
    return client_context(client_tls("must", versions, "HIGH:!ADH", "/ca.pem", NO_PEM, True), FILES), server


CONTEXTS = {version: _contexts(version) for version in VERSIONS[2:]}


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


def turn(client: Pump, server: Pump, cut: Cut) -> tuple[bytes, bytes]:
    """Carry bytes until nobody has any left; what came out (at the client, at the server)."""
    at_client = at_server = b""
    while True:
        up, down = client.to_send(), server.to_send()
        if not up and not down:
            return at_client, at_server
        for piece in cut(up):
            at_server += server.receive(piece)
        for piece in cut(down):
            at_client += client.receive(piece)


def pair(version: str, cut: Cut = whole, session: ssl.SSLSession | None = None) -> tuple[Pump, Pump]:
    """Two pumps that have shaken hands."""
    ours, theirs = CONTEXTS[version]
    client, server = Pump(ours, server_name="mx.example.org", session=session), Pump(theirs)
    client.begin()
    assert turn(client, server, cut) == (b"", b"")
    assert client.established and server.established
    assert client.protocol == server.protocol == version
    assert client.cipher == server.cipher != ""
    return client, server


@pytest.mark.parametrize("version", CONTEXTS)
@pytest.mark.parametrize("cut", [whole, bytewise])
def test_what_goes_in_comes_out(version: str, cut: Cut) -> None:
    client, server = pair(version, cut)
    client.send(b"EHLO client.example\r\n")
    server.send(b"250 ok\r\n" * 5000)
    assert turn(client, server, cut) == (b"250 ok\r\n" * 5000, b"EHLO client.example\r\n")


@settings(max_examples=40, deadline=None)
@given(version=st.sampled_from(sorted(CONTEXTS)), said=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4), at=st.integers(1, 9000))
def test_cut_anywhere(version: str, said: list[bytes], at: int) -> None:
    def cut(data: bytes) -> Iterator[bytes]:
        while data:
            yield data[:at]
            data = data[at:]

    client, server = pair(version, cut)
    for data in said:
        client.send(data)
        server.send(data[::-1])
    assert turn(client, server, cut) == (b"".join(data[::-1] for data in said), b"".join(said))


@pytest.mark.parametrize("version", CONTEXTS)
def test_a_goodbye_ends_what_the_peer_reads_and_is_not_waited_for(version: str) -> None:
    client, server = pair(version)
    server.send(b"221 bye\r\n")
    server.close()
    assert turn(client, server, whole)[0] == b"221 bye\r\n"
    assert client.ended and not server.ended


@pytest.mark.parametrize("version", CONTEXTS)
def test_a_session_goes_on(version: str) -> None:
    client, server = pair(version)
    server.send(b"250 ok\r\n")
    turn(client, server, whole)
    assert not client.resumed
    again, other = pair(version, session=client.session)
    assert again.resumed and other.resumed


@pytest.mark.parametrize("version", CONTEXTS)
def test_a_changed_byte_ends_the_connection(version: str) -> None:
    client, server = pair(version)
    client.send(b"MAIL FROM:<a@example.org>\r\n")
    sent = bytearray(client.to_send())
    sent[-1] ^= 1
    with pytest.raises(TlsError, match="bad"):
        server.receive(bytes(sent))
    assert server.to_send()  # the alert


def test_plaintext_instead_of_a_handshake() -> None:
    _, theirs = CONTEXTS["TLSv1.3"]
    server = Pump(theirs)
    with pytest.raises(TlsError):
        server.receive(b"EHLO injected.example\r\n")


@pytest.mark.parametrize(
    ("issued", "name", "why"),
    [
        (Authority().issue("mx.example.org"), "mx.example.org", "certificate verify failed: .*"),
        (AUTHORITY.issue("mx.example.org"), "other.example.org", "certificate verify failed: Hostname mismatch.*"),
        (AUTHORITY.issue("mx.example.org", days=-1), "mx.example.org", "certificate verify failed: certificate has expired"),
    ],
    ids=["unknown authority", "other name", "expired"],
)
def test_a_wrong_certificate_is_refused_where_an_authority_is_named(issued: bytes, name: str, why: str) -> None:
    server = Pump(server_context(ServerTls((PemFile("/x"),)), Files.of({"/x": issued})))
    client = Pump(CONTEXTS["TLSv1.3"][0], server_name=name)
    client.begin()
    with pytest.raises(TlsError, match=why):
        turn(client, server, whole)


def test_a_name_that_no_certificate_can_be_for() -> None:
    with pytest.raises(TlsError, match="no host name"):
        Pump(CONTEXTS["TLSv1.3"][0], server_name="." + "a" * 70)


def test_nothing_is_sent_before_the_handshake() -> None:
    client = Pump(CONTEXTS["TLSv1.3"][0], server_name="mx.example.org")
    with pytest.raises(TlsError):
        client.send(b"EHLO\r\n")
