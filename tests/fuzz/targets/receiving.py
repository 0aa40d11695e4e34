"""What a client's bytes reach first: command lines, and the whole server core."""

from __future__ import annotations

import re

from engine import _reference, fastpath
from engine.errors import LocalProtocolError
from engine.mail.envelope import NEEDS_BINARYMIME, NEEDS_SMTPUTF8
from engine.smtp.command import read_mail, read_rcpt, write_mail, write_rcpt
from engine.smtp.extensions import Parameters, format_rcpt_parameters
from engine.smtp.server import Phase, ServerConnection, ServerLimits
from tests.fuzz.cuts import cuts
from tests.smtp.postbox import QUEUED, Mail, Postbox

ADDRESS = re.compile(r'(?:[!#-\'*+/-9=?A-Z^-~.-]+|"[ -~]*")@(?:[A-Za-z0-9.-]+|\[[0-9A-Za-z.:]+\])')
REPLIES = re.compile(rb"(?:[245][0-9]{2}(?:-[ -~]*\r\n[245][0-9]{2})*(?: [ -~]*)\r\n|354 [ -~]*\r\n)*")
LIMITS = ServerLimits(
    "mx.example.org", max_line_bytes=200, max_errors=5, max_commands_without_mail=20, max_message_size_bytes=400, max_rcpt_per_message=3,
    smtputf8=True, chunking=True,
)  # fmt: skip
UTF8 = frozenset(("SMTPUTF8",))
REPLY_BYTES = 200  # of any of ours
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def command(data: bytes) -> object:
    """One command line, and its argument as MAIL's and RCPT's."""
    end, verb, argument = found = fastpath.read_command(data)
    assert found == _reference.read_command(data)
    seen: list[object] = [found]
    if end >= 0:
        assert data[:end].endswith(b"\r\n") and BARE.search(data[: end - 2]) is None
        assert verb == verb.upper() and b" " not in verb and argument == argument.strip(b" \t")
    elif end == fastpath.BARE_EOL:
        assert BARE.search(data) is not None
    for text in dict.fromkeys((argument, data)):
        for keyword in (b"FROM:", b"TO:"):
            common = fastpath.parse_path(text, keyword)
            assert common == _reference.parse_path(text, keyword)
        seen += [_mail(text), _rcpt(text), _wide(text)]
    return seen


def _wide(text: bytes) -> object:
    """The same where SMTPUTF8 is offered, and was said."""
    seen: list[object] = []
    for read, keyword, address_of in ((read_mail(text, UTF8), b"MAIL FROM:", write_mail), (read_rcpt(text, True), b"RCPT TO:", write_rcpt)):
        if isinstance(read, bytes):
            assert REPLIES.fullmatch(read)
            seen.append(read)
            continue
        address, parameters = read
        assert len(address.splitlines()) <= 1 and (not address.isascii() or not address or _is_address(address) or address.lower() == "postmaster")
        line = address_of(address, utf8=True)
        assert line.startswith(keyword) and line.count(b"\r") == line.count(b"\n") == 1
        seen.append((address, _shown(parameters)))
    return seen


def _mail(text: bytes) -> object:
    read = read_mail(text)
    if isinstance(read, bytes):
        assert REPLIES.fullmatch(read)
        return read
    sender, parameters = read
    assert not sender or _is_address(sender)
    line = write_mail(sender, size_bytes=parameters.size_bytes, eight_bit=parameters.body == "8BITMIME", ret=parameters.ret, env_id=parameters.env_id)
    _, verb, argument = fastpath.read_command(line)
    again = read_mail(argument)
    assert verb == b"MAIL" and not isinstance(again, bytes), "what we took we can say, and it is taken again"
    assert again[0] == sender and (again[1].ret, again[1].env_id) == (parameters.ret, parameters.env_id)
    return sender, _shown(parameters)


def _rcpt(text: bytes) -> object:
    read = read_rcpt(text)
    if isinstance(read, bytes):
        assert REPLIES.fullmatch(read)
        return read
    address, parameters = read
    assert _is_address(address) or address.lower() == "postmaster"
    try:
        line = write_rcpt(address, format_rcpt_parameters(parameters.notify, parameters.orcpt))
    except LocalProtocolError as error:
        raise AssertionError("taken from a client, but never to be said to a host") from error
    _, verb, argument = fastpath.read_command(line)
    again = read_rcpt(argument)
    assert verb == b"RCPT" and not isinstance(again, bytes)
    assert again[0] == address and (again[1].notify, again[1].orcpt) == (parameters.notify, parameters.orcpt)
    return address, _shown(parameters)


def _is_address(address: str) -> bool:
    """By a rule of our own: one line of printable ASCII, local part and domain within their bounds."""
    local, _, domain = address.rpartition("@")
    return ADDRESS.fullmatch(address) is not None and 0 < len(local) <= 64 and 0 < len(domain) <= 255


def _shown(parameters: Parameters) -> tuple[object, ...]:
    return tuple(getattr(parameters, name) for name in parameters.__struct_fields__)


def server(data: bytes) -> object:
    """The server core hears *data* behind a greeting, in several cuts."""
    seen = [_serve(pieces) for pieces in cuts(data)]
    assert all(each == seen[0] for each in seen), "replies and mail do not depend on how the bytes came"
    return seen[0], _serve_late(data)


def _serve(pieces: list[bytes]) -> object:
    """(all replies, all mail, whether it is closed); every final dot is answered at once."""
    postbox = Postbox()
    core = ServerConnection(postbox, LIMITS)
    said = core.open()
    for piece in pieces:
        out = core.receive(piece)
        while core.phase is Phase.WAITING:
            out += core.answered(QUEUED)
        _check(core, piece, out)
        said += out
    closed = core.closing
    core.lost()
    assert postbox.open is None, "nothing stays open"
    for mail in postbox.mails:
        _check_mail(mail)
    return said, [(mail.sender, mail.recipients, mail.wire) for mail in postbox.mails], closed


def _serve_late(data: bytes) -> object:
    """The same with answers to final dots only once everything has come."""
    postbox = Postbox()
    core = ServerConnection(postbox, LIMITS)
    said = core.open() + core.receive(data)
    while core.phase is Phase.WAITING:
        said += core.answered(QUEUED)
    assert REPLIES.fullmatch(said)
    return said


def _check(core: ServerConnection, piece: bytes, out: bytes) -> None:
    if out:
        assert REPLIES.fullmatch(out), "whole replies, well-formed"
        assert len(out) <= REPLY_BYTES * (piece.count(b"\n") + 2), "bounded output"
    assert len(core._held) <= LIMITS.max_line_bytes, "bounded memory"


def _check_mail(mail: Mail) -> None:
    if not mail.parameters.needs & NEEDS_BINARYMIME:
        assert BARE.search(mail.wire) is None and (not mail.wire or mail.wire.endswith(b"\r\n")), "whole lines, and no bare line ends"
        assert b"\r\n.\r\n" not in b"\r\n" + mail.wire, "no final dot within"
    assert len(mail.wire) <= LIMITS.max_message_size_bytes
    assert 0 < len(mail.recipients) <= LIMITS.max_recipients
    utf8 = mail.parameters.needs & NEEDS_SMTPUTF8
    assert all(_is_address(address) or address.lower() == "postmaster" or (utf8 and not address.isascii()) for address, _ in mail.recipients)
