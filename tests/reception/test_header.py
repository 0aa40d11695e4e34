"""What a <source> asks to be done to header sections: every directive alone, and who may ask by headers."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import build, from_text
from engine.mail.envelope import Message
from engine.reception import Reception
from tests.reception.fakes import CONFIG
from tests.reception.test_intake import Gate

TEXT = b"text\r\n"


class Configured(Gate):
    """A Gate whose configuration is CONFIG with *text* added, and files."""

    def __init__(self, source: str = "", server: str = "", relays: bool = True, **files: str) -> None:
        super().__init__()
        relay = "always-allow-relaying yes\n" if relays else ""
        text = f"{CONFIG}relay-domain relay.example\n{server}\n<source 192.0.2.9>\n{relay}{source}\n</source>\n"
        loaded = build(from_text(text, **files))
        assert loaded.config is not None, loaded.problems
        self.client = loaded.config.client("192.0.2.9")
        self.reception = Reception(loaded.config, self.link, self.segments, self.log)  # type: ignore[arg-type]

    def take(self, header: str, recipient: str = "r@relay.example", **more: Any) -> tuple[bytes, Message]:
        answer = self.send(header.replace("\n", "\r\n").encode("latin-1") + b"\r\n" + TEXT, recipients=[recipient], **more)
        assert answer.positive, answer
        return self.body, self.link.messages()[-1]


def names(section: bytes) -> list[bytes]:
    return [line.partition(b":")[0] for line in section.partition(b"\r\n\r\n")[0].split(b"\r\n") if line and line[:1] not in b" \t"]


def test_who_asks_for_nothing_takes_the_plain_path() -> None:
    assert not Configured().client.asks_more
    assert not Configured("dsn-return-default headers\nadd-date-header no").client.asks_more


@pytest.mark.parametrize("relays", [True, False])
def test_remove_header_cuts_whole_fields_of_everybody(relays: bool) -> None:
    body, _ = Configured("remove-header x-a, X-Gone", relays=relays).take("X-A: 1\n folded\nSubject: s\nx-GONE : 2\nX-Ab: stays\nX-A: 3\n")
    assert body == b"Subject: s\r\nX-Ab: stays\r\n\r\n" + TEXT


def test_received_fields_are_cut_and_still_counted() -> None:
    gate = Configured("remove-received-headers yes\nmax-message-hops 2")
    body, _ = gate.take("Received: a\n\tb\nSubject: s\nReceived: c\n")
    assert body == b"Subject: s\r\n\r\n" + TEXT
    assert gate.send(b"Received: a\r\n" * 3 + b"\r\n").text == "554 5.4.6 too many hops, this message is looping"


@pytest.mark.parametrize(
    ("said", "header", "added", "kept"),
    [
        ("no", "Subject: s\n", 0, 0),
        ("yes", "Subject: s\n", 1, 0),
        ("yes", "Date: then\n", 0, 1),
        ("override", "Subject: s\n", 1, 0),
        ("override", "Date: then\nDATE: again\n", 1, 0),
    ],
)
def test_date(said: str, header: str, added: int, kept: int) -> None:
    body, message = Configured(f"add-date-header {said}").take(header)
    assert names(message.prefix).count(b"Date") == added
    assert names(body).count(b"Date") == kept


@pytest.mark.parametrize(("time", "late"), [("reception", False), ("delivery", True)])
def test_a_date_of_delivery_stands_last_to_be_made_anew(time: str, late: bool) -> None:
    source = f"add-date-header yes\nadd-message-id-header yes\ndate-header-time {time}"
    gate = Configured(source, "include-headers-from h.txt", **{"h.txt": "X-A: 1\n"})
    _, message = gate.take("Subject: s\n")
    assert message.late_date == late
    assert names(message.prefix)[-2:] == ([b"Message-ID", b"Date"] if late else [b"Date", b"Message-ID"])


def test_a_date_that_came_with_the_message_is_not_made_anew() -> None:
    body, message = Configured("add-date-header yes\ndate-header-time delivery").take("Date: then\n")
    assert not message.late_date and names(body) == [b"Date"] and b"Date" not in names(message.prefix)
    _, message = Configured("date-header-time delivery").take("Subject: s\n")
    assert not message.late_date


@pytest.mark.parametrize(("host_id", "ending"), [("", b"@mx.engine.example>"), ("host-id 7\n", b".7@mx.engine.example>")])
def test_message_id_where_there_is_none(host_id: str, ending: bytes) -> None:
    _, message = Configured("add-message-id-header yes", host_id).take("Subject: s\n")
    (line,) = [line for line in message.prefix.split(b"\r\n") if line.startswith(b"Message-ID: <")]
    assert line.endswith(ending) and len(line) == len(b"Message-ID: <") + 20 + len(ending)
    _, message = Configured("add-message-id-header yes").take("message-id: <a@b>\n")
    assert b"Message-ID" not in message.prefix


def test_a_field_that_is_cut_counts_as_missing() -> None:
    body, message = Configured("remove-header date, message-id\nadd-date-header yes\nadd-message-id-header yes").take("Date: d\nMessage-ID: <m@x>\n")
    assert body == b"\r\n" + TEXT
    assert names(message.prefix) == [b"Received", b"Date", b"Message-ID"]


def test_a_message_without_a_header_section_keeps_its_text() -> None:
    gate = Configured("remove-header x-a\nadd-date-header yes")
    assert gate.send(b"no header here\r\n").positive
    assert gate.body == b"\r\nno header here\r\n"


def test_included_headers_follow_ours() -> None:
    _, message = Configured(server="include-headers-from headers.txt", **{"headers.txt": "X-One: 1\n  folded\nX-Two: 2\n\n"}).take("Subject: s\n")
    assert message.prefix.endswith(b"\r\nX-One: 1\r\n  folded\r\nX-Two: 2\r\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        ("X-A: 1\n\nX-B: 2\n", "line 2 is neither a header field in ASCII nor the continuation of one"),
        (" folded: first\n", "line 1 is neither"),
        (".X: dot\n", "line 1 is neither"),
        ("X-A: \u00e4\n", "line 1 is neither"),
        ("X-A: a\rb\n", "line 1 is neither"),
        ("X-A: " + "a" * 1000, "line 1 is longer than 998 bytes"),
        ("X: 1\n" * 4000, "larger than 16 KB"),
    ],
)
def test_bad_header_files_stop_the_start(content: str | None, reason: str) -> None:
    files = {} if content is None else {"headers.txt": content}
    loaded = build(from_text("log-file /l\ninclude-headers-from headers.txt\n", **files))
    assert loaded.config is None
    (problem,) = loaded.problems
    assert reason in problem.text and problem.line == 2


@pytest.mark.parametrize(
    ("source", "header", "job", "left"),
    [
        ("process-x-job yes", "X-Job: spring-7 and more\nSubject: s\n", "spring-7", b"Subject: s\r\n"),
        ("process-x-job yes\nretain-x-job yes", "x-job: a\n", "a", b"x-job: a\r\n"),
        ("process-x-job yes\njobid-header X-Campaign", "x-campaign: c\n", "c", b"x-campaign: c\r\n"),
        ("process-x-job yes\njobid-header X-Campaign", "x-campaign: c\nx-job: j\n", "j", b"x-campaign: c\r\n"),
        ("process-x-job yes\njobid-prefix p-", "x-job: j\n", "p-j", b""),
        ("process-x-job yes\njobid-prefix p-", "Subject: s\n", "", b"Subject: s\r\n"),
        ("process-x-job yes", "x-job: \xe9\x01" + "a" * 300 + "\n", "??" + "a" * 253, b""),
        ("bcc ops@corp.example", "x-job: j\n", "", b"x-job: j\r\n"),
    ],
)
def test_job_ids(source: str, header: str, job: str, left: bytes) -> None:
    body, message = Configured(source).take(header)
    assert (message.job_id, body) == (job, left + b"\r\n" + TEXT)


def test_the_envelope_id_of_the_header_beats_the_one_of_mail() -> None:
    body, message = Configured("process-x-envid yes").take("X-Envid: e 1\n")
    assert (message.env_id, body) == ("e 1", b"\r\n" + TEXT)


def test_strangers_do_not_steer_us_by_headers() -> None:
    asked = "process-x-job yes\njobid-header x-campaign\nprocess-x-envid yes\nprocess-x-virtual-mta yes"
    header = "x-job: j\nx-campaign: c\nx-envid: e\nx-virtual-mta: a\n"
    gate = Configured(asked, relays=False)
    body, message = gate.take(header)
    assert (message.job_id, message.env_id) == ("", "")
    assert body == header.replace("\n", "\r\n").encode() + b"\r\n" + TEXT
    assert gate.link.recipients()[0][0] == "relay.example/{default}"


KEY = "x-dkim-key: -----BEGIN RSA PRIVATE KEY-----\n MIIE\n -----END RSA PRIVATE KEY-----\n"
SCHEDULE = "X-Schedule: 2026-11-24 10:00 / 2026-11-24 12:00\n"
OPTIONS = "X-DKIM-Options: s=key1; d=a.example\n"


@pytest.mark.parametrize("relays", [True, False])
@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("", OPTIONS),
        ("bcc ops@corp.example", OPTIONS),
        ("retain-x-schedule yes", SCHEDULE + OPTIONS),
        ("retain-x-dkim-key yes", KEY + OPTIONS),
        ("retain-x-dkim-key yes\nretain-x-schedule yes", KEY + SCHEDULE + OPTIONS),
        ("retain-x-dkim-options yes", OPTIONS),
    ],
)
def test_private_keys_and_schedules_are_stripped_from_everybodys_mail_unless_retained(source: str, kept: str, relays: bool) -> None:
    body, _ = Configured(source, relays=relays).take(f"Subject: s\n{KEY}{SCHEDULE}{OPTIONS}To: r\n")
    assert body == f"Subject: s\n{kept}To: r\n".replace("\n", "\r\n").encode() + b"\r\n" + TEXT


@pytest.mark.parametrize(("relays", "retained", "kept"), [(True, "no", ""), (True, "yes", OPTIONS), (False, "no", OPTIONS)])
def test_dkim_options_are_stripped_where_they_are_processed(relays: bool, retained: str, kept: str) -> None:
    body, _ = Configured(f"process-x-dkim-options yes\nretain-x-dkim-options {retained}", relays=relays).take(f"{OPTIONS}Subject: s\n")
    assert body == f"{kept}Subject: s\n".replace("\n", "\r\n").encode() + b"\r\n" + TEXT


@pytest.mark.parametrize("source", ["", "retain-x-schedule yes"])
def test_a_private_key_is_stripped_from_a_message_that_streams(source: str) -> None:
    gate = Configured(source)
    header = f"Subject: s\n{KEY}".replace("\n", "\r\n").encode()
    text = b"x-dkim-key: text\r\n" * 20_000
    assert gate.send(header + b"\r\n" + text, recipients=["r@relay.example"]).positive
    assert gate.segments.large and gate.body == b"Subject: s\r\n\r\n" + text


def test_virtual_mta_header_beside_others() -> None:
    gate = Configured("process-x-job yes\nprocess-x-virtual-mta yes")
    body, message = gate.take("x-virtual-mta: a\nx-job: j\n")
    assert (body, message.job_id, gate.link.recipients()[0][0]) == (b"\r\n" + TEXT, "j", "relay.example/a")


def test_a_copy_of_every_message() -> None:
    gate = Configured("bcc archive@corp.example")
    gate.take("Subject: s\n")
    (first, _), (copy, due) = gate.link.recipients()
    assert (first, copy, due.address, due.notify) == ("relay.example/{default}", "corp.example/{default}", "archive@corp.example", 1)
    gate = Configured("bcc archive@corp.example")
    gate.take("Subject: s\n", "archive@corp.example")
    assert len(gate.link.recipients()) == 1


@pytest.mark.parametrize("said", ["yes", "no"])
def test_verp_is_a_matter_of_each_recipient_but_a_copys(said: str) -> None:
    gate = Configured(f"verp-default {said}\nbcc archive@corp.example")
    gate.take("Subject: s\n")
    assert [due.verp for _, due in gate.link.recipients()] == [said == "yes", False]


def test_defaults_for_dsns() -> None:
    _, message = Configured("suppress-local-dsn yes").take("Subject: s\n")
    assert not message.notify_sender
    _, message = Configured("dsn-return-default full").take("Subject: s\n")
    assert (message.ret, message.notify_sender) == ("FULL", True)


def test_large_messages_are_treated_alike() -> None:
    gate = Configured("process-x-job yes\nremove-header x-a\nadd-date-header override")
    head = b"Date: d\r\nX-A: 1\r\nx-job: j\r\nSubject: s\r\n\r\n"
    assert gate.send(head + b"x" * 200_000 + b"\r\n", b"y" * 200_000 + b"\r\n", recipients=["r@relay.example"]).positive
    assert gate.body.startswith(b"Subject: s\r\n\r\nxx") and len(gate.body) == 400_004 + len(b"Subject: s\r\n\r\n")
    assert gate.link.messages()[0].job_id == "j"
