"""Every lever runs, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import levers


@pytest.mark.parametrize("name", levers.LEVERS)
def test_a_lever_is_measured(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(levers, "ROUNDS", 1)
    assert levers.main([name, "--dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and all(line.startswith(name) and " us wall" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_lever_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        levers.main(["nonsense"])
    assert "there is no nonsense" in capsys.readouterr().err
