"""The value types of TLS directives."""

from __future__ import annotations

import re

from engine.config.lexer import Arguments, ValueProblem
from engine.config.tls import SUITES, PemFile
from engine.config.values import ValueType, one, text


def _pem_file(arguments: Arguments) -> PemFile:
    path = arguments.word()
    return PemFile(path, "" if arguments.at_end or not path else arguments.word())


def _ciphers(arguments: Arguments) -> str:
    start = arguments.position
    said = text.parse(arguments)
    if not re.fullmatch(r"[A-Za-z0-9:!+@=_., -]+", said):
        raise ValueProblem("not a list of OpenSSL's ciphers, such as HIGH:!ADH:@STRENGTH", start)
    return said


def _ciphersuites(arguments: Arguments) -> str:
    start = arguments.position
    said = text.parse(arguments)
    if said and (missing := set(SUITES) - set(said.replace(",", ":").split(":"))):
        what = f"{', '.join(sorted(missing))} cannot be left out: with TLS 1.3 these three are always offered; forbid TLS 1.3 if that must not be"
        raise ValueProblem(what, start)
    return said


file_or_nothing: ValueType[str] = one("file or nothing", str)
pem_file = ValueType("file [password]", _pem_file, secret=True)
ciphers = ValueType("OpenSSL cipher list", _ciphers)
ciphersuites = ValueType("TLS 1.3 cipher suites", _ciphersuites)
