"""Nobody relays through us whom no rule allows: every known trick, over the wire, at a real engine with relay-domains of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

STRANGER = "127.0.0.2"
CLIENT = "127.0.0.1"
CONF = r"""
host-name mx.engine.example
relay-domain relay.example
relay-domain *.wild.example
relay-domain bücher.example
relay-domain [10/8]
relay-address only@partner.example
relay-address /@foo(bar)?\.example$/
smtp-listener 127.0.0.1:@port@
<source 127.0.0.1>
    always-allow-relaying yes
    process-x-virtual-mta yes
</source>
<virtual-mta other>
    smtp-source-host 127.0.0.12 other.example
</virtual-mta>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""

# name -> recipient; each is well-formed, and each gets 550 5.7.1
TRICKS = {
    "plain": "victim@evil.example",
    "plain, in capitals": "VICTIM@EVIL.EXAMPLE",
    "source route through a relay-domain": "@relay.example:victim@evil.example",
    "source route through us": "@mx.engine.example:victim@evil.example",
    "source route of two hops": "@relay.example,@mx.engine.example:victim@evil.example",
    "source route that hides a percent": "@evil.example:victim%evil.example@relay.example",
    "percent hack over a relay-domain": "victim%evil.example@relay.example",
    "percent hack, twice": "victim%evil.example%relay.example@relay.example",
    "percent hack over us": "victim%evil.example@mx.engine.example",
    "percent hack over our address": "victim%evil.example@[127.0.0.1]",
    "percent hack over a wildcard": "victim%evil.example@sub.wild.example",
    "percent hack over a relay-address regex": "victim%evil.example@foo.example",
    "percent hack over a literal relay-domain": "victim%evil.example@[10.1.2.3]",
    "quoted address over a relay-domain": '"victim@evil.example"@relay.example',
    "quoted address with a quoted pair": r'"victim\@evil.example"@relay.example',
    "quoted address over us": '"victim@evil.example"@mx.engine.example',
    "quoted address over our address": '"victim@evil.example"@[127.0.0.1]',
    "quoted percent hack": '"victim%evil.example"@relay.example',
    "quoted percent hack with a quoted pair": r'"victim\%evil.example"@relay.example',
    "quoted postmaster of another": '"postmaster@evil.example"@mx.engine.example',
    "quoted blank": '"victim evil.example"@relay.example',
    "quoted nothing": '""@relay.example',
    "bang path over a relay-domain": "evil.example!victim@relay.example",
    "bang path over us": "evil.example!victim@mx.engine.example",
    "bang path, quoted": '"evil.example!victim"@relay.example',
    "bang path the other way round": "relay.example!victim@evil.example",
    "quoted list": '"victim@evil.example,user"@relay.example',
    "look-alike: relay-domain as a prefix": "victim@relay.example.evil.example",
    "look-alike: relay-domain as a suffix": "victim@evilrelay.example",
    "look-alike: with a hyphen": "victim@evil-relay.example",
    "look-alike: hyphen for dot": "victim@relay-example",
    "look-alike: a subdomain": "victim@sub.relay.example",
    "look-alike: cut short": "victim@relay.exampl",
    "look-alike: the wildcard's own name": "victim@wild.example",
    "look-alike: end of a wildcard": "victim@evilwild.example",
    "look-alike: a letter before a relay-address": "xonly@partner.example",
    "look-alike: more behind a relay-address": "only@partner.example.evil.example",
    "look-alike: more behind a regex": "victim@foo.example.evil.example",
    "look-alike: a letter before a regex": "victim@xfoo.example",
    "IDNA: our A-label as a prefix": "victim@xn--bcher-kva.example.evil.example",
    "IDNA: without its mark": "victim@bucher.example",
    "IDNA: another A-label": "victim@xn--bucher-kva.example",
    "IDNA: look-alike A-label": "victim@xn--relay-4nf.example",
    "literal: somebody else": "victim@[198.51.100.7]",
    "literal: IPv6": "victim@[IPv6:2001:db8::7]",
    "literal: our own address": "victim@[127.0.0.1]",
    "literal: next to a literal relay-domain": "victim@[11.1.2.3]",
    "literal: postmaster of another host": "postmaster@[198.51.100.7]",
}

# what is no address at all, in whatever form it hides one: refused for good, 550 or 501 or 553 as the fault is
MALFORMED = {
    "nested addresses": "victim@evil.example@relay.example",
    "nested the other way round": "user@relay.example@evil.example",
    "nested brackets": "<victim@evil.example>@relay.example",
    "two addresses": "user@relay.example,victim@evil.example",
    "two addresses, semicolon": "user@relay.example;victim@evil.example",
    "an address in quotes": '"victim@evil.example"',
    "bang path without a domain": "evil.example!victim",
    "a closing bracket inside": "victim@evil.example>.wild.example",
    "a blank inside": "victim@evil.example .wild.example",
    "a slash inside": "victim@evil.example/.wild.example",
    "NUL inside": "victim@evil.example\0.wild.example",
    "a dot too many": "victim@relay.example..",
    "a leading dot": "victim@.relay.example",
    "literal with a name": "victim@[relay.example]",
    "literal with something behind": "victim@[10.1.2.3].relay.example",
    "IDNA: U-label of a relay-domain's neighbour": "victim@bücher.example.evil.example",
    "IDNA: ideographic full stop": "victim@relay.example\u3002evil.example",
    "IDNA: full-width full stop": "victim@evil\uff0eexample",
    "IDNA: Cyrillic letter": "victim@r\u0435lay.example",
    "IDNA: full-width letter": "victim@\uff52elay.example",
    "full-width at sign": "victim\uff20evil.example@relay.example",
    "full-width percent sign": "victim\uff05evil.example@relay.example",
    "nobody": "@relay.example",
    "nowhere": "victim@",
}

