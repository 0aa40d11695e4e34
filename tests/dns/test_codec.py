"""The codec against dnspython: what it builds and what we build, what both read; and no bytes raise anything but MalformedMessage."""

from __future__ import annotations

import struct
import time

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.dns import codec
from engine.dns.codec import BadName, MalformedMessage, Mx, Question, Record, build_query, encode_name, parse_response

HEADER = struct.Struct("!HHHHHH")
ANSWER_FLAGS = 0x8180

labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
names = st.lists(labels, min_size=1, max_size=6).map(".".join)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
ttls = st.integers(0, 2**31 - 1)
values = {"A": ipv4, "AAAA": ipv6, "CNAME": names, "MX": st.tuples(st.integers(0, 65535), names).map(lambda mx: f"{mx[0]} {mx[1]}.")}


def response_to(question: Question) -> dns.message.Message:
    return dns.message.make_response(dns.message.make_query(question.name, codec.TYPE_NAMES[question.type]))


@given(names, st.sampled_from([codec.A, codec.AAAA, codec.MX]), st.integers(0, 65535), st.sampled_from([0, 512, 1232, 2048]))
def test_dnspython_reads_our_queries(name: str, kind: int, message_id: int, edns: int) -> None:
    query = dns.message.from_wire(build_query(message_id, Question(name, kind), edns=edns))
    assert query.id == message_id
    assert query.question[0].name.to_text(omit_final_dot=True) == name
    assert query.question[0].rdtype == kind
    assert query.flags == dns.flags.RD
    assert (query.edns, query.payload) == ((0, edns) if edns else (-1, 0))


@given(st.data(), names, st.lists(st.tuples(names, st.sampled_from(sorted(values)), ttls), max_size=8))
def test_we_read_what_dnspython_writes(data: st.DataObject, asked: str, rows: list[tuple[str, str, int]]) -> None:
    message = response_to(Question(asked, codec.MX))
    expected: list[Record] = []
    for owner, kind, ttl_s in rows:
        text = data.draw(values[kind])
        message.answer.append(dns.rrset.from_text(owner + ".", ttl_s, "IN", kind, text if kind != "CNAME" else text + "."))
        value: str | Mx = text
        if kind == "MX":
            preference, host = text.split()
            value = Mx(int(preference), host[:-1])
        expected.append(Record(owner, {"A": 1, "AAAA": 28, "CNAME": 5, "MX": 15}[kind], ttl_s, value))
    response = parse_response(message.to_wire())
    assert response.id == message.id
    assert response.question == Question(asked, codec.MX)
    assert list(response.answers) == expected


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_negative_ttl_is_the_lesser_of_the_soa_and_its_minimum(ttl_s: int, minimum_s: int) -> None:
    message = response_to(Question("gone.example", codec.MX))
    message.set_rcode(dns.rcode.NXDOMAIN)
    message.authority.append(dns.rrset.from_text("example.", ttl_s, "IN", "SOA", f"ns.example. hm.example. 1 2 3 4 {minimum_s}"))
    response = parse_response(message.to_wire())
    assert (response.rcode, response.negative_ttl_s, response.referral) == (codec.NXDOMAIN, min(ttl_s, minimum_s), False)


def test_a_referral_is_recognised() -> None:
    message = response_to(Question("a.example", codec.MX))
    message.authority.append(dns.rrset.from_text("example.", 60, "IN", "NS", "ns.example."))
    assert parse_response(message.to_wire()).referral


def test_a_truncated_response_keeps_its_question_and_no_part_of_an_answer() -> None:
    message = response_to(Question("big.example", codec.A))
    message.answer.append(dns.rrset.from_text("big.example.", 60, "IN", "A", "192.0.2.1"))
    message.flags |= dns.flags.TC
    response = parse_response(message.to_wire()[:-3])
    assert response.truncated
    assert response.question == Question("big.example", codec.A)
    assert response.answers == ()


def test_names_come_in_lower_case_and_unusual_octets_stay_distinct() -> None:
    wire = HEADER.pack(1, ANSWER_FLAGS, 1, 0, 0, 0) + b"\x04MaIl\x03a.b\x02\xffz\0" + struct.pack("!HH", 15, 1)
    assert parse_response(wire).question == Question(r"mail.a\.b.\255z", 15)


def test_ttl_with_its_top_bit_set_is_zero() -> None:
    wire = HEADER.pack(1, ANSWER_FLAGS, 0, 1, 0, 0) + b"\1a\0" + struct.pack("!HHIH", 1, 1, 1 << 31, 4) + b"\1\2\3\4"
    assert parse_response(wire).answers == (Record("a", 1, 0, "1.2.3.4"),)


def test_records_of_other_types_and_classes_are_left_out() -> None:
    message = response_to(Question("a.example", codec.A))
    message.answer.append(dns.rrset.from_text("a.example.", 60, "IN", "HINFO", '"x" "y"'))
    message.answer.append(dns.rrset.from_text("a.example.", 60, "CH", "TXT", '"x"'))
    message.answer.append(dns.rrset.from_text("a.example.", 60, "IN", "A", "192.0.2.1"))
    assert [record.value for record in parse_response(message.to_wire()).answers] == ["192.0.2.1"]


