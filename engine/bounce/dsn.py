"""Delivery status notifications: multipart/report in wire form (RFC 3464, RFC 6522, RFC 3834).  Pure.

Whatever text comes in was chosen by a peer or by the message's author.  Each piece of it is made one line of printable characters before it
stands anywhere, our own fields are ASCII and folded, and the boundary is one that occurs in nothing it separates.
"""

from __future__ import annotations

import re
from binascii import b2a_qp
from collections.abc import Iterable, Sequence

import msgspec

from engine.fastpath import has_8bit, stuff
from engine.mail.received import date
from engine.mail.status import describe

LINE_TARGET_CHARS = 76  # where our own fields fold
LINE_MAX_BYTES = 990  # RFC 5322 §2.1.1 allows 998 and our fold adds one
TEXT_MAX_CHARS = 2000  # of any one piece of peer text
HEADERS_MAX_BYTES = 64 * 1024  # of the original's header section

_NOT_ASCII = re.compile(r"[^ -~]")
_CONTROLS = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_WORD = re.compile(rf"\S{{{LINE_MAX_BYTES // 2}}}(?=\S)")
_LONG_LINE = re.compile(rb"[^\r\n]{%d}(?=[^\r\n])" % LINE_MAX_BYTES)


class Failure(msgspec.Struct, frozen=True):
    """One recipient that a DSN tells of."""

    address: str
    orcpt: str  # ORCPT as it was given, "rfc822;user@example.com"; "" if it was not
    status: str  # "5.1.1"
    diag: str  # "smtp;550 5.1.1 user unknown"; "" if there was no reply
    remote_mta: str  # "host (ip)"; "" if none was reached
    action: str  # "failed" or "delayed"
    last_attempt_ms: int  # 0: never tried


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
) -> bytes:
    """The DSN about *failures* to *return_path*, header section and body, in wire form (dot-stuffed, every line ended by CRLF).

    *host* is our name, *id_text* the DSN's own message id.  *original_headers* (up to and with or without the empty line) and *original* (the whole
    message in chunks cut anywhere) are in wire form too, as they lie in the spool; the message itself is returned only where *ret* is `FULL` and
    *original* is given: whoever calls decides how large one may be.  Its envelope goes with the null sender.
    """
    full = ret.upper() == "FULL" and original is not None
    returned = _ended(b"".join(original or ())) if full else _headers(original_headers)
    status = _fields([_message_fields(host, vmta, env_id, arrival_ms), *map(_recipient_fields, failures)])[:-2]  # its last line end is the boundary's
    words, words_encoding = _readable(host, failures, now_ms)
    returned_type = b"message/rfc822" if full else b"text/rfc822-headers"
    returned_encoding = b"8bit" if has_8bit(returned) else b"7bit"
    boundary = _boundary(id_text, (words, status, returned))
    between = b"\r\n--" + boundary + b"\r\n"
    head = stuff(
        _top(host, vmta, return_path, failures, now_ms, id_text, boundary)
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


def _top(host: str, vmta: str, return_path: str, failures: Sequence[Failure], now_ms: int, id_text: str, boundary: bytes) -> bytes:
    subject = "Failure" if any(failure.action == "failed" for failure in failures) else "Delay"
    fields = [
        ("From", f"Mail Delivery System <mailer-daemon@{host}>"),
        ("Subject", f"Delivery Status Notification ({subject})"),
        ("Date", date(now_ms // 1000)),
        ("Message-ID", f"<{id_text}@{host}>"),
        ("Auto-Submitted", "auto-replied"),
        ("X-PowerMTA-VirtualMTA", vmta),
        ("MIME-Version", "1.0"),
    ]
    to = f"To: <{_one_line(return_path)}>".encode()  # an address outside ASCII is to be answered as it is (RFC 6532)
    if len(to) > LINE_MAX_BYTES:  # no path that SMTP carries
        to = "\r\n".join(_wrap(f"To: <{_ascii(return_path)}>")).encode("ascii")
    kind = b'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="' + boundary + b'"\r\n'
    return to + b"\r\n" + _fields([fields])[:-2] + kind


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
    ]


def _readable(host: str, failures: Sequence[Failure], now_ms: int) -> tuple[bytes, bytes]:
    """(text for people, its transfer encoding)."""
    lines = [f"This message was made by the mail system {_one_line(host)} on {date(now_ms // 1000)}.", ""]
    for action, said in (
        ("failed", "Your message could not be delivered to:"),
        ("delayed", "Your message is still on its way; delivery will be tried again. It waits for:"),
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
            lines.append("")
    lines += ["The status of every recipient for machines, and what was sent, are attached.", ""]
    text = "\r\n".join(lines)
    if text.isascii():
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
