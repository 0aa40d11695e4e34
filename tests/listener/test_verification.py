"""Passwords that are slow to verify: beside the loop, in a bounded queue, at a bounded share of a core."""

from __future__ import annotations

import asyncio
import time

import pytest

from engine.listener import verification
from engine.listener.verification import BUSY, MAX_WAITING, MAX_WAITING_OF_CLIENT, WAIT_S, Verifier
from engine.policy.credentials import Credentials
from engine.smtp.auth import PasswordQuestion, ScramSecret, SecretQuestion
from tests.listener.test_auth import HASHED, configured

SLOW = configured(users=f"<smtp-user h>\npassword {HASHED}\n</smtp-user>\n")
RIGHT, WRONG, NOBODY = PasswordQuestion("h", b"argon"), PasswordQuestion("h", b"x"), PasswordQuestion("nobody", b"x")


async def answer_to(verifier: Verifier, client: str, question: PasswordQuestion | SecretQuestion) -> object:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    answer = verifier.ask(client, question, future.set_result)
    return answer if answer is not None else await asyncio.wait_for(future, 20)


def test_answers_are_right_and_only_successes_are_remembered() -> None:
    async def run() -> None:
        verifier = Verifier(Credentials(SLOW))
        for question, right in ((RIGHT, True), (WRONG, False), (NOBODY, False), (PasswordQuestion("foo", b"barbaz"), True)):
            assert await answer_to(verifier, "192.0.2.1", question) is right
        later: list[object] = []
        assert verifier.ask("192.0.2.1", RIGHT, later.append) is True
        assert verifier.ask("192.0.2.1", WRONG, later.append) is None

    asyncio.run(run())


def test_nobody_is_told_from_somebody_by_scram() -> None:
    async def run() -> None:
        verifier = Verifier(Credentials(configured()))
        foo, nobody = [await answer_to(verifier, "192.0.2.1", SecretQuestion(name)) for name in ("foo", "nobody")]
        assert isinstance(foo, ScramSecret) and isinstance(nobody, ScramSecret)
        assert (foo.valid, nobody.valid) == (True, False) and foo.iterations == nobody.iterations and len(foo.salt) == len(nobody.salt)
        again = await answer_to(verifier, "192.0.2.1", SecretQuestion("nobody"))
        assert again == nobody  # a salt that changed would give it away

    asyncio.run(run())


def test_one_client_and_all_together_wait_in_bounds() -> None:
    async def run() -> None:
        verifier = Verifier(Credentials(SLOW))
        answers: list[object] = []
        asked = [verifier.ask("192.0.2.1", WRONG, answers.append) for _ in range(MAX_WAITING_OF_CLIENT + 1)]
        assert asked == [None] * MAX_WAITING_OF_CLIENT + [BUSY]
        asked = [verifier.ask(f"192.0.2.{number}", WRONG, answers.append) for number in range(2, MAX_WAITING + 3)]
        assert asked.count(None) == MAX_WAITING - MAX_WAITING_OF_CLIENT and asked[-1] is BUSY
        verifier.tick(asyncio.get_running_loop().time() + WAIT_S + 1)
        assert answers == [BUSY] * MAX_WAITING
        assert verifier.ask("192.0.2.1", WRONG, answers.append) is None

    asyncio.run(run())


def test_guessing_at_full_speed_gets_a_bounded_share_of_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    took: list[float] = []

    class Counted(Credentials):
        def check_password(self, question: PasswordQuestion) -> bool:
            began_s = time.monotonic()
            found = super().check_password(question)
            took.append(time.monotonic() - began_s)
            return found

    monkeypatch.setattr(verification.time, "sleep", rests.append)

    async def run() -> None:
        verifier = Verifier(Counted(SLOW))
        for number in range(8):
            assert await answer_to(verifier, f"192.0.2.{number}", WRONG) is False
        assert await answer_to(verifier, "192.0.2.9", RIGHT) is True
        assert verifier._thread is not None
        verifier._thread.shutdown()

    asyncio.run(run())
    assert len(rests) == 8  # behind each vain check, and behind no other
    assert all(rest >= verification.REST * spent for rest, spent in zip(rests, took, strict=False))
