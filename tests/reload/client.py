"""Clients that never stop sending: what was accepted, and everything that a client of a server that only reloads must not meet."""

from __future__ import annotations

import smtplib
import threading
import time
from contextlib import suppress

DOMAINS = 3


class Clients:
    """*count* threads, each with one connection after another to *port*.

    `accepted` are the recipients whose final dot was answered 250; `wrong` is what should not have been: a refused or silent connection, an
    answer other than 421 or 452, a transaction that broke off after its content was sent.
    """

    def __init__(self, port: int, count: int, pause_s: float) -> None:
        self.accepted: list[str] = []
        self.wrong: list[str] = []
        self.turned_away = 0  # 421, or a connection that ended between two messages
        self.hung_up = 0  # of these: ended without a word that the client could read
        self._port, self._pause_s = port, pause_s
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self, number: int) -> None:
        serial = 0
        while not self._end.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self._port, timeout=20) as client:
                    for _ in range(10):
                        serial += 1
                        if self._end.is_set() or not self._send(client, f"u{number}-{serial}@d{serial % DOMAINS}.example"):
                            break
                        self._end.wait(self._pause_s)
            except smtplib.SMTPResponseException as error:  # greeted with something else than 220
                self._answered(error.smtp_code, error.smtp_error)
            except smtplib.SMTPServerDisconnected:  # while it left
                self._away(hung_up=1)
            except OSError as error:
                if isinstance(error, ConnectionResetError):  # between two messages: its 421 crossed our command
                    self._away(hung_up=1)
                else:
                    self._wrong(f"{time.strftime('%H:%M:%S')} connecting: {error!r}")

    def _send(self, client: smtplib.SMTP, recipient: str) -> bool:
        """Whether the next message may follow on this connection."""
        client.ehlo_or_helo_if_needed()
        for command, argument in (("mail", "FROM:<s@origin.example>"), ("rcpt", f"TO:<{recipient}>")):
            code, text = client.docmd(command, argument)
            if code != 250:
                self._answered(code, text)
                return False
        try:
            code, text = client.data(f"Subject: {recipient}\r\n\r\nbody of {recipient}\r\n")
        except smtplib.SMTPDataError as error:
            code, text = error.smtp_code, error.smtp_error
        except (smtplib.SMTPException, OSError) as error:
            self._wrong(f"{time.strftime('%H:%M:%S')} a transaction broke off: {error!r}")
            return False
        if code != 250:
            self._answered(code, text)
            return False
        with self._lock:
            self.accepted.append(recipient)
        return True

    def _answered(self, code: int, text: bytes | str) -> None:
        if code in (421, 452):
            self._away()
        else:
            self._wrong(f"{time.strftime('%H:%M:%S')} answered {code} {text!r}")

    def _away(self, hung_up: int = 0) -> None:
        with self._lock:
            self.turned_away += 1
            self.hung_up += hung_up
        with suppress(Exception):
            self._end.wait(0.005)

    def _wrong(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)
        self._end.wait(0.05)
