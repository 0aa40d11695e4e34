"""What a name server answers."""

from __future__ import annotations

import time

from engine.dns import codec
from engine.dns.answer import Alias, Found, conclude
from engine.dns.codec import BadName, MalformedMessage, Mx, Question, Response, encode_name, parse_response

SECONDS = 0.5  # of CPU, for one message
MAX_TEXT = 4 * 255  # of a name with every octet escaped


def dns(data: bytes) -> object:
    """*data* as a response, and what it says of each question that we could have asked."""
    started = time.thread_time()
    try:
        response = parse_response(data)
    except MalformedMessage as error:
        return str(error)
    finally:
        took = time.thread_time() - started
        assert took < SECONDS, f"took {took:.1f} s"
    _check(response, len(data))
    asked = response.question.name if response.question is not None else "example.com"
    return response, [_conclude(response, Question(asked, kind)) for kind in (codec.MX, codec.A, codec.AAAA)]


def _check(response: Response, size: int) -> None:
    assert len(response.answers) <= size // 11, "a record takes eleven octets at least"
    assert not (response.truncated and response.answers)
    for record in response.answers:
        name = record.value.host if isinstance(record.value, Mx) else record.value
        for text in (record.name, name):
            assert text and text == text.lower() and text.isascii() and text.isprintable() and len(text) <= MAX_TEXT
        assert 0 <= record.ttl_s < 1 << 31 and record.type in (codec.A, codec.AAAA, codec.MX, codec.CNAME)
        if record.type in (codec.MX, codec.CNAME):
            _asked_again(name)


def _asked_again(name: str) -> None:
    """A name that an answer gives is either asked for as it stands, or cannot be asked for at all."""
    try:
        wire = encode_name(name)
    except BadName:
        return
    again, _ = codec._Names(wire).read(0)
    assert again == name


def _conclude(response: Response, question: Question) -> object:
    verdict = conclude(response, question)
    if isinstance(verdict, Found):
        assert verdict.addresses if question.type != codec.MX else verdict.exchanges
        assert not (verdict.addresses and verdict.exchanges)
    elif isinstance(verdict, Alias):
        assert verdict.name != question.name
    return verdict
