"""max-memory-usage-percent: what is read of the kernel, and what it does to MAIL."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.reception import reception as module
from engine.reception.memory import used_percent
from tests.reception.test_intake import Gate


def test_share_of_memory(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:        1000 kB\nMemFree:          10 kB\nMemAvailable:     250 kB\nBuffers:     0 kB\n")
    assert used_percent(str(file)) == 75.0
    file.write_text("nonsense\n")
    assert used_percent(str(file)) == 0.0
    assert used_percent(str(tmp_path / "none")) == 0.0
    assert 0.0 < used_percent() < 100.0


def test_mail_is_refused_while_the_machine_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    used = 95.0
    monkeypatch.setattr(module, "used_percent", lambda: used)
    gate.reception.tick()
    gate.reception.tick()
    assert gate.reception.refusal().text.startswith("452 4.3.2 ")  # type: ignore[union-attr]
    used = 89.0
    gate.reception.tick()
    assert gate.reception.refusal() is None
    assert gate.log.kinds() == ["memory", "memory"]
