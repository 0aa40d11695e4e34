"""Each scripted peer does what its name says, seen by smtplib or by a bare socket."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.sinks import BEHAVIOURS, Sink

TEXT = b"Subject: hello\r\n\r\nfirst\r\n.dot\r\n..two\r\nlast\r\n"


@contextmanager
def client(sink: Sink) -> Iterator[smtplib.SMTP]:
    peer = smtplib.SMTP(sink.host, sink.port, local_hostname="client.example", timeout=10)
    try:
        yield peer
    finally:
        peer.close()


def send(sink: Sink, *recipients: str, text: bytes = TEXT) -> dict[str, tuple[int, bytes]]:
    with client(sink) as peer:
        refused = peer.sendmail("from@client.example", list(recipients or ("to@d0.example",)), text)
        peer.quit()
        return refused


class Raw:
    """A bare socket to the sink that reads what comes, to the end or to a pattern."""

    def __init__(self, sink: Sink) -> None:
        self.sock = socket.create_connection((sink.host, sink.port), timeout=10)
        self.seen = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def until(self, pattern: bytes) -> bytes:
        while pattern not in self.seen:
            data = self.sock.recv(65536)
            assert data, f"closed before {pattern!r}: {self.seen[-200:]!r}"
            self.seen += data
        taken, self.seen = self.seen, b""
        return taken

    def say(self, *lines: str) -> None:
        self.sock.sendall("".join(line + "\r\n" for line in lines).encode())

    def rest(self) -> bytes:
        try:
            while data := self.sock.recv(65536):
                self.seen += data
        except ConnectionResetError:
            pass  # closed with our bytes unread: closed all the same
        return self.seen

    def upto_data(self) -> None:
        self.until(b"\r\n")
        self.say("EHLO client.example")
        self.until(b"250 ENHANCEDSTATUSCODES\r\n")
        self.say("MAIL FROM:<from@client.example>", "RCPT TO:<to@d0.example>", "DATA")
        self.until(b"354 go ahead\r\n")


def test_accept_all_keeps_what_came_and_from_whom() -> None:
    with Sink(host="127.0.0.7") as sink:
        assert send(sink, "a@d0.example", "b@d1.example") == {}
    (message,) = sink.messages
    assert message.sender == "from@client.example"
    assert message.recipients == ("a@d0.example", "b@d1.example")
    assert message.raw == TEXT.replace(b"\r\n.", b"\r\n..")
    assert message.content == TEXT
    assert (message.header, message.body) == (b"Subject: hello\r\n", TEXT.partition(b"\r\n\r\n")[2])
    assert message.ehlo == "client.example"
    assert message.peer == sink.connections[0].peer
    assert sink.connections[0].ended == "quit"


@pytest.mark.parametrize("body", [b"", b".", b"..\r\n.", b"x" * 300_000])
def test_bodies_of_any_shape_come_whole(body: bytes) -> None:
    with Sink() as sink:
        send(sink, text=b"A: b\r\n\r\n" + body + b"\r\n")
    assert sink.messages[0].content == b"A: b\r\n\r\n" + body + b"\r\n"


def test_an_empty_message_and_what_is_pipelined_behind_it() -> None:
    with Sink() as sink, Raw(sink) as peer:
        peer.upto_data()
        peer.say(".", "NOOP", "QUIT")
        assert peer.rest() == b"250 2.0.0 taken\r\n250 2.0.0 ok\r\n221 2.0.0 bye\r\n"
    assert sink.messages[0].raw == b""


def test_refuse_connection() -> None:
    with Sink("refuse-connection") as sink, pytest.raises(ConnectionRefusedError):
        socket.create_connection((sink.host, sink.port), timeout=10)


def test_silent_greeting() -> None:
    with Sink("silent-greeting") as sink, Raw(sink) as peer:
        peer.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.sock.recv(1)


@pytest.mark.parametrize(("name", "code"), [("greeting-421", 421), ("greeting-554", 554)])
def test_greetings(name: str, code: int) -> None:
    with Sink(name) as sink, pytest.raises(smtplib.SMTPConnectError) as refused:
        send(sink)
    assert refused.value.smtp_code == code


def test_ehlo_rejected_still_takes_helo() -> None:
    with Sink("ehlo-rejected") as sink:
        assert send(sink) == {}
    assert [command.split()[0] for command in sink.connections[0].commands[:2]] == ["ehlo", "helo"]


@pytest.mark.parametrize(
    ("name", "absent"), [("no-extensions", {"pipelining", "size", "8bitmime"}), ("no-pipelining", {"pipelining"}), ("no-8bitmime", {"8bitmime"})]
)
def test_missing_extensions(name: str, absent: set[str]) -> None:
    with Sink(name) as sink, client(sink) as peer:
        peer.ehlo()
        assert {"pipelining", "size", "8bitmime"} - set(peer.esmtp_features) == absent


@pytest.mark.parametrize(("name", "code"), [("mail-4xx", 451), ("mail-5xx", 550), ("421-at-mail", 421)])
def test_mail_refused(name: str, code: int) -> None:
    with Sink(name) as sink, pytest.raises(smtplib.SMTPSenderRefused) as refused:
        send(sink)
    assert refused.value.smtp_code == code


@pytest.mark.parametrize(("name", "code"), [("rcpt-4xx", 450), ("rcpt-5xx", 550)])
def test_chosen_recipients_refused(name: str, code: int) -> None:
    with Sink(name, addresses={"bad@d0.example"}) as sink:
        refused = send(sink, "good@d0.example", "bad@d0.example")
    assert {address: reply[0] for address, reply in refused.items()} == {"bad@d0.example": code}
    assert sink.messages[0].recipients == ("good@d0.example",)


def test_all_recipients_refused() -> None:
    with Sink("rcpt-5xx") as sink, pytest.raises(smtplib.SMTPRecipientsRefused):
        send(sink)
    assert sink.messages == []


def test_452_after_n() -> None:
    with Sink("rcpt-452-after-n", limit=2) as sink:
        refused = send(sink, *(f"u{number}@d0.example" for number in range(5)))
    assert sorted(refused) == ["u2@d0.example", "u3@d0.example", "u4@d0.example"]
    assert {code for code, _ in refused.values()} == {452}


@pytest.mark.parametrize(
    ("name", "code"), [("data-4xx", 451), ("data-5xx", 554), ("dot-4xx", 451), ("dot-5xx", 554), ("421-at-data", 421), ("421-at-dot", 421)]
)
def test_data_refused(name: str, code: int) -> None:
    with Sink(name) as sink, pytest.raises(smtplib.SMTPDataError) as refused:
        send(sink)
    assert refused.value.smtp_code == code
    assert sink.messages == []


@pytest.mark.parametrize("stage", ["ehlo", "rcpt"])
def test_421_closes(stage: str) -> None:
    with Sink(f"421-at-{stage}") as sink, Raw(sink) as peer:
        peer.until(b"220 ")
        peer.say(*{"ehlo": ["EHLO c"], "rcpt": ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>"]}[stage])
        assert peer.rest().endswith(b"421 4.3.2 closing\r\n")


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("drop-before-greeting", b""),
        ("drop-after-greeting", b"220 sink.example ESMTP\r\n"),
        ("drop-after-ehlo", b"220 sink.example ESMTP\r\n"),
        ("drop-after-mail", b"250 ENHANCEDSTATUSCODES\r\n"),
        ("drop-after-rcpt", b"250 2.1.0 sender ok\r\n"),
        ("drop-after-data", b"250 2.1.5 recipient ok\r\n"),
        ("drop-after-dot", b"354 go ahead\r\n"),
    ],
)
def test_drops(name: str, last: bytes) -> None:
    with Sink(name) as sink, Raw(sink) as peer:
        conversation = ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA", "A: b", "", "text", "."]
        if name not in ("drop-before-greeting", "drop-after-greeting"):
            peer.say(*conversation[: {"ehlo": 1, "mail": 2, "rcpt": 3, "data": 4, "dot": 8}[name.rpartition("-")[2]]])
        assert peer.rest().endswith(last)
    assert sink.messages == []
    assert sink.connections[0].ended == "dropped"


def test_deliver_then_drop_keeps_the_message() -> None:
    with Sink("deliver-then-drop") as sink, pytest.raises(smtplib.SMTPServerDisconnected):
        send(sink)
    assert len(sink.messages) == 1


def test_drop_mid_body() -> None:
    with Sink("drop-mid-body", after_bytes=10) as sink, Raw(sink) as peer:
        peer.upto_data()
        peer.say("Subject: more than ten bytes")
        assert peer.rest() == b""


def test_stall_mid_body_blocks_the_sender() -> None:
    with Sink("stall-mid-body", after_bytes=10) as sink, Raw(sink) as peer:
        peer.upto_data()
        peer.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.sock.sendall(b"x" * 50_000_000)


def test_byte_by_byte_and_multi_line_are_still_smtp() -> None:
    for name in ("byte-by-byte", "multi-line"):
        with Sink(name) as sink:
            assert send(sink) == {}
        assert len(sink.messages) == 1


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("malformed-no-code", b"hello, nice"),
        ("malformed-mixed-codes", b"250-first\r\n251-second\r\n550 third\r\n"),
        ("malformed-binary", bytes(range(256))),
        ("malformed-empty-line", b"\r\n"),
        ("malformed-endless-lines", b"250-and on\r\n" * 100_000),
        ("malformed-long-line", b"x" * 10_000_000),
    ],
)
@pytest.mark.parametrize("stage", ["greeting", "mail"])
def test_malformed_replies(name: str, pattern: bytes, stage: str) -> None:
    with Sink(name, stage=stage) as sink, Raw(sink) as peer:
        if stage == "mail":
            peer.until(b"220 ")
            peer.say("MAIL FROM:<a@b.example>")
        seen = bytearray()
        while pattern not in seen[-len(pattern) - 4096 :]:
            data = peer.sock.recv(1 << 20)
            assert data
            seen += data


def test_extra_replies() -> None:
    with Sink("extra-replies", stage="ehlo") as sink, Raw(sink) as peer:
        peer.until(b"220 ")
        peer.say("EHLO c")
        assert peer.until(b"way\r\n").endswith(b"250 ENHANCEDSTATUSCODES\r\n250 2.0.0 and by the way\r\n")


@pytest.mark.parametrize("name", ["354-after-refusals"])
def test_354_after_all_recipients_were_refused(name: str) -> None:
    with Sink(name) as sink, Raw(sink) as peer:
        peer.until(b"220 ")
        peer.say("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA")
        assert b"550 5.1.1 no such user\r\n354 go ahead\r\n" in peer.until(b"354 go ahead\r\n")
        peer.say(".")
        assert peer.until(b"\r\n").startswith(b"554")
    assert sink.messages == []


def test_size_limit_at_mail_and_at_the_dot() -> None:
    with Sink("size-limit", limit_bytes=100) as sink:
        with pytest.raises(smtplib.SMTPSenderRefused) as at_mail:
            send(sink, text=b"x" * 200)
        with Raw(sink) as peer:
            peer.upto_data()
            peer.say("x" * 200, ".")
            assert peer.until(b"\r\n").startswith(b"552")
    assert at_mail.value.smtp_code == 552
    assert sink.messages == []


def test_slow_replies_come_late_and_end_with_the_sink() -> None:
    with Sink("slow-replies", stage="greeting", delay_s=600) as sink, Raw(sink) as peer:
        peer.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.sock.recv(1)
    with Sink("slow-replies", delay_s=0.01) as sink:
        assert send(sink) == {}


def test_behaviour_changes_while_it_runs() -> None:
    with Sink("greeting-421") as sink:
        with pytest.raises(smtplib.SMTPConnectError):
            send(sink)
        sink.behave("accept-all")
        assert send(sink) == {}
    assert len(sink.connections) == 2


def test_unknown_options_and_names_are_mistakes() -> None:
    with pytest.raises(KeyError):
        Sink("accept-some")
    with pytest.raises(TypeError, match="dot-4xx has no option adresses"):
        Sink("dot-4xx", adresses={"a@b.example"})


def test_data_354_always() -> None:
    with Sink("data-354-always") as sink, Raw(sink) as peer:
        peer.until(b"220 ")
        peer.say("DATA")
        peer.until(b"354 ")


def test_every_behaviour_has_its_name() -> None:
    assert all(cls.name == name for name, cls in BEHAVIOURS.items())
