"""`engine init`: what flags say, what a terminal is asked, what is written and what is left alone."""

from __future__ import annotations

import io
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import main
from engine.config import Config, build, read
from engine.config.surroundings import Surroundings
from engine.config.verdict import judge


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def config_of(path: Path) -> Config:
    loaded = build(read(str(path)))
    assert loaded.config is not None
    assert loaded.problems == []
    verdict = judge(loaded, Surroundings())
    assert (verdict.usable, verdict.not_yet, verdict.risks) == (True, (), ())
    return loaded.config


def test_the_least(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "engine.conf"
    assert main(["init", "--host-name", "mail.example.org", "--output", str(path)]) == os.EX_OK
    assert str(path) in capsys.readouterr().out
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    config = config_of(path)
    assert config.server.host_name == ("mail.example.org",)
    assert config.server.postmaster == ("postmaster@mail.example.org",)
    assert [config.client(ip).always_allow_relaying for ip in ("127.0.0.1", "::1", "127.0.0.2", "8.8.8.8")] == [True, True, False, False]
    assert list(config.virtual_mtas) == ["{default}"]
    assert os.listdir(tmp_path) == ["engine.conf"]


def test_everything(tmp_path: Path) -> None:
    flags = ["--host-name", "mail.example.org", "--ip", "192.0.2.1", "--ip", "2001:db8::1", "--relay-from", "10/8", "--relay-from", "192.0.2.7"]
    assert main(["init", *flags, "--postmaster", "me@example.com", "--output", str(tmp_path)]) == os.EX_OK
    config = config_of(tmp_path / "engine.conf")
    assert config.server.postmaster == ("me@example.com",)
    assert [config.client(ip).always_allow_relaying for ip in ("10.1.2.3", "192.0.2.7", "127.0.0.1")] == [True, True, False]
    assert config.client("10.1.2.3").default_virtual_mta == "all"
    assert config.members("all") == ("mta1", "mta2")
    assert [(str(host.network), host.host_name) for name in config.members("all") for host in config.virtual_mtas[name].source_hosts] == [
        ("192.0.2.1/32", "mail.example.org"),
        ("2001:db8::1/128", "mail2.example.org"),
    ]


def test_one_address_needs_no_pool(tmp_path: Path) -> None:
    assert main(["init", "--host-name", "mail.example.org", "--ip", "192.0.2.1", "--output", str(tmp_path)]) == os.EX_OK
    config = config_of(tmp_path / "engine.conf")
    assert (config.client("::1").default_virtual_mta, list(config.pools)) == ("mta1", [])


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "engine.conf"
    path.write_text("mine\n")
    path.chmod(0o644)
    command = ["init", "--host-name", "mail.example.org", "--output", str(path)]
    assert main(command) == os.EX_CANTCREAT
    assert path.read_text() == "mine\n"
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == os.EX_OK
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    config_of(path)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--host-name is needed"),
        (["--host-name", "no name"], "--host-name: "),
        (["--host-name", "m.example", "--ip", "nowhere"], "--ip: "),
        (["--host-name", "m.example", "--relay-from", "0/0"], "open relay"),
        (["--host-name", "m.example", "--relay-from", "::/0"], "open relay"),
        (["--host-name", "m.example", "--relay-from", "here"], "--relay-from: 'here' is not"),
        (["--host-name", "m.example", "--postmaster", "a b"], "--postmaster: "),
    ],
)
def test_flags_that_cannot_be_used(tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *flags, "--output", str(tmp_path)]) == os.EX_USAGE
    assert said in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--host-name", "m.example", "--output", str(tmp_path / "no" / "engine.conf")]) == os.EX_CANTCREAT
    assert "No such file" in capsys.readouterr().err


def answered(arguments: list[str], answers: list[tuple[str, str]]) -> tuple[str, int]:
    """What `engine` says on a terminal where each question that ends in the first gets the second as its answer, and its exit status."""
    parent, child = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "engine", *arguments], stdin=child, stdout=child, stderr=child)
    os.close(child)
    said, seen = "", 0
    try:
        while chunk := os.read(parent, 4096):
            said += chunk.decode()
            if answers and answers[0][0] in said[seen:] and said.endswith("]: "):
                seen = len(said)
                os.write(parent, answers.pop(0)[1].encode())
    except OSError:  # EIO: the other end is closed
        pass
    finally:
        os.close(parent)
        status = process.wait(timeout=30)
    assert not answers, said
    return said, status


def test_a_terminal_is_asked_and_wrong_answers_are_asked_again(tmp_path: Path) -> None:
    answers = [
        ("Host name", "no such name!\n"),
        ("Host name", "mail.example.org\n"),
        ("Addresses to send from", "192.0.2.1, 192.0.2.2\n"),
        ("Who may send", "0/0\n"),
        ("Who may send", "10.0.0.0/8\n"),
        ("postmaster@mail.example.org", "\n"),
    ]
    said, status = answered(["init", "--output", str(tmp_path)], answers)
    assert status == os.EX_OK, said
    assert "open relay" in said
    config = config_of(tmp_path / "engine.conf")
    assert config.members("all") == ("mta1", "mta2")
    assert config.client("10.0.0.1").always_allow_relaying
    assert config.server.postmaster == ("postmaster@mail.example.org",)


def test_only_what_no_flag_says_is_asked(tmp_path: Path) -> None:
    flags = ["--host-name", "m.example", "--ip", "192.0.2.1", "--relay-from", "::1"]
    said, status = answered(["init", *flags, "--output", str(tmp_path)], [("postmaster@m.example", "x@y.example\n")])
    assert status == os.EX_OK, said
    assert config_of(tmp_path / "engine.conf").server.postmaster == ("x@y.example",)


def test_answers_that_end(tmp_path: Path) -> None:
    said, status = answered(["init", "--output", str(tmp_path)], [("Host name", "\x04")])
    assert (status, os.listdir(tmp_path)) == (os.EX_USAGE, []), said
