"""Service extensions: what EHLO lists, and the parameters of MAIL and RCPT that come with them (SIZE, 8BITMIME, DSN, SMTPUTF8)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from engine.mail.address import is_utf8_text
from engine.mail.envelope import NEEDS_BINARYMIME, NEEDS_SMTPUTF8
from engine.mail.reply import Reply

# Bits of NOTIFY (RFC 3461 §4.1), as they are stored with a recipient.
NOTIFY_NEVER = 1
NOTIFY_SUCCESS = 2
NOTIFY_FAILURE = 4
NOTIFY_DELAY = 8

_NOTIFY = {b"NEVER": NOTIFY_NEVER, b"SUCCESS": NOTIFY_SUCCESS, b"FAILURE": NOTIFY_FAILURE, b"DELAY": NOTIFY_DELAY}
_MAX_ENVID_BYTES = 100  # RFC 3461 §5.4
_MAX_ORCPT_BYTES = 500

# esmtp-param = esmtp-keyword ["=" esmtp-value] (RFC 5321 §4.1.2)
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\xff]+))?")  # RFC 6531 §3.3 lets UTF-8 in, which only ORCPT has a use for
_ATOM = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+")
# xtext = *( xchar / hexchar ); xchar is printable but "+" and "="; hexchar is "+" and two upper-case hex digits (RFC 3461 §4)
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")


# EmbeddedUnicodeChar, the one escape of a utf-8-addr-xtext, and what must be written so (RFC 6533 §3)
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_TO_EMBED = re.compile(r"[^!-~]|[\\+=]")
_LIMIT = re.compile(r"(?<!\S)([A-Za-z0-9-]+)=([1-9][0-9]{0,5})(?!\S)", re.ASCII)
NOTHING: frozenset[str] = frozenset()


class Parameters(msgspec.Struct, frozen=True, gc=False):
    """What came behind the path of MAIL (the first four and the last) or of RCPT (the others)."""

    size_bytes: int = 0  # 0: not said
    body: str = ""  # "7BIT", "8BITMIME", "BINARYMIME" or not said
    ret: str = ""  # "FULL", "HDRS" or not said
    env_id: str = ""  # decoded from xtext: printable ASCII
    notify: int = 0  # bits NOTIFY_*; 0: not said
    orcpt: str = ""  # "rfc822;user@example.com", decoded from xtext; "utf-8;..." from its own encoding too
    needs: int = 0  # bits NEEDS_* of engine.mail.envelope


NO_PARAMETERS = Parameters()


def mail_parameters(text: bytes, offered: frozenset[str] = NOTHING) -> Parameters | None:
    """The parameters of MAIL in *text* (RFC 1870, 6152, 3461; 3030, 6531 if *offered*); None if one is unknown, wrong or given twice."""
    size_bytes = needs = 0
    body = ret = env_id = ""
    seen: set[bytes] = set()
    for keyword, value in _each(text):
        if keyword in seen:
            return None
        seen.add(keyword)
        if keyword == b"SIZE" and value.isdigit() and len(value) <= 20:
            size_bytes = int(value)
        elif keyword == b"BODY" and (value.upper() in (b"7BIT", b"8BITMIME") or (value.upper() == b"BINARYMIME" and "BINARYMIME" in offered)):
            body = value.upper().decode("ascii")
            needs |= NEEDS_BINARYMIME if body == "BINARYMIME" else 0
        elif keyword == b"RET" and value.upper() in (b"FULL", b"HDRS"):
            ret = value.upper().decode("ascii")
        elif keyword == b"ENVID" and len(value) <= _MAX_ENVID_BYTES and (decoded := decode_xtext(value)):
            env_id = decoded
        elif keyword == b"SMTPUTF8" and value == b"" and "SMTPUTF8" in offered:
            needs |= NEEDS_SMTPUTF8
        else:
            return None
    return Parameters(size_bytes, body, ret, env_id, needs=needs)


def rcpt_parameters(text: bytes, utf8: bool = False) -> Parameters | None:
    """The parameters of RCPT in *text* (RFC 3461 §4.1, §4.2); None if one is unknown, wrong or given twice.  *utf8*: MAIL said SMTPUTF8."""
    notify = 0
    orcpt = ""
    for keyword, value in _each(text):
        if keyword == b"NOTIFY" and not notify:
            bits = [_NOTIFY.get(word, 0) for word in value.upper().split(b",")]
            if 0 in bits or (NOTIFY_NEVER in bits and len(bits) > 1):
                return None
            for bit in bits:
                notify |= bit
        elif keyword == b"ORCPT" and not orcpt and len(value) <= _MAX_ORCPT_BYTES:
            kind, semicolon, address = value.partition(b";")
            decoded = _decode_utf8_address(address, utf8) if kind.lower() == b"utf-8" else decode_xtext(address)
            if not semicolon or not _ATOM.fullmatch(kind) or not decoded:
                return None
            orcpt = f"{kind.decode()};{decoded}"
        else:
            return None
    return Parameters(notify=notify, orcpt=orcpt)


def _each(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(keyword in upper case, value or b"") of each parameter; a malformed one comes as (b"", b"")."""
    for word in text.split():
        found = _PARAMETER.fullmatch(word)
        yield (found[1].upper(), found[2] or b"") if found else (b"", b"")


