"""What fuzzing begins with beside the corpus: the tables of the unit tests, so that it need not find the words of SMTP by chance."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rrset

from tests.bounce.test_dsn import HEADERS
from tests.config.test_properties import MORE, SAMPLE
from tests.policy.test_access import TRICKS
from tests.smtp.dialog import DIALOGS, read_dialog
from tests.smtp.test_client import OFFERS

FAILURE = b"u@example.org\0rfc822;U@example.org\0smtp;550 5.1.1 no\0mx (192.0.2.1)\0s@example.com\0id 1\0"
GOOD = b"250 ok\r\n\0" * 4 + b"354 go\r\n\0250 taken\r\n"
ADDRESSES = (
    "user@relay.example", "a@b.wild.example", "x@xn--bcher-kva.example", "a@[10.1.2.3]", "only@partner.example", "a@foobar.example", "postmaster",
)  # fmt: skip
COMMANDS = (
    "MAIL FROM:<a@example.com> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+2Bb",
    "MAIL FROM:<\u00fc@example.com> BODY=BINARYMIME SMTPUTF8",
    "BDAT 5 LAST",
    "RCPT TO:<\"a b\"@[IPv6:2001:db8::1]> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@b",
    "RCPT TO:<@a.example,@b.example:c@example.com>", "EHLO [192.0.2.1]", "VRFY x", "data", "MAIL FROM:<>",
)  # fmt: skip


def seeds(target: str) -> list[bytes]:
    """Inputs for *target*; [] if it needs none."""
    return _SEEDS[target]()


def _dialogs() -> list[bytes]:
    return [read_dialog(path).sent[:600] for path in sorted(DIALOGS.glob("*.txt"))]


def _responses() -> list[bytes]:
    made = []
    for records in (["CNAME x.mail.example."], ["MX 10 a.mail.example.", "MX 0 ."], ["A 192.0.2.1"], ["AAAA 2001:db8::1"], []):
        message = dns.message.make_response(dns.message.make_query("mail.example", "MX"))
        for record in records:
            kind, value = record.split(" ", 1)
            message.answer.append(dns.rrset.from_text("mail.example.", 60, "IN", kind, value))
        message.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", "ns.example. hm.example. 1 2 3 4 5"))
        message.flags |= dns.flags.RA
        made.append(message.to_wire())
    return made


def _replies() -> list[bytes]:
    hello = b"220 mx\r\n\0" + OFFERS + b"\0"
    refusals = (b"450 4.2.1 busy\r\n", b"550-5.1.1 no\r\n550 such user\r\n", b"421 4.3.2 bye\r\n", b"452 4.5.3 too many\r\n")
    talks = [hello + GOOD, hello + GOOD.replace(b"\0", b"")]
    talks += [hello + GOOD.replace(b"250 ok\r\n\0", b"250 ok\r\n\0" + refusal + b"\0", 1) for refusal in refusals]
    return [flag + talk for talk in talks for flag in (b"\1", b"\2")]


_SEEDS = {
    "access": lambda: [text.encode("utf-8", "surrogateescape") for text in (*TRICKS, *ADDRESSES)],
    "body": lambda: [b"a\r\n.\r\n", b".\r\n", b"..a\r\n\r\n.b\r\n.\r\nQUIT", b"a\nb\r\n.\r\n", b"\r\n.\r\r\n.\n\r\n.\r\n"],
    "client": _replies,
    "command": lambda: [text.encode() + b"\r\n" for text in COMMANDS] + [text.partition(" ")[2].encode() for text in COMMANDS],
    "config": lambda: [SAMPLE.encode(), MORE.encode(), *(b"<" + part.encode() for part in SAMPLE.split("<")[1:])],
    "dns": _responses,
    "dsn": lambda: [FAILURE + way + HEADERS for way in (b"", b"F: x\r\n")],
    "headers": lambda: [HEADERS + b"text", b"Received : a\r\n b\r\nX-Virtual-MTA:\r\n\r\n"],
    "server": _dialogs,
}
