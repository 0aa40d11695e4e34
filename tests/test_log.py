"""The event log: whole lines, safe text, and no fault that reaches the mail flow."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.log import FLUSH_AT_CHARS, EventLog, escape

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d{4} listener/0 (.*)\n")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("250 2.0.0 Ok", "250 2.0.0 Ok"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x00\x1b[31m\x7f", r"\x00\x1b[31m\x7f"),
        (r"C:\new", r"C:\\new"),
        ("é", r"\xc3\xa9"),
        (b"\xe9", r"\xe9"),
        ("\udce9", r"\xe9"),
        ("\ud800", r"\\ud800"),
    ],
)
def test_escape(text: str | bytes, safe: str) -> None:
    assert escape(text) == safe


@given(st.one_of(st.text(max_size=50), st.binary(max_size=50)), st.integers(4, 60))
def test_escaped_text_is_printable_ascii_and_bounded(text: str | bytes, limit: int) -> None:
    safe = escape(text, limit)
    assert len(safe) <= limit
    assert safe.isascii()
    assert safe.isprintable() or not safe


@given(st.binary(max_size=100))
def test_escape_loses_nothing(data: bytes) -> None:
    assert escape(data).encode().decode("unicode_escape").encode("latin-1") == data


def test_lines_carry_time_offset_role_and_kind(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"), "listener/0")
    log.event("accepted", "id=1")
    log.event("refused", "text=a\nforged line")
    log.close()
    lines = (tmp_path / "log").read_text().splitlines(keepends=True)
    assert [LINE.fullmatch(line) and LINE.fullmatch(line)[1] for line in lines] == ["accepted id=1", r"refused text=a\nforged line"]  # type: ignore[index]
    assert (tmp_path / "log").stat().st_mode & 0o137 == 0


def test_nothing_is_written_before_flush_unless_much_waits(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"), "listener/0")
    log.event("a", "b")
    assert not (tmp_path / "log").exists()
    log.event("a", "b" * FLUSH_AT_CHARS)
    assert (tmp_path / "log").stat().st_size > FLUSH_AT_CHARS


def test_processes_share_the_file_line_by_line(tmp_path: Path) -> None:
    logs = [EventLog(str(tmp_path / "log"), f"listener/{index}") for index in range(3)]
    for turn in range(20):
        for log in logs:
            log.event("turn", str(turn))
            log.flush()
    assert len((tmp_path / "log").read_text().splitlines()) == 60


def test_full_disk_is_counted_and_said_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(str(tmp_path / "log"), "listener/0")
    log.event("kept", "1")
    log.flush()
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        log.event("lost", "2")
        log.event("lost", "3")
        log.flush()
        disk.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
        log.event("torn", "4")
        log.flush()
    log.event("kept", "5")
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    said = "\n".join(lines)
    assert re.search(r"log lost \d+ lines that could not be written", said)
    assert [line.rsplit(" ", 2)[-2:] for line in lines if " kept " in line] == [["kept", "1"], ["kept", "5"]]
    assert "lost 2" not in said


def test_log_that_cannot_be_opened_goes_to_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = EventLog(str(tmp_path / "missing" / "log"), "listener/0")
    log.event("accepted", "id=1")
    log.flush()
    said = capfd.readouterr().err
    assert "cannot write the log" in said
    assert "accepted id=1" in said


def test_log_that_can_be_opened_later_is_used_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("engine.log.OPEN_AGAIN_S", 0.0)
    log = EventLog(str(tmp_path / "later" / "log"), "listener/0")
    for number in range(3):
        log.event("accepted", f"id={number}")
        log.flush()
    (tmp_path / "later").mkdir()
    log.event("accepted", "id=3")
    log.flush()
    assert (tmp_path / "later" / "log").read_text().count("\n") == 1
    said = capfd.readouterr().err
    assert said.count("cannot write the log") == 1 and "id=2" in said and "id=3" not in said
    log.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file for somebody else")
def test_a_log_that_root_makes_is_for_its_workers(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "log"), "supervisor/0", (65534, 65534))
    before = os.umask(0o077)
    try:
        log.event("one", "1")
        log.flush()
        (tmp_path / "log").rename(tmp_path / "log.1")
        log.reopen()
        log.event("two", "2")
        log.close()
    finally:
        os.umask(before)
    for name in ("log", "log.1"):
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o640)


def test_a_log_that_is_a_symlink_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)  # root does not follow it
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    log = EventLog(str(tmp_path / "log"), "listener/0")
    log.event("one", "1")
    log.flush()
    log.reopen()
    assert log._fd >= 0
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.reopen()
    assert log._fd < 0
    log.event("two", "2")
    log.close()
    assert "one 1" in (tmp_path / "elsewhere").read_text() and "two 2" in (tmp_path / "log").read_text()


def test_another_file_that_the_logs_name_was_given_to_keeps_its_mode(tmp_path: Path) -> None:
    """Whoever may write to the directory may link an empty file of ours there."""
    (tmp_path / "ours").touch(0o600)
    os.link(tmp_path / "ours", tmp_path / "log")
    log = EventLog(str(tmp_path / "log"), "supervisor/0", (65534, 65534))
    log.event("one", "1")
    log.close()
    found = (tmp_path / "ours").stat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o600)


def test_root_does_not_wait_at_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "log")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    log = EventLog(str(tmp_path / "log"), "supervisor/0")
    log.event("one", "1")
    log.close()
    assert "one 1" in capfd.readouterr().err