def decode_xtext(text: bytes) -> str | None:
    """What *text* encodes, if it is xtext of printable ASCII and blanks, otherwise None: nothing that could end a header line."""
    if not _XTEXT.fullmatch(text):
        return None
    plain = re.sub(rb"\+([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), text).decode("latin-1")
    return plain if plain.isascii() and plain.isprintable() else None


def _decode_utf8_address(text: bytes, utf8: bool) -> str | None:
    """The address that *text*, a utf-8-enc-addr (RFC 6533 §3), stands for; None if it is none.  Without *utf8* it has to be ASCII."""
    try:
        plain = decode_xtext(text) if text.isascii() else text.decode("utf-8") if utf8 else None
        plain = plain and _EMBEDDED.sub(lambda found: chr(int(found[1], 16)), plain)
        return plain if plain and is_utf8_text(plain) and plain.encode() else None
    except (UnicodeError, ValueError, OverflowError):
        return None


def encode_xtext(text: str) -> str:
    """*text*, printable ASCII, as xtext (RFC 3461 §4)."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def format_rcpt_parameters(notify: int, orcpt: str) -> str:
    """`NOTIFY=... ORCPT=...` as RCPT takes them, from what `rcpt_parameters` read; "" if neither was said."""
    words = []
    if notify:
        words.append("NOTIFY=" + ",".join(name.decode() for name, bit in _NOTIFY.items() if notify & bit))
    if orcpt:
        kind, _, address = orcpt.partition(";")
        encode = _embed if kind.lower() == "utf-8" else encode_xtext
        words.append(f"ORCPT={kind};{encode(address)}")
    return " ".join(words)


def _embed(address: str) -> str:
    """*address* as utf-8-addr-xtext (RFC 6533 §3), which every host with DSN takes."""
    return _TO_EMBED.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", address)


def ehlo_reply(host_name: str, max_message_size_bytes: int, more: Sequence[str] = ()) -> Reply:
    """What we answer to EHLO, with *more* lines; SIZE without a number where there is no limit (RFC 1870 §4: 0 means the same)."""
    size = f"SIZE {max_message_size_bytes}" if max_message_size_bytes else "SIZE"
    return Reply(250, (f"{host_name} says hello", "PIPELINING", size, "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", *more))


class PeerLimits(NamedTuple):
    """What LIMITS announces (RFC 9422 §4); 0: nothing."""

    mail_max: int = 0  # messages in one session
    rcpt_max: int = 0  # recipients of one message


def read_limits(parameters: str) -> PeerLimits:
    """The limits in *parameters* of LIMITS; what is unknown or malformed is passed over."""
    found = {name.upper(): int(value) for name, value in _LIMIT.findall(parameters)}
    return PeerLimits(found.get("MAILMAX", 0), found.get("RCPTMAX", 0))


def read_extensions(reply: Reply) -> Mapping[str, str]:
    """Keyword in upper case -> its parameters, from a peer's positive answer to EHLO (RFC 5321 §4.1.1.1)."""
    offered: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        if keyword:
            offered[keyword.upper()] = parameters.strip()
    return offered
