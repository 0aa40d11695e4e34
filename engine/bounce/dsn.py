"""Delivery status notifications: multipart/report in wire form (RFC 3464, RFC 6522, RFC 3834).  Pure.

Whatever text comes in was chosen by a peer or by the message's author.  Each piece of it is made one line of printable characters before it
stands anywhere, our own fields are ASCII and folded, and the boundary is one that occurs in nothing it separates.
"""

from __future__ import annotations

import re
from binascii import b2a_qp
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from engine.bounce.template import Templates, filled
from engine.fastpath import find_fields, has_8bit, stuff, unstuff
from engine.mail.received import date
from engine.mail.status import describe

LINE_TARGET_CHARS = 76  # where our own fields fold
LINE_MAX_BYTES = 990  # RFC 5322 §2.1.1 allows 998 and our fold adds one
TEXT_MAX_CHARS = 2000  # of any one piece of peer text
HEADERS_MAX_BYTES = 64 * 1024  # of the original's header section
OWN_WORDS = Templates()

_NOT_ASCII = re.compile(r"[^ -~]")
_CONTROLS = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_WORD = re.compile(rf"\S{{{LINE_MAX_BYTES // 2}}}(?=\S)")
_LONG_LINE = re.compile(rb"[^\r\n]{%d}(?=[^\r\n])" % LINE_MAX_BYTES)


class Failure(msgspec.Struct, frozen=True):
    """One recipient that a DSN tells of."""

    address: str
    orcpt: str  # ORCPT as it was given, "rfc822;user@example.com"; "" if it was not
    status: str  # "5.1.1"
    diag: str  # "smtp;550 5.1.1 user unknown"; "" if there was no reply
    remote_mta: str  # "host (ip)"; "" if none was reached
    action: str  # "failed", "delayed" or "relayed"
    last_attempt_ms: int  # 0: never tried
    retry_until_ms: int = 0  # of a delayed one


def report(
    *,
    host: str,
    vmta: str,
    return_path: str,
    failures: Sequence[Failure],
    original_headers: bytes,
    original: Iterable[bytes] | None,
    ret: str,
    env_id: str,
    arrival_ms: int,
    now_ms: int,
    id_text: str,
    templates: Templates = OWN_WORDS,
    waits: tuple[str, str] = ("", ""),
    plain: bool = False,
    utf8: bool = False,
) -> bytes:
    """The DSN about *failures* to *return_path*, header section and body, in wire form (dot-stuffed, every line ended by CRLF).

    *host* is our name, *id_text* the DSN's own message id.  *original_headers* (up to and with or without the empty line) and *original* (the whole
    message in chunks cut anywhere) are in wire form too, as they lie in the spool; the message itself is returned only where *ret* is `FULL` and
    *original* is given: whoever calls decides how large one may be.  Its envelope goes with the null sender.  *waits* are retry-after and
    bounce-after in words, for *templates*; *plain*: text for people and the header section, without parts; *utf8*: the message came with SMTPUTF8,
    and is returned under the types of RFC 6533.  Addresses outside ASCII stand in the report as utf-8-addr-xtext, which every host may carry.
    """
    message = None if original is None else b"".join(original)
    values = _values(host, return_path, failures, original_headers if message is None else message, waits, arrival_ms, now_ms)
    top = _fields([_top(host, vmta, failures, now_ms, id_text, templates, values)])[:-2]
    to = _to(return_path)
    text = _readable(host, failures, now_ms, templates, values, plain)
    if plain:
        return stuff(to + top + _plain(text, unstuff(_headers(original_headers if message is None else message))))
    full = ret.upper() == "FULL" and message is not None
    returned = _ended(message) if full and message is not None else _headers(original_headers)
    status = _fields([_message_fields(host, vmta, env_id, arrival_ms), *map(_recipient_fields, failures)])[:-2]  # its last line end is the boundary's
    words, words_encoding = _encoded(text)
    returned_type = b"message/rfc822" if full else b"text/rfc822-headers"
    if utf8:
        returned_type = b"message/global" if full else b"message/global-headers"
    returned_encoding = b"8bit" if has_8bit(returned) else b"7bit"
    boundary = _boundary(id_text, (words, status, returned))
    between = b"\r\n--" + boundary + b"\r\n"
    head = stuff(
        to + top + b'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="' + boundary + b'"\r\n'
        + b"\r\nThis is a delivery status notification in MIME format.\r\n"
        + between
        + b"Content-Description: Notification\r\nContent-Type: text/plain; charset=" + (b"utf-8" if words_encoding != b"7bit" else b"us-ascii")
        + b"\r\nContent-Transfer-Encoding: " + words_encoding + b"\r\n\r\n" + words
        + between
        + b"Content-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n" + status
        + between
        + b"Content-Description: Returned message\r\nContent-Type: " + returned_type
        + b"\r\nContent-Transfer-Encoding: " + returned_encoding + b"\r\n\r\n"
    )  # fmt: skip
    return head + returned + b"\r\n--" + boundary + b"--\r\n"


