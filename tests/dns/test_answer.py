"""What a response says: found, no data, no such domain, an alias to go on with, or nothing at all."""

from __future__ import annotations

import pytest

from engine.dns import codec
from engine.dns.answer import Alias, Answer, Found, NoData, NxDomain, TemporaryFailure, conclude
from engine.dns.codec import Mx, Question, Record, Response

QUESTION = Question("d.example", codec.MX)


def response(*answers: Record, rcode: int = 0, soa: int | None = None, referral: bool = False) -> Response:
    return Response(1, rcode, False, QUESTION, answers, soa, referral)


def mx(name: str, preference: int, host: str, ttl_s: int = 300) -> Record:
    return Record(name, codec.MX, ttl_s, Mx(preference, host))


def cname(name: str, target: str, ttl_s: int = 300) -> Record:
    return Record(name, codec.CNAME, ttl_s, target)


@pytest.mark.parametrize(
    ("heard", "answer"),
    [
        (response(mx("d.example", 10, "a")), Found("d.example", 300, (Mx(10, "a"),))),
        (response(mx("d.example", 10, "a", 60), mx("d.example", 20, "b")), Found("d.example", 60, (Mx(10, "a"), Mx(20, "b")))),
        (response(mx("d.example", 10, "a"), mx("d.example", 10, "a")), Found("d.example", 300, (Mx(10, "a"),))),
        (response(mx("other.example", 10, "evil"), soa=60), NoData(60)),
        (response(cname("d.example", "e.example", 30), mx("e.example", 10, "a")), Found("e.example", 30, (Mx(10, "a"),))),
        (response(mx("e.example", 10, "a"), cname("d.example", "e.example")), Found("e.example", 300, (Mx(10, "a"),))),
        (response(cname("d.example", "e.example", 30)), Alias("e.example", 30)),
        (response(cname("d.example", "e.example", 30), soa=60), NoData(30)),
        (response(cname("d.example", "e.example", 30), rcode=codec.NXDOMAIN, soa=60), NxDomain(30)),
        (response(soa=60), NoData(60)),
        (response(), NoData(0)),
        (response(rcode=codec.NXDOMAIN, soa=60), NxDomain(60)),
        (response(rcode=codec.NXDOMAIN), NxDomain(0)),
    ],
)
def test_conclude(heard: Response, answer: Answer | Alias) -> None:
    assert conclude(heard, QUESTION) == answer


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        (response(rcode=codec.SERVFAIL), "servfail"),
        (response(rcode=codec.REFUSED), "refused"),
        (response(rcode=codec.NOTIMP), "error"),
        (response(rcode=9), "error"),
        (response(referral=True), "error"),
        (response(cname("d.example", "d.example")), "loop"),
        (response(cname("d.example", "e.example"), cname("e.example", "d.example")), "loop"),
        (response(cname("d.example", "0.example"), *(cname(f"{n}.example", f"{n + 1}.example") for n in range(30))), "loop"),
    ],
)
def test_failures(heard: Response, reason: str) -> None:
    answer = conclude(heard, QUESTION)
    assert isinstance(answer, TemporaryFailure)
    assert answer.reason == reason


def test_names_and_texts() -> None:
    pointers = Response(1, 0, False, None, (Record("1.example", codec.PTR, 60, "a.example"), Record("1.example", codec.PTR, 60, "b.example")))
    assert conclude(pointers, Question("1.example", codec.PTR)) == Found("1.example", 60, names=("a.example", "b.example"))
    texts = Response(1, 0, False, None, (Record("d.example", codec.TXT, 60, b"v=spf1 -all"), Record("d.example", codec.TXT, 60, b"x")))
    assert conclude(texts, Question("d.example", codec.TXT)) == Found("d.example", 60, texts=(b"v=spf1 -all", b"x"))
