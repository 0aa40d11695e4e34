"""Commands with a path, MAIL and RCPT: read as a server, written as a client."""

from __future__ import annotations

import re

from engine import fastpath
from engine.errors import LocalProtocolError
from engine.mail.address import is_utf8_text
from engine.mail.envelope import NEEDS_SMTPUTF8
from engine.smtp.extensions import NO_PARAMETERS, NOTHING, Parameters, encode_xtext, mail_parameters, rcpt_parameters
from engine.smtp.grammar import Fault, bracketed, read_path

_ADDRESS_NEEDS_UTF8 = b"553 5.6.7 Address is not ASCII, and SMTPUTF8 is not offered\r\n"
_BAD_PARAMETERS = b"555 5.5.4 Parameter unknown, malformed or given twice\r\n"
_UTF8_NOT_ASKED = b"553 5.6.7 Address is not ASCII, and MAIL did not say SMTPUTF8\r\n"
_MAIL_FAULTS = {
    Fault.SHAPE: b"501 5.5.4 Syntax: MAIL FROM:<address> [parameters]\r\n",
    Fault.ADDRESS: b"501 5.1.7 Bad sender address syntax\r\n",
    Fault.NOT_ASCII: _ADDRESS_NEEDS_UTF8,
}
_RCPT_FAULTS = {
    Fault.SHAPE: b"501 5.5.4 Syntax: RCPT TO:<address> [parameters]\r\n",
    Fault.ADDRESS: b"501 5.1.3 Bad recipient address syntax\r\n",
    Fault.NOT_ASCII: _ADDRESS_NEEDS_UTF8,
}

# a path whose address is a local part and no more, and what stands before and behind it
_BARE = re.compile(rb"([A-Za-z]+:[ \t]*<)([^<>@]{1,64})(>.*)", re.DOTALL)

MAX_MISADDRESSED_CHARS = 320

# replies of read_rcpt to what is no address at all
NO_ADDRESS = frozenset((_RCPT_FAULTS[Fault.ADDRESS], _RCPT_FAULTS[Fault.NOT_ASCII], _UTF8_NOT_ASKED))


def read_mail(argument: bytes, offered: frozenset[str] = NOTHING) -> tuple[str, Parameters] | bytes:
    """(reverse path, parameters) of MAIL's argument, or the reply that refuses it.  RFC 5321 §4.1.1.2.

    *offered*: the EHLO keywords that let more in than the base does (`SMTPUTF8`).
    """
    path = fastpath.parse_path(argument, b"FROM:") or read_path(argument, b"FROM:", null=True, utf8="SMTPUTF8" in offered)
    if isinstance(path, Fault):
        return _MAIL_FAULTS[path]
    address, text = path
    parameters = mail_parameters(text, offered) if text else NO_PARAMETERS
    if parameters is None:
        return _BAD_PARAMETERS
    if not address.isascii() and not parameters.needs & NEEDS_SMTPUTF8:
        return _UTF8_NOT_ASKED
    return address.decode(), parameters


def read_rcpt(argument: bytes, utf8: bool = False) -> tuple[str, Parameters] | bytes:
    """(forward path, parameters) of RCPT's argument, or the reply that refuses it.  RFC 5321 §4.1.1.3.

    *utf8*: MAIL said SMTPUTF8.
    """
    path = fastpath.parse_path(argument, b"TO:") or read_path(argument, b"TO:", postmaster=True, utf8=utf8)
    if isinstance(path, Fault):
        return _RCPT_FAULTS[path]
    address, text = path
    parameters = rcpt_parameters(text, utf8) if text else NO_PARAMETERS
    return _BAD_PARAMETERS if parameters is None else (address.decode(), parameters)


def read_misaddressed(argument: bytes) -> tuple[str, Parameters] | None:
    """(what RCPT's argument names, parameters) where that is no address, and still text of one line; None for anything worse."""
    found = bracketed(argument, b"TO:")
    if found is None:
        return None
    text = found[0].decode("utf-8", "replace")
    parameters = rcpt_parameters(found[1])
    return (text, parameters) if parameters is not None and is_utf8_text(text) and len(text) <= MAX_MISADDRESSED_CHARS else None


def complete(argument: bytes, keyword: bytes, domain_suffix: str) -> bytes | None:
    """*argument* of MAIL or RCPT with `@domain_suffix` behind an address that has no domain; None if it is no such address, or no suffix is given.

    Whether the result is an address is for `read_mail` and `read_rcpt` to say; *keyword* is `FROM:` or `TO:`.
    """
    found = _BARE.fullmatch(argument) if domain_suffix else None
    if found is None or argument[: len(keyword)].upper() != keyword:
        return None
    return b"%b%b@%b%b" % (found[1], found[2], domain_suffix.encode("ascii"), found[3])


def write_mail(
    sender: str,
    *,
    size_bytes: int = 0,
    eight_bit: bool = False,
    ret: str = "",
    env_id: str = "",
    utf8: bool = False,
    binary: bool = False,
) -> bytes:
    """`MAIL FROM:<sender> ...` with CRLF, with the parameters that are given.  LocalProtocolError: *sender* cannot stand there."""
    line = f"MAIL FROM:<{sender}>"
    if size_bytes:
        line = f"{line} SIZE={size_bytes}"
    if binary:
        line += " BODY=BINARYMIME"
    elif eight_bit:
        line += " BODY=8BITMIME"
    if ret:
        line = f"{line} RET={ret}"
    if env_id:
        line = f"{line} ENVID={encode_xtext(env_id)}"
    if utf8:
        line += " SMTPUTF8"
    return _wire(line, utf8)


def write_rcpt(recipient: str, parameters: str = "", utf8: bool = False) -> bytes:
    """`RCPT TO:<recipient> parameters` with CRLF.  LocalProtocolError: *recipient* or *parameters* cannot stand there."""
    return _wire(f"RCPT TO:<{recipient}> {parameters}" if parameters else f"RCPT TO:<{recipient}>", utf8)


def _wire(line: str, utf8: bool) -> bytes:
    """*line* with CRLF; no line of ours may hold another line, or anything but printable ASCII if *utf8* does not allow it."""
    if not (line.isascii() and line.isprintable()) and not (utf8 and is_utf8_text(line)):
        raise LocalProtocolError(f"cannot stand in a command: {line!r}")
    return line.encode() + b"\r\n"
