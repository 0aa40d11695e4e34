"""Attacks on who may relay, against a live listener: guessing past smtp-max-auth-failure-rate, from many addresses, and by rubbish."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac

import pytest

from engine.listener.verification import BUSY, MAX_WAITING_OF_CLIENT, Verifier
from engine.policy.credentials import Credentials
from tests.listener.live import Client
from tests.listener.test_auth import CLEAR, configured, living, plain, relays
from tests.listener.test_verification import SLOW, WRONG

LOCKED = "421 4.7.0 Too many authentication failures, try again later"


def scram_up_to_the_proof(peer: Client, password: bytes) -> str:
    """What the client says last, once the server has said with which salt."""
    peer.reply()
    peer.say("EHLO client.example")
    first = "n=foo,r=abc"
    server_first = base64.b64decode(peer.say("AUTH SCRAM-SHA-256 " + base64.b64encode(f"n,,{first}".encode()).decode())[4:]).decode()
    nonce, salt, iterations = (part[2:] for part in server_first.split(","))
    bare = f"c=biws,r={nonce}"
    salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(salt), int(iterations))
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), f"{first},{server_first},{bare}".encode(), "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    return base64.b64encode(f"{bare},p={base64.b64encode(proof).decode()}".encode()).decode()


def test_guesses_that_were_begun_before_the_lock_are_not_answered_behind_it() -> None:
    limited = configured(CLEAR, "smtp-max-auth-failure-rate 2/1h")
    with living(limited) as live, live.client() as one, live.client() as two, live.client() as right, live.client() as wrong:
        guesses = [(peer, scram_up_to_the_proof(peer, word)) for peer, word in ((one, b"x"), (two, b"y"), (right, b"barbaz"), (wrong, b"z"))]
        answers = [peer.say(proof) for peer, proof in guesses]
    assert [answer[:4] for answer in answers[:2]] == ["535 ", "535 "]
    assert answers[2:] == [LOCKED, LOCKED], "a right guess and a wrong one hear the same"


def test_all_addresses_of_an_ipv6_customer_share_one_place_in_the_queue() -> None:
    async def run() -> list[object]:
        verifier = Verifier(Credentials(SLOW))
        asked = [verifier.ask(f"2001:db8::{number}", WRONG, lambda answer: None) for number in range(1, MAX_WAITING_OF_CLIENT + 3)]
        verifier.tick(asyncio.get_running_loop().time() + 60)  # nobody waits for them any more
        return asked

    assert asyncio.run(run()) == [None] * MAX_WAITING_OF_CLIENT + [BUSY, BUSY]


ROUTES = [
    b"AUTH PLAIN AGZvbwBiYXI=\r\n",  # wrong
    b"AUTH LOGIN\r\nZm9v\r\n*\r\n",
    b"AUTH LOGIN\r\nZm9v\r\nYmFy\r\nRSET\r\n",
    b"AUTH PLAIN\r\nAGZvbwBiYXI=\r\nEHLO c\r\n",
    b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=foo,r=a") + b"\r\n\r\n",  # an empty answer, as behind a proof
    b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"y,a=admin,n=foo,r=a") + b"\r\n",
    b"AUTH PLAIN " + base64.b64encode(b"foo\0foo\0barbaz\0") + b"\r\n",
    b"AUTH PLAIN " + base64.b64encode(b"admin\0foo\0barbaz") + b"\r\n",
    b"AUTH PLAIN " + base64.b64encode("\0\uff26OO\0barbaz".encode()) + b"\r\n",
    b"AUTH CRAM-MD5\r\n" + base64.b64encode(b"foo " + hmac.digest(b"", b"", "md5").hex().encode()) + b"\r\n",
    b"AUTH LOGIN\r\n" + b"A" * 65536 + b"\r\n",
    b"AUTH LOGIN\r\n" + base64.b64encode(b"\0" * 9000) + b"\r\n",
    b"AUTH LOGIN\r\n" + base64.b64encode("\u0301".encode() * 4500) + b"\r\n",
    b"AUTH PLAIN \xff\xfe\r\n",
    b"AUTH \xdf\r\n",
    b"AUTH\r\n",
    b"AUTH PLAIN =\r\n",
    b"AUTH PLAIN " + base64.b64encode(b"\0\xff\xfe\0x") + b"\r\n",
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("more", ["", "require-auth yes"])
def test_a_stranger_stays_one_whatever_it_pipelines(route: bytes, more: str) -> None:
    transaction = b"MAIL FROM:<s@sender.example>\r\nRCPT TO:<r@elsewhere.example>\r\nDATA\r\nQUIT\r\n"
    with living(configured(CLEAR, *([more] if more else []))) as live:
        with live.client() as peer:
            peer.reply()
            peer.send(b"EHLO c\r\n" + route + transaction)
            said = b""
            while piece := peer.socket.recv(65536):
                said += piece
        with live.client() as other:  # the loop is well, and nobody else is let in or kept out
            other.reply()
            other.say("EHLO c")
            assert plain(other).startswith("235 ") and relays(other).startswith("250 ")
        assert not live.link.messages()
    codes = [line[:3] for line in said.split(b"\r\n")]
    assert b"235" not in codes and b"354" not in codes