ALLOWED = [
    "user@relay.example",
    "user@RELAY.Example",
    "user@a.b.wild.example",
    "user@xn--bcher-kva.example",
    "user@[10.1.2.3]",
    "only@partner.example",
]


class Wire:
    """An SMTP client that sends any bytes."""

    def __init__(self, port: int, source: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))
        self._replies = self._socket.makefile("rb")
        self.reply()

    def ask(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\r\n")
        return self.reply()

    def reply(self) -> str:
        while (line := self._replies.readline()) and line[3:4] == b"-":
            continue
        return line.decode("latin-1").rstrip()

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


@contextmanager
def transaction(engine: Engine, source: str = STRANGER, hello: str = "client.example", sender: str = "a@client.example") -> Iterator[Wire]:
    """A client after MAIL."""
    wire = Wire(engine.port, source)
    try:
        assert wire.ask(f"EHLO {hello}").startswith("250")
        assert wire.ask(f"MAIL FROM:<{sender}>").startswith("250")
        yield wire
    finally:
        wire.close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Where everything would go that got through."""
    with Sink("accept-all") as sink:
        yield sink


def test_tricks_get_550_5_7_1_and_none_comes_through(make_engine: MakeEngine, sink: Sink) -> None:
    engine = make_engine(CONF.format(port=sink.port))
    got: dict[str, str] = {}
    for name, address in (TRICKS | MALFORMED).items():
        with transaction(engine) as wire:
            got[name] = wire.ask(f"RCPT TO:<{address}>")
            assert wire.ask("DATA").startswith(("503", "554")), f"{name}: DATA without a recipient"
    assert {name: got[name] for name in TRICKS if not got[name].startswith("550 5.7.1")} == {}
    assert {name: got[name] for name in MALFORMED if not got[name].startswith(("550 5.7.1", "501 5.5.4"))} == {}
    assert len(TRICKS) >= 20
    assert "0 messages" in engine.run("status").stdout
    assert not sink.messages


def test_who_one_claims_to_be_changes_nothing(make_engine: MakeEngine, sink: Sink) -> None:
    engine = make_engine(CONF.format(port=sink.port))
    for hello in ("mx.engine.example", "[127.0.0.1]", "localhost", "relay.example"):
        for sender in ("", "a@mx.engine.example", "postmaster@mx.engine.example", "a@relay.example", "victim@evil.example"):
            with transaction(engine, hello=hello, sender=sender) as wire:
                assert wire.ask("RCPT TO:<victim@evil.example>").startswith("550 5.7.1"), (hello, sender)
                assert wire.ask("RCPT TO:<victim@evil.example> NOTIFY=NEVER").startswith("550 5.7.1"), (hello, sender)
                assert wire.ask("RCPT TO:<victim@evil.example> ORCPT=rfc822;user@relay.example").startswith("550 5.7.1"), (hello, sender)


def test_a_good_recipient_opens_no_door_for_a_bad_one(make_engine: MakeEngine, sink: Sink) -> None:
    engine = make_engine(CONF.format(port=sink.port))
    with transaction(engine) as wire:
        assert wire.ask("RCPT TO:<user@relay.example>").startswith("250")
        assert wire.ask("RCPT TO:<victim@evil.example>").startswith("550 5.7.1")
        assert wire.ask("DATA").startswith("354")
        text = "X-Virtual-MTA: other\r\nTo: victim@evil.example\r\nBcc: victim@evil.example\r\n\r\nbody\r\n."
        assert wire.ask(text).startswith("250")
    sink.wait_for_messages(1)
    (record,) = engine.wait_for_records(1, "d")
    assert record["rcpt"] == "user@relay.example"
    assert record["vmta"] == "{default}"  # control headers are obeyed only from those who may relay
    assert [message.recipients for message in sink.messages] == [("user@relay.example",)]


def test_what_rules_allow_goes_through(make_engine: MakeEngine, sink: Sink) -> None:
    engine = make_engine(CONF.format(port=sink.port))
    with transaction(engine) as wire:
        assert {address: wire.ask(f"RCPT TO:<{address}>")[:3] for address in ALLOWED} == dict.fromkeys(ALLOWED, "250")
        assert wire.ask("RCPT TO:<nobody@mx.engine.example>").startswith("550 5.1.1")
        assert wire.ask("RCPT TO:<postmaster>").startswith("250")
    with transaction(engine, source=CLIENT) as wire:
        assert wire.ask("RCPT TO:<friend@elsewhere.example>").startswith("250")
        assert wire.ask("DATA").startswith("354")
        assert wire.ask("Subject: x\r\n\r\nbody\r\n.").startswith("250 2.6.0")
    eventually(lambda: [message.recipients for message in sink.messages] == [("friend@elsewhere.example",)], "the client's message alone")
