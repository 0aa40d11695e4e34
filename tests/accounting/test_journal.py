"""One file on disk: what happens to it is never more than we did."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.accounting.journal import Journal, Position, decode_position, encode_position

HEADER = b"type,rcpt\r\n"
DATE = "2026-11-24"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "new" / "acct.csv"), HEADER, max_size_bytes=100)


def again(journal: Journal, position: Position, header: bytes = HEADER) -> tuple[Journal, str]:
    """Another process's journal, recovered at *position*."""
    journal.close()
    successor = Journal(str(journal.path), header, max_size_bytes=100)
    return successor, successor.recover(position)


def test_a_new_file_has_date_sequence_header_and_mode(journal: Journal) -> None:
    assert journal.usable() == "none is open"
    position = journal.begin(DATE)
    file = journal.path.with_name("acct-2026-11-24-0000.csv")
    assert position.file == str(file) and position.offset == len(HEADER) and journal.usable() == ""
    assert file.read_bytes() == HEADER and file.stat().st_mode & 0o777 == 0o640


def test_lines_are_appended_and_a_name_is_never_taken_twice(journal: Journal) -> None:
    journal.begin(DATE)
    assert journal.append(b"d,a\r\n").offset == len(HEADER) + 5
    assert journal.begin(DATE).file.endswith("-0001.csv") and journal.begin("2026-11-25").file.endswith("acct-2026-11-25-0000.csv")
    assert journal.path.with_name("acct-2026-11-24-0000.csv").read_bytes() == HEADER + b"d,a\r\n"


def test_files_that_others_made_are_left_alone(journal: Journal) -> None:
    journal.path.parent.mkdir()
    for name in ("acct.csv", "acct-2026-11-24-0007.csv", "acct-2026-11-24-x.csv"):
        journal.path.with_name(name).write_text("theirs")
    assert journal.begin(DATE).file.endswith("acct-2026-11-24-0008.csv")
    assert {path.read_text() for path in journal.path.parent.glob("acct*") if "0008" not in path.name} == {"theirs"}


def test_a_full_file_is_followed_by_another(journal: Journal) -> None:
    journal.begin(DATE)
    journal.append(b"x" * 100)
    assert "has reached 111 bytes" in journal.usable()


def test_recovery_cuts_what_the_spool_does_not_know_of(journal: Journal) -> None:
    journal.begin(DATE)
    position = journal.append(b"d,a\r\n")
    journal.append(b"d,b\r\nd,tor")
    successor, reason = again(journal, position)
    assert reason == "" and successor.usable() == "" and Path(position.file).read_bytes() == HEADER + b"d,a\r\n"
    successor.append(b"d,b\r\n")
    assert Path(position.file).read_bytes() == HEADER + b"d,a\r\nd,b\r\n"


def test_recovery_after_other_columns_were_configured(journal: Journal) -> None:
    position = journal.begin(DATE)
    journal.append(b"d,uncounted\r\n")
    successor, reason = again(journal, position, b"type,orig\r\n")
    assert "other columns" in reason and Path(position.file).read_bytes() == HEADER and successor.usable() == "none is open"


def test_recovery_of_a_file_that_is_gone_shrunken_or_another(journal: Journal) -> None:
    position = journal.begin(DATE)
    file = Path(position.file)
    os.truncate(file, 3)
    assert "has shrunk from 11 to 3" in again(journal, position)[1]
    file.rename(file.with_suffix(".old"))
    assert "is gone" in again(journal, position)[1]
    file.write_bytes(HEADER + b"theirs\r\n")
    assert "is not the file" in again(journal, position)[1] and file.read_bytes() == HEADER + b"theirs\r\n"
    file.unlink()
    file.symlink_to(file.with_suffix(".old"))
    with pytest.raises(OSError):
        again(journal, position)


@pytest.mark.parametrize(
    "change, reason", [("unlink", "is gone"), ("replace", "is not the file"), ("extend", "was changed"), ("truncate", "was changed")]
)
def test_a_file_that_another_hand_touches_is_written_no_more(journal: Journal, change: str, reason: str) -> None:
    file = Path(journal.begin(DATE).file)
    if change == "unlink":
        file.unlink()
    elif change == "replace":
        file.with_suffix(".new").write_bytes(HEADER)
        file.with_suffix(".new").rename(file)
    elif change == "extend":
        file.write_bytes(HEADER + b"theirs")
    else:
        os.truncate(file, 0)
    assert reason in journal.usable()


def failing(code: int, calls: list[str], name: str) -> object:
    def fail(*arguments: object) -> int:
        calls.append(name)
        raise OSError(code, os.strerror(code))

    return fail


def test_a_failed_write_leaves_no_trace_and_the_file_in_use(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(journal.begin(DATE).file)
    real = os.pwrite
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:2], offset) if len(data) > 3 else failing(errno.ENOSPC, [], "")())  # type: ignore[operator]
        with pytest.raises(OSError):
            journal.append(b"d,ab\r\n")
    assert file.read_bytes() != HEADER
    journal.withdraw()
    assert file.read_bytes() == HEADER and journal.usable() == ""
    journal.append(b"d,ab\r\n")
    assert file.read_bytes() == HEADER + b"d,ab\r\n"


def test_a_file_that_did_not_sync_is_cut_and_left(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(journal.begin(DATE).file)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing(errno.EIO, [], ""))
        with pytest.raises(OSError):
            journal.append(b"d,a\r\n")
        journal.withdraw()  # cannot even be cut durably
    assert "could not be synced" in journal.usable()
    assert journal.begin(DATE).file != str(file) and file.read_bytes() == HEADER


def test_a_file_whose_making_failed_is_not_left_behind(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(errno.EIO, [], ""))
        with pytest.raises(OSError):
            journal.begin(DATE)
    assert list(journal.path.parent.iterdir()) == [] and journal.usable() == "none is open"


def test_a_position_survives_the_spool() -> None:
    position = Position("/var/log/acct-2026-11-24-0000.csv", 1234, 99)
    assert decode_position(encode_position(position)) == position
