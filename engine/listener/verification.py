"""Answers what AUTH asks: at once where that is cheap or known, else from one thread with a bounded queue, so that no loop waits for Argon2id."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from engine.door import network_of
from engine.mail.reply import Reply, reply
from engine.policy.credentials import Credentials
from engine.smtp.auth import Answer, DigestQuestion, PasswordQuestion, Question

MAX_WAITING: Final = 64  # questions that the thread has not answered
MAX_WAITING_OF_CLIENT: Final = 2  # of one network, as `door.network_of` says
WAIT_S: Final = 10.0  # for an answer, from the question
REMEMBERED: Final = 4096  # users and passwords that were right
REST: Final = 4  # times as long as a vain check took does the thread rest behind it: guessing gets a fifth of a core, no more

BUSY = reply(454, "4.7.0 Temporary authentication failure, try again later")


class _Asked:
    """A question on its way through the thread."""

    __slots__ = ("answer", "asked_s", "client", "question")

    def __init__(self, client: str, question: Question, asked_s: float, answer: Callable[[Answer | Reply], None]) -> None:
        self.client = client
        self.question = question
        self.asked_s = asked_s
        self.answer: Callable[[Answer | Reply], None] | None = answer  # None: nobody waits any more


class Verifier:
    """For one listener process; everything but `_work` happens in its loop."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._loop = asyncio.get_running_loop()
        self._thread: ThreadPoolExecutor | None = None  # since it was needed first
        self._waiting: deque[_Asked] = deque()  # the oldest first; those that are answered are dropped when they come first
        self._of_client: dict[str, int] = {}  # how many wait
        self._right: OrderedDict[bytes, None] = OrderedDict()  # fingerprints; the configuration and so the passwords last as long as the process

    def ask(self, client: str, question: Question, answer: Callable[[Answer | Reply], None]) -> Answer | Reply | None:
        """The answer; or None, and *answer* is called with it within about WAIT_S.  BUSY where *client*, an address, or all together ask too much."""
        if isinstance(question, DigestQuestion):
            return self._credentials.check_digest(question)
        if isinstance(question, PasswordQuestion):
            if not self._credentials.slow:
                return self._credentials.check_password(question)
            fingerprint = self._credentials.fingerprint(question)
            if fingerprint in self._right:
                self._right.move_to_end(fingerprint)
                return True
        client = network_of(client)
        if len(self._waiting) >= MAX_WAITING or self._of_client.get(client, 0) >= MAX_WAITING_OF_CLIENT:
            return BUSY
        asked = _Asked(client, question, self._loop.time(), answer)
        self._waiting.append(asked)
        self._of_client[client] = self._of_client.get(client, 0) + 1
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "verifier")
        self._thread.submit(self._work, asked)
        return None

    def tick(self, now_s: float) -> None:
        """Once a second: who has waited too long hears that."""
        while self._waiting and (self._waiting[0].answer is None or now_s - self._waiting[0].asked_s > WAIT_S):
            self._answered(self._waiting.popleft(), BUSY)

    def _work(self, asked: _Asked) -> None:
        """In the thread."""
        if asked.answer is None:
            return
        began_s = time.monotonic()
        question = asked.question
        if isinstance(question, PasswordQuestion):
            found: Answer = self._credentials.check_password(question)
        else:
            assert not isinstance(question, DigestQuestion)
            found = self._credentials.scram(question.user)
        try:
            self._loop.call_soon_threadsafe(self._found, asked, found)
        except RuntimeError:  # the loop has ended
            return
        if found is False:
            time.sleep(REST * (time.monotonic() - began_s))

    def _found(self, asked: _Asked, found: Answer) -> None:
        if found is True and isinstance(asked.question, PasswordQuestion):
            self._right[self._credentials.fingerprint(asked.question)] = None
            if len(self._right) > REMEMBERED:
                self._right.popitem(last=False)
        self._answered(asked, found)
        while self._waiting and self._waiting[0].answer is None:
            self._waiting.popleft()

    def _answered(self, asked: _Asked, answer: Answer | Reply) -> None:
        tell, asked.answer = asked.answer, None
        if tell is None:
            return
        left = self._of_client[asked.client] - 1
        if left:
            self._of_client[asked.client] = left
        else:
            del self._of_client[asked.client]
        tell(answer)
