"""What a <source> or the server's settings change of a session: traces, waiting for a slot, relay-debug, transient errors."""

from __future__ import annotations

import pytest

from engine.config import Config, build, from_text
from engine.smtp.traced import SHOWN_BODY_BYTES
from tests.listener.live import Live


def configured(source: str = "", server: str = "") -> Config:
    text = f"log-file /l\nhost-name mx.engine.example\n{server}\n<source 127.0.0.1>\nalways-allow-relaying yes\n{source}\n</source>\n"
    loaded = build(from_text(text))
    assert loaded.config is not None, loaded.problems
    return loaded.config


def trace(live: Live) -> list[str]:
    return [text.partition(" ")[2] for kind, text in live.do(lambda: list(live.log.events)) if kind == "smtp"]


def test_commands_and_replies_are_logged() -> None:
    with Live(configured("log-commands yes")) as live:
        with live.client() as peer:
            peer.greet()
            peer.send(b"Subject: s\r\n\r\nsecret text\r\n.\r\n")
            peer.reply()
            peer.say("VRFY \x01\xff" + "a" * 1500)
            peer.say("QUIT")
        live.until(lambda: live.count.mine() == 0)
        lines = trace(live)
        port = live.log.text("smtp").partition("client=127.0.0.1:")[2].partition(" ")[0]
    assert int(port) > 0
    assert lines[0].startswith("<<< 220 mx.engine.example ")
    assert [line for line in lines if line.startswith(">>>")][:4] == [
        ">>> EHLO client.example",
        ">>> MAIL FROM:<s@sender.example>",
        ">>> RCPT TO:<r@one.example>",
        ">>> DATA",
    ]
    assert ">>> QUIT" in lines and lines[-1] == "<<< 221 2.0.0 mx.engine.example says goodbye"
    assert any(line.startswith("<<< 250 2.6.0 message received") for line in lines)
    assert not any("secret text" in line for line in lines)
    (long,) = [line for line in lines if ">>> VRFY" in line]
    assert long.startswith(r">>> VRFY \x01\xffaaa") and long.endswith("...") and len(long) <= 1004


def test_what_follows_auth_is_never_logged() -> None:
    with Live(configured("log-commands yes\nlog-data yes")) as live:
        with live.client() as peer:
            peer.reply()
            peer.say("EHLO client.example", "AUTH PLAIN AHVzZXIAc2VjcmV0", "AUTH LOGIN", "dXNlcg==", "c2VjcmV0 rest", "QUIT")
        live.until(lambda: live.count.mine() == 0)
        lines = trace(live)
    assert ">>> AUTH (not shown)" in lines and ">>> (not shown, it follows AUTH)" in lines
    assert not any(secret in line.lower() for line in lines for secret in ("ahvz", "dxnl", "c2vj"))


def test_contents_are_logged_by_lines_and_within_bounds() -> None:
    with Live(configured("log-data yes")) as live, live.client() as peer:
        peer.greet()
        peer.send(b"Subject: s\r\n\r\none ")
        peer.send(b"line\x1b[2J\r\nlast\r\n.\r\n")
        assert peer.reply().startswith("250 ")
        assert trace(live) == ["data Subject: s", "data ", r"data one line\x1b[2J", "data last"]
        live.do(live.log.events.clear)
        peer.say("MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>", "DATA")
        peer.send(b"x" * 78 + b"\r\n" + (b"y" * 78 + b"\r\n") * 3000 + b".\r\n")
        assert peer.reply().startswith("250 ")
        lines = trace(live)
    assert lines[-1] == f"data ({SHOWN_BODY_BYTES >> 10} KB shown, the rest is not)"
    assert SHOWN_BODY_BYTES - 2000 < sum(len(line) for line in lines) < SHOWN_BODY_BYTES + 2 * 1024 * 8


def test_a_private_key_is_never_logged() -> None:
    with Live(configured("log-data yes")) as live, live.client() as peer:
        peer.greet()
        for again in (False, True):
            if again:
                live.do(live.log.events.clear)
                peer.say("MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>", "DATA")
            for piece in (b"Subject: s\r\nX-DKI", b"M-Key: -----BEGIN\r\n MII", b"Eow\r\nTo: r\r\n\r\nx-dkim-key: text\r\n.\r\n"):
                peer.send(piece)
            assert peer.reply().startswith("250 ")
            assert trace(live) == ["data Subject: s", "data To: r", "data ", "data x-dkim-key: text"]


def test_a_private_key_is_neither_stored_nor_logged_where_chunks_cut_it() -> None:
    message = b"Subject: s\r\nX-DKIM-Key: -----BEGIN\r\n MIIEow\r\nTo: r\r\n\r\ntext\r\n"
    for cut in (3, 15, 30, 40, len(message)):
        with Live(configured("log-data yes")) as live, live.client() as peer:
            peer.reply()
            peer.say("EHLO c", "MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>")
            for piece, last in ((message[:cut], ""), (message[cut:], " LAST")):
                peer.send(f"BDAT {len(piece)}{last}\r\n".encode() + piece)
                assert peer.reply().startswith("250 ")
            (body,) = live.segments.bodies.values()
            assert body == b"Subject: s\r\nTo: r\r\n\r\ntext\r\n"
            assert trace(live) == ["data Subject: s", "data To: r", "data ", "data text"]


def test_nothing_is_traced_unless_asked_for() -> None:
    with Live(configured()) as live:
        with live.client() as peer:
            peer.greet()
            peer.send(b".\r\n")
            peer.reply()
        assert trace(live) == []


