"""engine hash-password."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest

from engine.cli import main, password
from engine.config.stored_password import fault
from engine.policy.credentials import Credentials
from engine.smtp.auth import PasswordQuestion
from tests.listener.test_auth import configured


@pytest.mark.parametrize("given", [b"secret # with blanks\n", "sécret".encode(), b"x" * 1024 + b"\r\n"])
def test_what_it_prints_verifies_the_password(given: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(given)))
    assert main(["hash-password"]) == os.EX_OK
    hashed = capsys.readouterr().out.strip()
    assert fault(hashed) == ""
    credentials = Credentials(configured(users=f"<smtp-user h>\npassword {hashed}\n</smtp-user>\n"))
    assert credentials.check_password(PasswordQuestion("h", given.rstrip(b"\r\n")))
    assert not credentials.check_password(PasswordQuestion("h", given.rstrip(b"\r\n") + b"x"))


@pytest.mark.parametrize("given", [b"", b"\n", b"x" * 1025 + b"\n"])
def test_what_is_no_password_is_refused(given: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(given)))
    assert main(["hash-password"]) == os.EX_DATAERR
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("entered", "code"), [(("one", "one"), os.EX_OK), (("one", "other"), os.EX_DATAERR)])
def test_on_a_terminal_it_asks_twice(entered: tuple[str, str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(entered)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(password.getpass, "getpass", lambda prompt: next(answers))
    assert main(["hash-password"]) == code
