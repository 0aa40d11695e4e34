"""Every test here that asks for `loops` runs on the compiled loops and on their plain twins."""

from __future__ import annotations

import pytest

from engine import _fastpath, _reference, fastpath
from engine.smtp import client, server


@pytest.fixture(params=["compiled", "reference"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _fastpath if request.param == "compiled" else _reference
    for name in ("read_command", "scan_body"):
        monkeypatch.setattr(server, name, getattr(module, name))
    monkeypatch.setattr(client, "scan_reply", module.scan_reply)
    monkeypatch.setattr(fastpath, "parse_path", module.parse_path)