MISADDRESSED = ["<a b@c>", "<user@-bad->", "<a@b..c>", "<nobody>", "<@>", "<\xc3\xa9@x> NOTIFY=NEVER", "<a@b_-.example>"]


@pytest.mark.parametrize("accepts", [True, False])
def test_what_is_no_address_may_be_accepted_to_bounce(accepts: bool) -> None:
    with Live(configured(f"accept-invalid-recipients {'yes' if accepts else 'no'}")) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO c", "MAIL FROM:<s@sender.example>")
        answers = {path: peer.say(f"RCPT TO:{path}")[:9] for path in MISADDRESSED}
        assert all(answer == "250 2.1.5" for answer in answers.values()) == accepts, answers
        assert any(answer.startswith("5") for answer in answers.values()) != accepts
        if not accepts:
            return
        for worse in ("<\xff@x>", "<a\tb\x01@c>", "<" + "a" * 321 + ">", "<a b@c> NOTIFY=WHAT", "a b@c", "<>"):
            assert peer.say(f"RCPT TO:{worse}")[0] == "5", worse
        assert peer.say("DATA").startswith("354 ")
        peer.send(b"Subject: s\r\n\r\n.\r\n")
        assert peer.reply().startswith("250 ")
        rows = live.link.recipients()
        (message,) = live.link.messages()
    assert {queue for queue, _ in rows} == {"{invalid}/{default}"}
    assert {due.address for _, due in rows} >= {"a b@c", "nobody", "@"} and [due.notify for _, due in rows].count(1) == 1
    assert b"a b@c" not in message.prefix


def test_strangers_cannot_name_what_is_no_address() -> None:
    with Live(configured("always-allow-relaying no\naccept-invalid-recipients yes")) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO c", "MAIL FROM:<s@sender.example>")
        assert {peer.say(f"RCPT TO:{path}") for path in MISADDRESSED} == {"550 5.7.1 relaying denied"}


def test_relay_debug_makes_denials_temporary() -> None:
    with Live(configured("always-allow-relaying no", "relay-debug yes")) as live, live.client() as peer:
        peer.reply()
        assert peer.say("EHLO c", "MAIL FROM:<s@sender.example>", "RCPT TO:<r@one.example>") == "450 4.7.1 relaying denied"
        assert peer.say("RCPT TO:<r@one..example>") == "450 4.7.1 relaying denied"
        assert live.log.text("refused").count("reply=450 4.7.1 relaying denied") == 2


@pytest.mark.parametrize("qualifies", [True, False])
def test_auto_qualify_domain_decides_per_source(qualifies: bool) -> None:
    with Live(configured(f"auto-qualify-domain {'yes' if qualifies else 'no'}", "domain-suffix corp.example")) as live, live.client() as peer:
        peer.reply()
        peer.say("EHLO c")
        assert peer.say("MAIL FROM:<s>").startswith("250 " if qualifies else "501 5.1.7")
        if qualifies:
            peer.say("RCPT TO:<r>", "DATA")
            peer.send(b".\r\n")
            assert peer.reply().startswith("250 ")
            assert live.link.messages()[0].return_path == "s@corp.example"
            assert live.link.recipients()[0][0] == "corp.example/{default}"


def test_a_transient_answer_to_the_final_dot_closes_instead() -> None:
    with Live(configured("disconnect-on-transient-error yes")) as live, live.client() as peer:
        live.link.reply = "no space"
        peer.greet()
        peer.send(b"text\r\n.\r\n")
        assert peer.reply() == ""


def test_clients_wait_for_a_slot_in_order() -> None:
    with Live(configured("", "smtp-await-slot yes"), total=1) as live:
        first, second, third = live.client(), live.client(), live.client()
        with first, second, third:
            assert first.reply().startswith("220 ")
            live.until(lambda: len(live.listener._waiting) == 2)
            third.send(b"EHLO early.example\r\n")  # it is not read before its turn
            first.say("QUIT")
            assert second.reply().startswith("220 ")
            assert second.say("EHLO c").startswith("250-")
            assert live.count.mine() == 1
            second.close()
            assert third.reply().startswith("220 ")
            assert third.reply().startswith("250-")
        live.until(lambda: live.count.mine() == 0 and not live.listener._waiting)


def test_those_who_wait_hear_of_the_end_of_it() -> None:
    with Live(configured("", "smtp-await-slot yes"), total=1) as live:
        with live.client() as first, live.client() as second, live.client() as third:
            first.reply()
            live.until(lambda: len(live.listener._waiting) == 2)
            third.abort()
            live.until(lambda: len(live.listener._waiting) == 1)
            waiting = next(iter(live.listener._waiting))
            live.do(lambda: waiting.tick(live.listener.now_s + 301.0, False))
            assert second.reply() == "421 4.3.2 too many connections, try again later"
        live.until(lambda: live.count.mine() == 0 and not live.listener._waiting)


def test_a_drain_ends_the_waiting_too() -> None:
    with Live(configured("", "smtp-await-slot yes"), total=1) as live:
        with live.client() as first, live.client() as second:
            first.reply()
            live.until(lambda: len(live.listener._waiting) == 1)
            live.do(live.listener.drain)
            assert second.reply().startswith("421 4.3.2 service shutting down")
            assert first.reply().startswith("421 4.3.2 service shutting down")
        live.join()