def test_texts_are_joined_and_pointers_are_names() -> None:
    message = response_to(Question("a.example", codec.A))
    message.answer.append(dns.rrset.from_text("a.example.", 60, "IN", "TXT", '"v=spf1 a" "" " -all"'))
    message.answer.append(dns.rrset.from_text("1.example.", 60, "IN", "PTR", "Host.Example."))
    assert [record.value for record in parse_response(message.to_wire()).answers] == [b"v=spf1 a -all", "host.example"]


def question_of(name: bytes, tail: bytes = struct.pack("!HH", 15, 1)) -> bytes:
    return HEADER.pack(1, ANSWER_FLAGS, 1, 0, 0, 0) + name + tail


def record(name: bytes, kind: int, data: bytes, size: int | None = None) -> bytes:
    return HEADER.pack(1, ANSWER_FLAGS, 0, 1, 0, 0) + name + struct.pack("!HHIH", kind, 1, 60, len(data) if size is None else size) + data


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\0" * 11,
        HEADER.pack(1, 0x0100, 0, 0, 0, 0),  # a query
        HEADER.pack(1, 0x8180 | 0x2800, 0, 0, 0, 0),  # another opcode
        HEADER.pack(1, ANSWER_FLAGS, 2, 0, 0, 0),
        question_of(b"\xc0\x0c"),  # a pointer to itself
        question_of(b"\1a\xc0\x0c"),  # to its own name
        question_of(b"\xc0\xff"),  # forwards
        question_of(b"\x40"),  # reserved label kinds
        question_of(b"\x80"),
        question_of(b"\x05abc"),  # a label that is cut
        question_of(b"\1a\0", b"\0"),
        question_of(b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3f" + b"d" * 63 + b"\0"),  # 257 octets
        record(b"\0", 1, b"\1\2\3"),
        record(b"\0", 28, b"\1\2\3\4"),
        record(b"\0", 1, b"\1\2\3\4", 5),
        record(b"\0", 15, b"\0"),
        record(b"\0", 15, b"\0\1\1a\0x"),  # something after the host
        record(b"\0", 5, b"\1a\0x"),
        record(b"\0", 15, b"\0\1\1a\0", 4),  # the host is longer than the record
        HEADER.pack(1, ANSWER_FLAGS, 0, 65535, 0, 0),
    ],
)
def test_malformed(wire: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_response(wire)


def test_a_long_chain_of_pointers_is_refused_at_little_cost() -> None:
    first = HEADER.size + 11  # where the data of the first record lies
    links = b"\0\0" + b"".join((0xC000 | (first + 2 * n)).to_bytes(2, "big") for n in range(8_000))
    chain = record(b"\0", 99, links)
    chain = chain[:6] + b"\0\2" + chain[8:] + (0xC000 | (first + 2 * 7_000)).to_bytes(2, "big") + struct.pack("!HHIH", 1, 1, 60, 4) + b"\1\2\3\4"
    started = time.process_time()
    with pytest.raises(MalformedMessage, match="too many"):
        parse_response(chain)
    assert time.process_time() - started < 0.5


@given(st.binary(max_size=200))
@example(b"\0\1\x81\x80\0\1\0\1\0\0\0\0\xc0\x0c\xc0\x0c")
def test_garbage_raises_only_malformed(wire: bytes) -> None:
    try:
        parse_response(wire)
    except MalformedMessage:
        return


@given(st.data())
def test_damaged_responses_raise_only_malformed(data: st.DataObject) -> None:
    message = response_to(Question("mail.example", codec.MX))
    message.answer.append(dns.rrset.from_text("mail.example.", 60, "IN", "CNAME", "x.mail.example."))
    message.answer.append(dns.rrset.from_text("x.mail.example.", 60, "IN", "MX", "10 a.mail.example.", "20 b.mail.example."))
    message.authority.append(dns.rrset.from_text("example.", 60, "IN", "SOA", "ns.example. hm.example. 1 2 3 4 5"))
    wire = bytearray(message.to_wire())
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(wire) - 1), st.integers(0, 255)), max_size=6)):
        wire[position] = value
    cut = bytes(wire[: data.draw(st.integers(0, len(wire)))])
    try:
        response = parse_response(cut)
    except MalformedMessage:
        return
    assert all(len(record.name) <= 1_020 for record in response.answers)


@given(st.binary(min_size=12, max_size=300))
def test_what_we_accept_whole_dnspython_reads_the_same(tail: bytes) -> None:
    wire = HEADER.pack(7, ANSWER_FLAGS, 1, 1, 0, 0) + b"\4mail\7example\0" + struct.pack("!HH", 1, 1) + tail
    try:
        ours = parse_response(wire)
        theirs = dns.message.from_wire(wire, ignore_trailing=True)
    except (MalformedMessage, dns.exception.DNSException, ValueError):
        return
    found = [rdata.address for rrset in theirs.answer if rrset.rdtype == 1 and rrset.rdclass == 1 for rdata in rrset]
    assert [record.value for record in ours.answers if record.type == codec.A] == found


@pytest.mark.parametrize(
    "name", ["", "a..b", ".a", "..", "a" * 64, "a b", "a\\.b", "müller.example", "a\0b", ".".join(["a" * 63] * 4), "x" * 64 + ".example"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(BadName):
        encode_name(name)


@pytest.mark.parametrize(
    ("name", "wire"), [(".", b"\0"), ("a.example", b"\1a\7example\0"), ("a.example.", b"\1a\7example\0"), ("_dmarc.x", b"\6_dmarc\1x\0")]
)
def test_good_names(name: str, wire: bytes) -> None:
    assert encode_name(name) == wire
