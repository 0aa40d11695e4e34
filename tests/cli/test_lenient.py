"""--lenient: whatever reads a configuration reads it alike, so that what check-config allows also starts and stops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.cli import main, running
from engine.config import read
from engine.errors import StartError
from engine.supervisor.configuration import decode
from engine.supervisor.start import Options

TEXT = "log-file /l\ndomain-macro isp a.example,\nb.example\n<domain $isp>\nmax-smtp-out 3\n</domain>\n"


def test_check_config_joins_lines_only_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "config"
    conf.write_text(TEXT)
    assert main(["check-config", "-c", str(conf)]) == os.EX_CONFIG
    assert f"{conf}:2:28: error: domain-macro: the line ends in the middle" in capsys.readouterr().out
    assert main(["check-config", "--lenient", "-c", str(conf)]) == os.EX_OK
    assert f"{conf}:2:28: warning: domain-macro: the line goes on to line 3" in capsys.readouterr().out


def test_start_is_lenient_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Options] = []

    def started(options: Options) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(running, "start", started)
    assert main(["start", "-c", "x", "--lenient"]) == main(["start", "-c", "x"]) == 0
    assert [options.lenient for options in seen] == [True, False]


def test_children_build_what_the_supervisor_read(tmp_path: Path) -> None:
    conf = tmp_path / "config"
    conf.write_text(TEXT)
    config = decode(read(str(conf), lenient=True).encode())
    assert [config.domain(f"{label}.example", "{default}").max_smtp_out for label in "abc"] == [3, 3, 20]
    with pytest.raises(StartError, match="the line ends in the middle"):
        decode(read(str(conf)).encode())


def test_the_others_read_it_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "config"
    conf.write_text(f"spool {tmp_path}/s\n{TEXT}")
    assert main(["status", "-c", str(conf)]) == os.EX_CONFIG
    assert main(["status", "-c", str(conf), "--lenient"]) == os.EX_UNAVAILABLE
    assert "the line ends in the middle" in capsys.readouterr().err
