"""The names that a certificate is for, read from its DER form (RFC 5280 §4.1, §4.2.1.6).

Python's ssl tells them of a peer's certificate only; this reads our own at a start or when its file changes, never a peer's.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

_SEQUENCE, _OBJECT_ID, _OCTETS, _UTF8, _PRINTABLE, _SET = 0x30, 0x06, 0x04, 0x0C, 0x13, 0x31
_EXTENSIONS = 0xA3  # [3] of tbsCertificate
_DNS_NAME = 0x82  # [2] of GeneralName
_SUBJECT_ALT_NAME = bytes((0x55, 0x1D, 0x11))  # 2.5.29.17
_COMMON_NAME = bytes((0x55, 0x04, 0x03))  # 2.5.4.3
_END = "-----END CERTIFICATE-----"


def names(pem: bytes) -> tuple[str, ...]:
    """DNS names in lower case of the first certificate in *pem*: its subjectAltName, or without one its common name.  ValueError: there is none."""
    text = pem.decode("ascii", "replace")
    start = text.find("-----BEGIN CERTIFICATE-----")
    end = text.find(_END, start)
    if start < 0 or end < 0:
        raise ValueError("there is no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)])
    (_, certificate), *_ = _each(der)
    (_, to_be_signed), *_ = _each(certificate)
    fields = list(_each(to_be_signed))
    found: list[str] = []
    for tag, content in fields:
        if tag == _EXTENSIONS:
            found += _alternative_names(content)
    if not found:
        sequences = [content for tag, content in fields if tag == _SEQUENCE]
        found = _common_names(sequences[3]) if len(sequences) > 3 else []  # signature, issuer, validity, subject
    return tuple(dict.fromkeys(name.lower() for name in found))


def _alternative_names(extensions: bytes) -> list[str]:
    (_, every), *_ = _each(extensions)
    for _, extension in _each(every):
        parts = list(_each(extension))
        if parts[0] == (_OBJECT_ID, _SUBJECT_ALT_NAME) and parts[-1][0] == _OCTETS:
            (_, general_names), *_ = _each(parts[-1][1])
            return [content.decode("ascii", "replace") for tag, content in _each(general_names) if tag == _DNS_NAME]
    return []


def _common_names(subject: bytes) -> list[str]:
    found = []
    for tag, part in _each(subject):
        for _, attribute in _each(part) if tag == _SET else ():
            kind, value = list(_each(attribute))[:2]
            if kind == (_OBJECT_ID, _COMMON_NAME) and value[0] in (_UTF8, _PRINTABLE):
                found.append(value[1].decode("utf-8", "replace"))
    return found


def _each(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each element of *data*.  ValueError: it is no DER."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("a certificate that ends early")
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            octets = size & 0x7F
            size = int.from_bytes(data[at : at + octets], "big")
            at += octets
        if at + size > len(data):
            raise ValueError("a certificate that ends early")
        yield tag, data[at : at + size]
        at += size