def _failed(failures: Sequence[Failure]) -> bool:
    return any(failure.action == "failed" for failure in failures)


def _top(
    host: str, vmta: str, failures: Sequence[Failure], now_ms: int, id_text: str, templates: Templates, values: Mapping[str, str]
) -> list[tuple[str, str]]:
    """The fields behind To."""
    failed = _failed(failures)
    sender = (failed and filled(templates.failed_from, values)) or templates.from_header or f"Mail Delivery System <mailer-daemon@{host}>"
    what = "Failure" if failed else "Relayed" if failures[0].action == "relayed" else "Delay"
    subject = (failed and filled(templates.failed_subject, values)) or f"Delivery Status Notification ({what})"
    return [
        ("From", sender),
        ("Subject", subject),
        ("Date", date(now_ms // 1000)),
        ("Message-ID", f"<{id_text}@{host}>"),
        ("Auto-Submitted", "auto-replied"),
        ("X-PowerMTA-VirtualMTA", vmta),
        ("MIME-Version", "1.0"),
    ]


def _to(return_path: str) -> bytes:
    to = f"To: <{_one_line(return_path)}>".encode()  # an address outside ASCII is to be answered as it is (RFC 6532)
    if len(to) > LINE_MAX_BYTES:  # no path that SMTP carries
        to = "\r\n".join(_wrap(f"To: <{_ascii(return_path)}>")).encode("ascii")
    return to + b"\r\n"


def _values(
    host: str, return_path: str, failures: Sequence[Failure], original: bytes, waits: tuple[str, str], arrival_ms: int, now_ms: int
) -> dict[str, str]:
    """The variables of templates, each one line."""
    _, found = find_fields(original[:HEADERS_MAX_BYTES], (b"subject",))
    subject = original[found[0][1] : found[0][2]].partition(b":")[2].decode("utf-8", "replace") if found else ""
    values = {
        "hostname": host,
        "originator": return_path,
        "recipient": ", ".join(failure.address for failure in failures),
        "subject": subject,
        "retryAfter": waits[0],
        "bounceAfter": waits[1],
        "date": date(now_ms // 1000),
        "timeQueued": date(arrival_ms // 1000),
        "response": "; ".join(failure.diag.removeprefix("smtp;") for failure in failures),
    }
    return {name: _one_line(value) for name, value in values.items()}


def _message_fields(host: str, vmta: str, env_id: str, arrival_ms: int) -> list[tuple[str, str]]:
    """RFC 3464 §2.2."""
    return [
        ("Original-Envelope-Id", env_id),
        ("Reporting-MTA", f"dns;{host}"),
        ("X-PowerMTA-VirtualMTA", vmta),
        ("Arrival-Date", date(arrival_ms // 1000) if arrival_ms else ""),
    ]


def _recipient_fields(failure: Failure) -> list[tuple[str, str]]:
    """RFC 3464 §2.3."""
    diag = failure.diag if not failure.diag or ";" in failure.diag.partition(" ")[0] else f"smtp;{failure.diag}"
    return [
        ("Original-Recipient", failure.orcpt if not failure.orcpt or ";" in failure.orcpt else f"rfc822;{failure.orcpt}"),
        ("Final-Recipient", ("rfc822;" if failure.address.isascii() else "utf-8;") + failure.address),
        ("Action", failure.action),
        ("Status", failure.status),
        ("Remote-MTA", f"dns;{failure.remote_mta}" if failure.remote_mta else ""),
        ("Diagnostic-Code", diag),
        ("Last-Attempt-Date", date(failure.last_attempt_ms // 1000) if failure.last_attempt_ms else ""),
        ("Will-Retry-Until", date(failure.retry_until_ms // 1000) if failure.retry_until_ms else ""),
    ]


def _readable(host: str, failures: Sequence[Failure], now_ms: int, templates: Templates, values: Mapping[str, str], plain: bool) -> str:
    """The text for people."""
    if templates.failed_body and _failed(failures):
        return "".join(_NOT_TEXT.sub(" ", line).rstrip() + "\r\n" for line in filled(templates.failed_body, values).splitlines())
    lines = [f"This message was made by the mail system {_one_line(host)} on {date(now_ms // 1000)}.", ""]
    for action, said in (
        ("failed", "Your message could not be delivered to:"),
        ("delayed", "Your message is still on its way; delivery will be tried again. It waits for:"),
        ("relayed", "Your message was handed on to a host that does not say whether it was delivered. It is for:"),
    ):
        concerned = [failure for failure in failures if failure.action == action]
        if not concerned:
            continue
        lines += [said, ""]
        for failure in concerned:
            lines += _wrap(f"<{_one_line(failure.address)}>")
            lines += _indented("Reason: " + describe(failure.status))
            if failure.diag:
                who = f"{failure.remote_mta} said: " if failure.remote_mta else "Detail: "
                lines += _indented(who + failure.diag.removeprefix("smtp;").strip())
            if failure.retry_until_ms:
                lines += _indented(f"Tried until: {date(failure.retry_until_ms // 1000)}")
            lines.append("")
    if not plain:
        lines += ["The status of every recipient for machines, and what was sent, are attached.", ""]
    return "\r\n".join(lines)


def _plain(text: str, headers: bytes) -> bytes:
    """The rest of the header section and the body of a DSN without parts."""
    whole = text.rstrip() + "\r\n"
    if headers:
        whole += "\r\nThe header of the message:\r\n\r\n" + headers.decode("utf-8", "replace")
    content, encoding = _encoded(whole)
    charset = b"us-ascii" if encoding == b"7bit" else b"utf-8"
    return b"Content-Type: text/plain; charset=" + charset + b"\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + content


def _encoded(text: str) -> tuple[bytes, bytes]:
    """(*text* as content, its transfer encoding)."""
    if text.isascii() and max(map(len, text.split("\r\n"))) <= LINE_MAX_BYTES:
        return text.encode("ascii"), b"7bit"
    return re.sub(rb"\r?\n", b"\r\n", b2a_qp(text.replace("\r\n", "\n").encode("utf-8", "replace"), istext=True)), b"quoted-printable"


def _indented(text: str) -> list[str]:
    return ["  " + line for line in _wrap(_one_line(text))]


def _fields(groups: Iterable[list[tuple[str, str]]]) -> bytes:
    """*groups* of fields, each with an empty line behind it; fields without a value are left out."""
    lines: list[str] = []
    for group in groups:
        for name, value in group:
            if value:
                lines += _wrap(f"{name}: {_ascii(value)}")
        lines.append("")
    lines.append("")
    return "\r\n".join(lines).encode("ascii")


def _one_line(text: str) -> str:
    """*text* as one line of bounded length: runs of blanks and controls are one blank, words too long for a line are cut."""
    if len(text) > TEXT_MAX_CHARS:
        text = text[:TEXT_MAX_CHARS] + "..."
    if not (text.isascii() and text.isprintable() and "  " not in text):
        text = _CONTROLS.sub(" ", text)
    if len(text) > LINE_MAX_BYTES // 2:
        text = _WORD.sub(r"\g<0> ", text)
    return text.strip()


def _ascii(text: str) -> str:
    r"""*text* on one line, what is not ASCII as `\x{E9}`, the form that RFC 6533 §3 has for addresses in fields of ASCII."""
    line = _one_line(text)
    return line if line.isascii() else _one_line(_NOT_ASCII.sub(lambda match: f"\\x{{{ord(match[0]):X}}}", line))


def _wrap(line: str) -> list[str]:
    """*line* folded before blanks (RFC 5322 §2.2.3): taking the line ends out again gives *line*."""
    folded: list[str] = []
    while len(line) > LINE_TARGET_CHARS:
        at = line.rfind(" ", 1, LINE_TARGET_CHARS)
        if at < 0:
            at = line.find(" ", LINE_TARGET_CHARS)
        if at < 0:
            break
        folded.append(line[:at])
        line = line[at:]
    folded.append(line)
    return folded


def _ended(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\r\n") else data + b"\r\n"


def _headers(wire: bytes) -> bytes:
    """The header section *wire* without the empty line, of bounded size and with no line too long."""
    if wire.startswith(b"\r\n"):
        return b""
    end = wire.find(b"\r\n\r\n")
    headers = wire[: end + 2] if end >= 0 else wire
    if len(headers) > HEADERS_MAX_BYTES:
        headers = headers[: headers.rfind(b"\r\n", 0, HEADERS_MAX_BYTES) + 2]
    return _LONG_LINE.sub(rb"\g<0>" + b"\r\n ", _ended(headers))


def _boundary(id_text: str, parts: Sequence[bytes]) -> bytes:
    """A boundary whose line is in none of *parts*: the id alone is one that an author could foresee."""
    stem = re.sub(r"[^0-9A-Za-z]", "", id_text)[:40]
    attempt = 0
    while True:
        boundary = f"=_{stem}_{attempt}".encode("ascii")
        if not any(boundary in part for part in parts):
            return boundary
        attempt += 1
